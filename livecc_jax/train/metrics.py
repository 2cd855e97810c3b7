"""Metrics of a run: throughput and progress of a log line, TensorBoard and Weights & Biases."""

from __future__ import annotations

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

from livecc_jax.data.rows.pipeline import Batch
from livecc_jax.errors import ConfigError
from livecc_jax.model.flops import step_flops
from livecc_jax.model.lora import LORA
from livecc_jax.parallel.peak_rates import peak_flops
from livecc_jax.parallel.processes import is_main_process
from livecc_jax.train.config import Config
from livecc_jax.train.event_file import EventFile
from livecc_jax.train.optimizer import learning_rate_schedule
from livecc_jax.train.start import StartingPoint
from livecc_jax.train.state import split_trainable
from livecc_jax.train.timing import Clock


@dataclass(frozen=True)
class Progress:
    """The metrics of a log line. Rates are over the steps since the previous log line."""

    step: int
    steps: int
    loss: float
    token_loss: float
    grad_norm: float
    learning_rate: float
    tokens: int  # of the step, without padding
    targets: int  # supervised tokens of the step
    tokens_per_second: float
    targets_per_second: float
    density: float  # share of the rows' tokens that is not padding
    mfu: float
    memory_bytes: int  # peak on one device; of the process where devices report none
    waiting: float  # share of the time spent waiting for data
    quarantined: int
    goodput: float  # share of the wall time since the run was started that went into steps that count

    def scalars(self) -> dict[str, float]:
        """Returns every metric by name, for TensorBoard."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in ("step", "steps")}


Report = Callable[[Progress], None]


@dataclass(frozen=True)
class BatchCounts:
    """Counts of a batch of this process.

    Attributes:
        tokens: Tokens without padding.
        capacity: Tokens with padding.
        targets: Supervised tokens.
        flops: Model FLOPs of the step on this batch.
    """

    tokens: int
    capacity: int
    targets: int
    flops: float


class ThroughputMeter:
    """Adds up the counts of batches and turns them into the rates of a log line.

    Args:
        config: The config of the run.
        start: The starting point, for the architecture and which parameters are trainable.
        steps: Number of steps of the run.
        devices: Number of devices of all processes.
        clock: The clock of the run, whose accounts divide the counts.

    Attributes:
        device_peak: Peak FLOP/s of one device.
        peak_source: Where that figure is from.
        waited: Seconds spent waiting for data since the last `read`.
    """

    def __init__(
        self, config: Config, start: StartingPoint, steps: int, devices: int, clock: Clock
    ) -> None:
        self._model, self._steps, self._clock = start.model, steps, clock
        self._schedule = learning_rate_schedule(config.optim, steps)
        _, frozen = split_trainable(start.state["params"], config.compute.frozen)
        self._vision_trainable = not any(path.startswith("vision/blocks") for path in frozen)
        adapters = jax.tree.leaves(start.state["params"].get(LORA, {}))
        self._adapter_params = sum(leaf.size for leaf in adapters)
        self.device_peak, self.peak_source = peak_flops(jax.local_devices()[0], config.compute.dtype)
        self._total_peak = self.device_peak * devices
        self._reset()

    def _reset(self) -> None:
        self._seconds_before = dict(self._clock.seconds)
        self._counts: list[BatchCounts] = []
        self.waited = 0.0

    def count(self, batch: Batch) -> BatchCounts:
        """Returns the counts of a batch. Called while the devices work on it."""
        ids = batch.rows["segment_ids"]
        return BatchCounts(
            int(np.count_nonzero(ids)),
            ids.size,
            int(np.count_nonzero(batch.rows["target_weights"])),
            step_flops(self._model, batch.rows, self._vision_trainable, self._adapter_params),
        )

    def add(self, counts: BatchCounts) -> None:
        """Adds the counts of a batch whose step is done."""
        self._counts.append(counts)

    def read(self, step: int, values: dict[str, float], quarantined: int) -> Progress:
        """Returns the metrics since the last call, and starts anew.

        Args:
            step: The last step that is done.
            values: Metrics of that step.
            quarantined: Number of entries of the quarantine list.
        """
        accounts = {k: v - self._seconds_before[k] for k, v in self._clock.seconds.items()}
        seconds = max(sum(accounts.values()), 1e-9)
        processes = jax.process_count()  # every process builds equally many rows
        tokens = sum(c.tokens for c in self._counts)
        capacity = sum(c.capacity for c in self._counts)
        progress = Progress(
            step=step,
            steps=self._steps,
            loss=values["loss"],
            token_loss=values["token_loss"],
            grad_norm=values["grad_norm"],
            learning_rate=float(self._schedule(step - 1)),
            tokens=int(values["tokens"]),
            targets=int(values["targets"]),
            tokens_per_second=tokens * processes / seconds,
            targets_per_second=sum(c.targets for c in self._counts) * processes / seconds,
            density=tokens / max(capacity, 1),
            mfu=sum(c.flops for c in self._counts) * processes / seconds / self._total_peak,
            memory_bytes=_peak_memory(),
            waiting=min(1.0, self.waited / seconds),
            quarantined=quarantined,
            goodput=self._clock.goodput(),
        )
        self._reset()
        return progress


class Dashboard:
    """Writes metrics to TensorBoard and, if configured, to Weights & Biases; in the main process only.

    Args:
        directory: Directory for the TensorBoard files.
        project: Project of Weights & Biases; "" for none. A resumed run continues the run of its name.
        name: Name of the run there.
        settings: The flat config, shown with the run there.

    Raises:
        ConfigError: A project is named, and wandb is missing or refuses it.
        OutputError: The TensorBoard file cannot be written.
    """

    def __init__(
        self,
        directory: Path,
        project: str = "",
        name: str = "",
        settings: dict[str, Any] | None = None,
    ) -> None:
        use_wandb = project and is_main_process()
        self._wandb = _start_wandb(project, name, settings or {}) if use_wandb else None
        self._events = EventFile(directory) if is_main_process() else None

    def __enter__(self) -> Dashboard:
        """Returns the dashboard; leaving the context closes its file."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the files."""
        if self._events is not None:
            self._events.close()
        if self._wandb is not None:
            self._wandb.finish(exit_code=0 if kind is None else 1)

    def add(self, values: dict[str, float], step: int, prefix: str = "") -> None:
        """Writes scalars of a step under prefixed names; values that are not finite are left out.

        Raises OutputError when the TensorBoard file cannot be written.
        """
        finite = {prefix + name: value for name, value in values.items() if math.isfinite(value)}
        if self._events is not None:
            self._events.add_scalars(finite, step)
        if self._wandb is not None:
            self._wandb.log(finite, step=step)


def _start_wandb(project: str, name: str, settings: dict[str, Any]) -> Any:
    """Starts or resumes a run of Weights & Biases. Raises ConfigError when that is not possible."""
    try:
        import wandb
    except ImportError as error:
        raise ConfigError(
            f"wandb {project!r} needs Weights & Biases, which is missing: pip install wandb"
        ) from error
    run_id = re.sub(r"[^\w-]+", "-", name)[-64:]
    try:
        return wandb.init(project=project, name=name, id=run_id, resume="allow", config=settings)
    except Exception as error:  # many types: no login, no network, a bad name
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(f"wandb {project!r} cannot be written to: {reason}") from error


def _peak_memory() -> int:
    """Returns the peak memory of one device in bytes; of the process where devices report none."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
