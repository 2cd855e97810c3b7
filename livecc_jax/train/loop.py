"""A training run from its config: rows in, checkpoints out, the same again when repeated."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tensorboardX import SummaryWriter

from livecc_jax.checkpoints.run import RunDirectory
from livecc_jax.data.pipeline import Batch, RowSource, batches, steps_in
from livecc_jax.data.quarantine import Quarantine
from livecc_jax.errors import ConfigError, DataError
from livecc_jax.parallel.batch import check_rows, place_batch
from livecc_jax.parallel.mesh import make_mesh
from livecc_jax.train.config import Config, check_resume, flatten
from livecc_jax.train.flops import step_flops
from livecc_jax.train.optimizer import learning_rate, make_optimizer
from livecc_jax.train.peak import peak_flops
from livecc_jax.train.start import Start, begin, check_config, resume
from livecc_jax.train.state import split
from livecc_jax.train.step import make_step

log = logging.getLogger(__name__)

SOME_BAD = 20  # so many bad examples never end a run


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
    density: float  # share of the rows' tokens that is not padding
    mfu: float
    memory_bytes: int  # peak on one device; of the process where devices do not say
    waiting: float  # share of the time spent waiting for data
    quarantined: int

    def scalars(self) -> dict[str, float]:
        """Every number by name, for TensorBoard."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in ("step", "steps")}


Report = Callable[[Progress], None]


def train(config: Config, report: Report | None = None) -> Path:
    """Run training to its end, from the start or from the run's newest checkpoint.

    Args:
        config: the experiment.
        report: called with the figures of every `log_every`-th step and the last.

    Returns:
        The run directory.

    Raises:
        ConfigError: the config cannot work, or contradicts the run it resumes.
        CheckpointError, DataError, TokenizerError: something it names cannot be used.
    """
    check_config(config)
    run = RunDirectory(config.run, keep=config.checkpoint.keep)
    with contextlib.closing(run), SummaryWriter(str(run.path / "tensorboard")) as board:
        return _train(config, run, board, report)


def _train(config: Config, run: RunDirectory, board: SummaryWriter, report: Report | None) -> Path:
    mesh = make_mesh(config.mesh)
    check_rows(
        mesh,
        config.data.rows_per_step // config.optim.accumulate,
        config.data.tokens,
        config.data.windows,
    )
    latest = run.latest_step()
    quarantine = Quarantine.load(config.data.quarantine) if config.data.quarantine else Quarantine()
    saved = run.restore_meta(latest) if latest is not None else {}
    if saved:
        for change in check_resume(saved["config"], config, config.run):
            log.warning("%s: resuming with a changed config: %s", config.run, change)
        quarantine = Quarantine.from_json(saved["quarantine"], f"{config.run} step {latest}")

    data = config.data
    source = RowSource(
        data.index,
        tokenizer_path=str(run.path) if saved else (config.init or config.tokenizer),
        tokens=data.tokens,
        windows=data.windows,
        targets=data.targets,
        positions=config.positions,
        weighting=data.weighting,
        seed=config.seed,
        epochs=data.epochs,
        quarantined=quarantine.examples,
    )
    digest = source.opened.digest
    if saved and saved["index"] != digest:
        raise ConfigError(
            f"{config.run}: this run cannot resume with another index; {data.index} has changed since"
        )
    index = source.opened
    quarantine.check(index.where, len(index), data.quarantine or config.run)
    most_bad = max(SOME_BAD, config.data.max_quarantined * len(index))
    steps = steps_in(source, data.rows_per_step)
    steps = min(steps, config.max_steps) if config.max_steps else steps
    optimizer = make_optimizer(config.optim, steps)
    started: Start
    if saved:
        started = resume(config, run, latest, optimizer, mesh)
    else:
        started = begin(config, run, source, optimizer, mesh)
    first = latest or 0

    def save(step: int, state: dict[str, Any]) -> None:
        meta = {
            "step": step,
            "rows": step * data.rows_per_step,
            "config": flatten(config),
            "index": digest,
            "quarantine": quarantine.to_json(),
        }
        run.save(step, state["params"], state["opt_state"], meta)

    stream = batches(
        source,
        first_step=first,
        steps=steps,
        rows_per_step=data.rows_per_step,
        accumulate=config.optim.accumulate,
        process=jax.process_index(),
        processes=jax.process_count(),
        workers=data.workers,
    )
    meter = _Meter(config, started, steps, quarantine)
    state = started.state
    with jax.set_mesh(mesh):
        step_fn = jax.jit(make_step(started.model, config.compute, optimizer), donate_argnums=0)
        for step, batch in _timed(stream, first, meter):
            for entry in batch.failed:
                if quarantine.add(entry):
                    log.warning("left out and quarantined: %s line %d: %s",
                                entry.annotations, entry.line, entry.reason)  # fmt: skip
                    quarantine.save(run.path / "quarantine.jsonl")
            if len(quarantine) > most_bad:
                raise DataError(
                    f"{run.path / 'quarantine.jsonl'}: {len(quarantine)} of {len(index)} examples "
                    f"cannot be used; the last: {quarantine.entries[-1].reason}"
                )
            state, metrics = step_fn(state, place_batch(mesh, batch.rows, config.optim.accumulate))
            meter.add(batch)
            if step % config.log_every == 0 or step == steps:
                progress = meter.read(step, metrics)
                for name, value in progress.scalars().items():
                    board.add_scalar(name, value, step)
                if report:
                    report(progress)
            if step == steps or (config.checkpoint.every and step % config.checkpoint.every == 0):
                save(step, state)
    quarantine.save(run.path / "quarantine.jsonl")
    run.wait()
    return run.path


