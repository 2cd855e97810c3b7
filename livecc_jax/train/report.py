"""What is told of a run: the figures of a log line, and TensorBoard."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
from tensorboardX import SummaryWriter

from livecc_jax.data.rows.pipeline import Batch
from livecc_jax.errors import ConfigError
from livecc_jax.model.flops import step_flops
from livecc_jax.model.lora import LORA
from livecc_jax.parallel.peak_rates import peak_flops
from livecc_jax.parallel.processes import is_first
from livecc_jax.train.clock import Clock
from livecc_jax.train.config import Config
from livecc_jax.train.optimizer import learning_rate
from livecc_jax.train.start import Start
from livecc_jax.train.state import split


@dataclass(frozen=True)
class Progress:
    """What a log line says; rates are over the steps since the last one."""

    step: int
    steps: int
    loss: float
    token_loss: float
    grad_norm: float
    learning_rate: float
    tokens: int  # real tokens of the step
    targets: int  # supervised tokens of the step
    tokens_per_second: float
    targets_per_second: float
    density: float  # share of the rows' tokens that is not padding
    mfu: float
    memory_bytes: int  # peak on one device; of the process where devices do not say
    waiting: float  # share of the time spent waiting for data
    quarantined: int
    goodput: float  # share of all wall time since the run began that went into steps that count

    def scalars(self) -> dict[str, float]:
        """Every number by name, for TensorBoard."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in ("step", "steps")}


Report = Callable[[Progress], None]


@dataclass(frozen=True)
class Counts:
    """What a batch of this process holds."""

    tokens: int
    places: int
    targets: int
    flops: float


class Meter:
    """Adds up what the figures of a log line need."""

    def __init__(self, config: Config, started: Start, steps: int, devices: int, clock: Clock) -> None:
        self._model, self._steps, self._clock = started.model, steps, clock
        self._schedule = learning_rate(config.optim, steps)
        _, frozen = split(started.state["params"], config.compute.frozen)
        self._vision_learns = not any(path.startswith("vision/blocks") for path in frozen)
        adapters = jax.tree.leaves(started.state["params"].get(LORA, {}))
        self._adapters = sum(leaf.size for leaf in adapters)
        rate, self.peak_from = peak_flops(jax.local_devices()[0], config.compute.dtype)
        self.peak = rate
        self._all_peak = rate * devices
        self._restart()

    def _restart(self) -> None:
        self._began = dict(self._clock.seconds)
        self._counts: list[Counts] = []
        self.waited = 0.0

    def count(self, batch: Batch) -> Counts:
        """What a batch holds; counted while the devices work on it."""
        ids = batch.rows["segment_ids"]
        return Counts(
            int(np.count_nonzero(ids)),
            ids.size,
            int(np.count_nonzero(batch.rows["target_weights"])),
            step_flops(self._model, batch.rows, self._vision_learns, self._adapters),
        )

    def add(self, counts: Counts) -> None:
        """A batch whose step is done."""
        self._counts.append(counts)

    def read(self, step: int, values: dict[str, float], quarantined: int) -> Progress:
        """The figures since the last reading, up to a step that is done."""
        passed = {k: v - self._began[k] for k, v in self._clock.seconds.items()}
        seconds = max(sum(passed.values()), 1e-9)
        everywhere = jax.process_count()  # every process builds as many rows
        tokens, places = sum(c.tokens for c in self._counts), sum(c.places for c in self._counts)
        progress = Progress(
            step=step,
            steps=self._steps,
            loss=values["loss"],
            token_loss=values["token_loss"],
            grad_norm=values["grad_norm"],
            learning_rate=float(self._schedule(step - 1)),
            tokens=int(values["tokens"]),
            targets=int(values["targets"]),
            tokens_per_second=tokens * everywhere / seconds,
            targets_per_second=sum(c.targets for c in self._counts) * everywhere / seconds,
            density=tokens / max(places, 1),
            mfu=sum(c.flops for c in self._counts) * everywhere / seconds / self._all_peak,
            memory_bytes=_peak_memory(),
            waiting=min(1.0, self.waited / seconds),
            quarantined=quarantined,
            goodput=self._clock.goodput(),
        )
        self._restart()
        return progress


class Board:
    """TensorBoard's files, and Weights & Biases if asked for; written by the first process alone.

    Args:
        directory: for TensorBoard's files.
        project: of Weights & Biases; "": none. A run that resumes goes on with the run of its name.
        name: of the run there.
        settings: what is shown of the run there: the flat config.

    Raises ConfigError when a project is named and wandb is missing or refuses.
    """

    def __init__(
        self,
        directory: Path,
        project: str = "",
        name: str = "",
        settings: dict[str, Any] | None = None,
    ) -> None:
        self._wandb = _begin_wandb(project, name, settings or {}) if project and is_first() else None
        self._writer = SummaryWriter(str(directory)) if is_first() else None

    def __enter__(self) -> Board:
        """The board; leaving closes its file."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close. A full disk has been told of already, by what ended the run."""
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()
        if self._wandb is not None:
            self._wandb.finish(exit_code=0 if kind is None else 1)

    def add(self, values: dict[str, float], step: int, prefix: str = "") -> None:
        """Scalars of a step; what is no number is left out."""
        finite = {prefix + name: value for name, value in values.items() if math.isfinite(value)}
        if self._writer is not None:
            for name, value in finite.items():
                self._writer.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(finite, step=step)


def _begin_wandb(project: str, name: str, settings: dict[str, Any]) -> Any:
    """A run of Weights & Biases, where it and its credentials are."""
    try:
        import wandb
    except ImportError as error:
        raise ConfigError(
            f"wandb {project!r} needs Weights & Biases, which is missing: pip install wandb"
        ) from error
    run_id = re.sub(r"[^\w-]+", "-", name)[-64:]
    try:
        return wandb.init(project=project, name=name, id=run_id, resume="allow", config=settings)
    except Exception as error:  # of many kinds: no login, no network, a bad name
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(f"wandb {project!r} cannot be written to: {reason}") from error


def _peak_memory() -> int:
    """Most bytes in use so far on one device; of the whole process where devices keep no count."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
