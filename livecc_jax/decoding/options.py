"""User-facing options of a stream, and the arrays of sampling parameters made from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from livecc_jax.decoding.generate import SamplingParams
from livecc_jax.decoding.sampling import NO_SILENCE_CONTROL
from livecc_jax.errors import ConfigError
from livecc_jax.timeline.position_modes import POSITION_MODES


@dataclass(frozen=True)
class StreamOptions:
    """How a session decodes. The defaults are those of the released demo, but greedy.

    Raises ConfigError for a value out of range.
    """

    positions: str = "mrope"
    max_new_tokens: int = 16
    repetition_penalty: float = 1.05
    temperature: float = 0.0
    silence_base: float | None = None  # ban ` ...` while its probability <= base + step * n
    silence_step: float = 0.0
    context: int = 32768  # maximum number of tokens that a session may hold
    reserve: int = 2048  # tokens that a cache grows by; each growth compiles the step again
    seed: int = 0

    def __post_init__(self) -> None:
        if self.positions not in POSITION_MODES:
            raise ConfigError(f"positions {self.positions!r} is not one of {', '.join(POSITION_MODES)}")
        if self.max_new_tokens < 1:
            raise ConfigError(f"max-new-tokens must be at least 1, not {self.max_new_tokens}")
        if self.reserve < 1:
            raise ConfigError(f"reserve must be at least 1 token, not {self.reserve}")
        # The comparisons are written so that NaN fails too.
        if not 0 < self.repetition_penalty < math.inf:
            raise ConfigError(f"repetition-penalty must be positive, not {self.repetition_penalty}")
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(f"temperature must not be negative, not {self.temperature}")
        if self.silence_base is not None and not 0 <= self.silence_base <= 1:
            raise ConfigError(f"silence-base must be a probability, not {self.silence_base}")
        if not math.isfinite(self.silence_step):
            raise ConfigError(f"silence-step must be a number, not {self.silence_step}")


def stack_sampling_params(
    options: Sequence[StreamOptions], turn_numbers: Sequence[int]
) -> SamplingParams:
    """Builds the sampling parameters of a batch.

    Args:
        options: One entry a sequence of the batch.
        turn_numbers: Number of each sequence's turn in its conversation; questions count from
            `generate.FIRST_QUESTION_NUMBER`.
    """

    def stack(value: Callable[[StreamOptions], float]) -> np.ndarray:
        return np.array([value(o) for o in options], np.float32)

    return SamplingParams(
        temperature=stack(lambda o: o.temperature),
        repetition_penalty=stack(lambda o: o.repetition_penalty),
        silence_base=stack(lambda o: NO_SILENCE_CONTROL if o.silence_base is None else o.silence_base),
        silence_step=stack(lambda o: o.silence_step),
        seeds=np.array([(o.seed % 2**32, n) for o, n in zip(options, turn_numbers)], np.uint32),
    )