def _timed(stream: Iterator[Batch], first: int, meter: _Meter) -> Iterator[tuple[int, Batch]]:
    """Number the steps from 1, and tell the meter how long each batch was waited for."""
    step = first
    while True:
        began = time.perf_counter()
        batch = next(stream, None)
        if batch is None:
            return
        meter.waited += time.perf_counter() - began
        step += 1
        yield step, batch


class _Meter:
    """Adds up what the figures of a log line need."""

    def __init__(self, config: Config, started: Start, steps: int, quarantine: Quarantine) -> None:
        self._config, self._model, self._steps = config, started.model, steps
        self._quarantine = quarantine
        self._schedule = learning_rate(config.optim, steps)
        _, frozen = split(started.state["params"], config.compute.freeze)
        self._vision_learns = not any(path.startswith("vision/blocks") for path in frozen)
        rate, where = peak_flops(jax.devices()[0], config.compute.dtype)
        self._peak = rate * jax.device_count()
        log.info("MFU is against %.3g FLOP/s a device (%s)", rate, where)
        self.waited = 0.0
        self._restart()

    def _restart(self) -> None:
        self._began = time.perf_counter()
        self._tokens = self._places = self._flops = 0
        self.waited = 0.0

    def add(self, batch: Batch) -> None:
        """Count a batch of this process."""
        ids = batch.rows["segment_ids"]
        self._tokens += int(np.count_nonzero(ids))
        self._places += ids.size
        self._flops += step_flops(self._model, batch.rows, self._vision_learns)

    def read(self, step: int, metrics: dict[str, jax.Array]) -> Progress:
        """The figures since the last reading; waits for the step to be done."""
        values = {k: np.asarray(v).item() for k, v in jax.device_get(metrics).items()}
        if not math.isfinite(values["loss"]):
            log.warning("step %d: the loss is %s", step, values["loss"])
        seconds = time.perf_counter() - self._began
        everywhere = jax.process_count()  # every process builds as many rows
        progress = Progress(
            step=step,
            steps=self._steps,
            loss=values["loss"],
            token_loss=values["token_loss"],
            grad_norm=values["grad_norm"],
            learning_rate=float(self._schedule(step - 1)),
            tokens=values["tokens"],
            targets=values["targets"],
            tokens_per_second=self._tokens * everywhere / seconds,
            density=self._tokens / self._places,
            mfu=self._flops * everywhere / seconds / self._peak,
            memory_bytes=_peak_memory(),
            waiting=self.waited / seconds,
            quarantined=len(self._quarantine),
        )
        self._restart()
        return progress


def _peak_memory() -> int:
    """Most bytes in use so far on one device; of the whole process where devices keep no count."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
