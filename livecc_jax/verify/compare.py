"""Compares two models, or one and transformers' model of it: configs, weights, then every layer."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from livecc_jax.checkpoints.open import Checkpoint, open_checkpoint
from livecc_jax.checkpoints.weight_source import CheckpointWeights
from livecc_jax.data.inspect.conversation_row import (
    ConversationRow,
    clip_turn_frames,
    conversation_row,
    noise_turn_frames,
)
from livecc_jax.errors import CheckpointError, ConfigError, TokenizerError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.model.vision import normalize
from livecc_jax.text.tokenizer import Tokenizer
from livecc_jax.timeline.positions import check_positions
from livecc_jax.verify.configs import ConfigDifference, compare_configs
from livecc_jax.verify.difference import STATISTIC, TOLERANCES, Difference
from livecc_jax.verify.layers import trace_layers
from livecc_jax.verify.tensors import TensorReport, compare_tensors
from livecc_jax.verify.traces import TraceReport, compare_traces
from livecc_jax.verify.transformers import TransformersModel, hf_directory, import_optional

Trace = Iterable[tuple[str, np.ndarray]]


@dataclass(frozen=True)
class Criterion:
    """When two values count as equal.

    Attributes:
        tolerance: Largest difference, in units of the values' standard deviation.
        statistic: What is compared with it: a layer's "max" or "mean" difference.
    """

    tolerance: float
    statistic: str

    @staticmethod
    def of(dtype: str, tolerance: float | None = None) -> Criterion:
        """Returns the criterion of a dtype. Raises ConfigError for a tolerance that is none."""
        if dtype not in TOLERANCES:
            raise ConfigError(f"dtype {dtype!r} is not one of {', '.join(TOLERANCES)}")
        tolerance = TOLERANCES[dtype] if tolerance is None else tolerance
        if not (math.isfinite(tolerance) and tolerance >= 0):
            raise ConfigError(f"--tolerance must be a finite number of at least 0, not {tolerance}")
        return Criterion(tolerance, STATISTIC[dtype])


@dataclass(frozen=True)
class Verification:
    """What `verify_models` found.

    Attributes:
        a: The first model: its path and layout.
        b: The second model, or the version of transformers.
        checksums: By "A" and "B", how many files of a training step are as they were written; None
            where an earlier version has left no checksums.
        configs: Fields of the configs that differ.
        tensors: The weights, tensor by tensor.
        layers: The activations, layer by layer, and the logits; None if the architectures differ.
        criterion: When values count as equal.
    """

    a: str
    b: str
    checksums: dict[str, int | None]
    configs: tuple[ConfigDifference, ...]
    tensors: TensorReport
    layers: TraceReport | None
    criterion: Criterion

    @property
    def weights_differ(self) -> bool:
        """Whether configs or weights differ by more than the tolerance."""
        return (
            any(not difference.harmless for difference in self.configs)
            or bool(self.tensors.mismatched)
            or not all(d.within(self.criterion.tolerance) for d in self.tensors.differences)
        )

    @property
    def first_difference(self) -> Difference | None:
        """The first layer, or the logits, that differs by more than the tolerance."""
        if self.layers is None:
            return None
        return self.layers.first_beyond(self.criterion.tolerance, self.criterion.statistic)

    @property
    def equal(self) -> bool:
        """Whether both compute the same within the tolerance."""
        return not self.weights_differ and self.layers is not None and self.first_difference is None


@dataclass
class Comparison:
    """Two opened models and the conversation that both run on; `open_comparison` makes it.

    Attributes:
        a: The first model.
        b: The second model; None stands for transformers' model of the first.
        theirs: Transformers' model; None when `b` is given.
        probe: The conversation.
        tokenizer: The tokenizer that it was encoded with.
        positions: Its rotary position mode.
        dtype: Dtype in which the layers are computed.
        criterion: When values count as equal.
    """

    a: Checkpoint
    b: Checkpoint | None
    theirs: TransformersModel | None
    probe: ConversationRow
    tokenizer: Tokenizer
    positions: str
    dtype: str
    criterion: Criterion

    @property
    def labels(self) -> tuple[str, str]:
        """Names of both models for people."""
        b = f"transformers {self.theirs.version}" if self.theirs else f"{self.b.path} ({self.b.kind})"
        return f"{self.a.path} ({self.a.kind})", b

    def checksums(self) -> dict[str, int | None]:
        """Compares the files of training steps with their checksums.

        Returns:
            As `Verification.checksums`.

        Raises:
            CheckpointError: A file is damaged.
        """
        named = {"A": self.a, "B": self.b}
        return {n: c.check_files() for n, c in named.items() if c is not None and c.kind != "hf"}

    def configs(self) -> tuple[ConfigDifference, ...]:
        """Compares the configs; with transformers, which reads the same config, there is nothing to."""
        return tuple(compare_configs(self.a, self.b)) if self.b is not None else ()

    def tensors(self) -> TensorReport:
        """Compares the weights tensor by tensor."""
        if self.theirs is not None:
            return compare_tensors(CheckpointWeights(self.a, jax.numpy.dtype(self.dtype)), self.theirs)
        return compare_tensors(CheckpointWeights(self.a), CheckpointWeights(self.b))

    def layers(self) -> TraceReport:
        """Runs both models on the conversation and compares every layer and the logits."""
        # By default, accelerators compute float32 products in lower precision.
        with jax.default_matmul_precision("highest" if self.dtype == "float32" else "default"):
            theirs = self._transformers_trace() if self.theirs else self._trace(self.b)
            return compare_traces(theirs, self._trace(self.a))

    def _trace(self, checkpoint: Checkpoint) -> Trace:
        params = checkpoint.load_params(jax.numpy.dtype(self.dtype))
        yield from trace_layers(checkpoint.config, params, self.probe.row)

    def _transformers_trace(self) -> Trace:
        row, pixels = self.probe.row, np.array(normalize(self.probe.patches, self.a.config.vision))
        return self.theirs.trace(row["tokens"], row["positions"], pixels, self.probe.grids)


@contextlib.contextmanager
def open_comparison(
    a: str | Path,
    b: str | Path | None = None,
    *,
    clip: str | Path | None = None,
    turns: int = 4,
    positions: str | None = None,
    pixel_budget: str | int | None = None,
    dtype: str = "float32",
    tolerance: float | None = None,
) -> Iterator[Comparison]:
    """Opens what `verify_models` compares, for as long as the `with` block lasts.

    Args, and what it raises, are those of `verify_models`.
    """
    if turns < 1:
        raise ConfigError(f"--turns must be at least 1, not {turns}")
    criterion = Criterion.of(dtype, tolerance)
    first = open_checkpoint(a)
    second = open_checkpoint(b) if b is not None else None
    both = [first] if second is None else [first, second]
    tokenizer = _tokenizer(both)
    positions = positions or first.livecc.positions
    family, vision = first.config.family, first.config.vision
    if second is not None and second.config.family is not family:
        raise ConfigError(
            f"{a} is of the family {family.name}, {b} of {second.config.family.name}: they cannot "
            "compute the same"
        )
    check_positions(positions, family)
    budget = PixelBudget.parse(
        first.livecc.pixel_budget if pixel_budget is None else pixel_budget, vision.patch_size
    )
    frames = clip_turn_frames(str(clip), budget, turns) if clip else noise_turn_frames(budget, turns)
    probe = conversation_row(frames, tokenizer, positions, family, vision.pair_positions)
    _check_vocabulary(probe.row["tokens"], both)
    with contextlib.ExitStack() as stack:
        theirs = None
        if second is None:
            for name in ("torch", "transformers"):
                import_optional(name)  # fail before the export, which takes long
            folder = stack.enter_context(hf_directory(first))
            theirs = TransformersModel(folder, first.config, dtype)
        yield Comparison(first, second, theirs, probe, tokenizer, positions, dtype, criterion)


def verify_models(
    a: str | Path,
    b: str | Path | None = None,
    *,
    clip: str | Path | None = None,
    turns: int = 4,
    positions: str | None = None,
    pixel_budget: str | int | None = None,
    dtype: str = "float32",
    tolerance: float | None = None,
) -> Verification:
    """Checks whether two models compute the same, or one and transformers' model of it.

    It compares the weights tensor by tensor, then the activations of every layer and the logits on a
    streaming conversation.

    Args:
        a: A HuggingFace directory, a run, or a step of a run.
        b: The model to compare it with; None compares with transformers (`pip install
            'livecc_jax[hf]'`).
        clip: A video to run on; None runs on synthetic noise.
        turns: Number of turns of the conversation.
        positions: Rotary position mode; None is that of `a`.
        pixel_budget: Largest number of vision tokens of a frame pair; None is that of `a`.
        dtype: Dtype in which the layers are computed, "float32" or "bfloat16".
        tolerance: Largest difference, in units of the values' standard deviation: of a layer's largest
            difference (None is 1e-4), or with bfloat16 of its mean difference (None is 5e-2).

    Returns:
        What was found; `equal` says in one word whether both compute the same.

    Raises:
        CheckpointError: A model cannot be read.
        ConfigError: An option is out of range, or torch or transformers is not installed.
        MediaError: The clip cannot be read.

    Example:
        >>> livecc_jax.verify_models("runs/mine", "exported").equal
        True
    """
    options: dict[str, Any] = {
        "clip": clip, "turns": turns, "positions": positions, "pixel_budget": pixel_budget,
        "dtype": dtype, "tolerance": tolerance,
    }  # fmt: skip
    with open_comparison(a, b, **options) as comparison:
        checksums, configs = comparison.checksums(), comparison.configs()
        tensors = comparison.tensors()
        found = Verification(
            *comparison.labels, checksums, configs, tensors, None, comparison.criterion
        )
        if tensors.mismatched:
            return found
        return dataclasses.replace(found, layers=comparison.layers())


def _tokenizer(checkpoints: list[Checkpoint]) -> Tokenizer:
    """Opens the first model's tokenizer, or the second one's: a converted copy may lack it."""
    try:
        return checkpoints[0].open_tokenizer()
    except TokenizerError:
        return checkpoints[-1].open_tokenizer()


def _check_vocabulary(tokens: np.ndarray, checkpoints: list[Checkpoint]) -> None:
    """Raises CheckpointError when a model has no embedding of some token."""
    for checkpoint in checkpoints:
        if tokens.max() >= checkpoint.config.text.vocab_size:
            raise CheckpointError(
                f"{checkpoint.root}: its tokenizer has id {tokens.max()}, but its config.json only "
                f"{checkpoint.config.text.vocab_size} tokens"
            )
