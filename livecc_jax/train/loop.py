"""The training loop: runs a training run from its config, so that a repeated run is the same again."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from livecc_jax.checkpoints.run import RunDirectory
from livecc_jax.data.rows.pipeline import Batch, RowSource, batches, count_steps
from livecc_jax.data.rows.quarantine import Quarantine
from livecc_jax.data.rows.shared_quarantine import SharedQuarantine
from livecc_jax.errors import CheckpointError, ConfigError, OutputError
from livecc_jax.model.config import ModelConfig
from livecc_jax.parallel.batch import check_batch_divides, shard_batch
from livecc_jax.parallel.mesh import make_mesh
from livecc_jax.train.config import Config, flatten
from livecc_jax.train.guard import guard_step, init_guard_state
from livecc_jax.train.held_out import HeldOutLoss
from livecc_jax.train.hooks import Evaluator, Hook, HookList, LoopState
from livecc_jax.train.metrics import Dashboard, Report, ThroughputMeter
from livecc_jax.train.operations import (
    CheckpointHook,
    ClockHook,
    EvaluationHook,
    GuardHook,
    QuarantineHook,
    ReportHook,
    StopSignalHook,
    SyncHook,
    ThroughputHook,
    TraceHook,
    WatchdogHook,
)
from livecc_jax.train.optimizer import make_optimizer
from livecc_jax.train.preemption import StopSignal
from livecc_jax.train.run_folder import RunFolderHook, describe_newest
from livecc_jax.train.run_lock import RunLock, locked_run
from livecc_jax.train.start import StartingPoint, check_rows_fit, initial_model, resume_run, start_run
from livecc_jax.train.step import compiler_options, jit_step, make_step
from livecc_jax.train.timing import Clock, ProfilerTrace
from livecc_jax.train.watchdog import Watchdog

log = logging.getLogger(__name__)

# Builds the evaluators of a run, by the prefix of the names of their metrics.
EvaluatorFactory = Callable[[Config, ModelConfig, RowSource, Mesh], dict[str, Evaluator]]


def train(
    config: Config,
    report: Report | None = None,
    make_evaluators: EvaluatorFactory | None = None,
    hooks: Sequence[Hook] = (),
) -> Path:
    """Trains to the end, from the start or from the newest checkpoint of the run.

    Every process of a run calls this, after `parallel.processes.initialize_processes`.

    Args:
        config: The config of the run.
        report: Function that is called with the metrics of every `log_every`-th step and the last.
        make_evaluators: Builds what `evaluate.choice` and `evaluate.commentary` ask for
            (`livecc_jax.evaluate.in_training.make_evaluators`).
        hooks: More hooks, called after those of the loop.

    Returns:
        The run directory.

    Raises:
        ConfigError: The config cannot work, or contradicts the run that it resumes.
        CheckpointError, DataError, TokenizerError: A file that the config names cannot be used.
        Diverged: A step was harmful and the policy is to stop.
        Preempted: The run received SIGTERM and has saved.
        OutputError: The disk is full, or a file of the run cannot be written for another reason.
    """
    clock = Clock()
    config.check()
    if (config.evaluate.choice or config.evaluate.commentary) and not make_evaluators:
        raise ConfigError(
            "evaluate.choice and evaluate.commentary need `make_evaluators`, as livecc train has it"
        )
    with ExitStack() as stack:
        stop_signal = stack.enter_context(StopSignal())
        settings = config.checkpoint
        directory = RunDirectory(config.run, keep=settings.keep, keep_every=settings.keep_every)
        stack.enter_context(closing(directory))
        path = directory.path
        lock = stack.enter_context(locked_run(path))
        dashboard = Dashboard(path / "tensorboard", config.wandb, path.name, flatten(config))
        stack.enter_context(dashboard)
        watchdog = Watchdog(
            path / "hosts",
            jax.process_index(),
            jax.process_count(),
            config.watch.late,
            config.watch.give_up,
        )
        stack.enter_context(watchdog)
        training = Training(config, directory, clock)
        trace = ProfilerTrace(config.profile, training.loop.step + 1, path / "profile")
        stack.callback(trace.close)
        evaluators = training.make_evaluators(make_evaluators)
        training.add_hooks(trace, watchdog, stop_signal, dashboard, report, evaluators, lock, hooks)
        try:
            training.run()
        except OutputError as error:
            with contextlib.suppress(CheckpointError):
                directory.wait()
            raise OutputError(f"{error}; {describe_newest(directory)}") from error
        return path


class Training:
    """The parts of a run, built from its config, and the loop over its steps.

    Args:
        config: The config of the run.
        directory: The run directory.
        clock: The clock of a new run; a resumed run continues that of its checkpoint.
    """

    def __init__(self, config: Config, directory: RunDirectory, clock: Clock) -> None:
        self.config, self.directory = config, directory
        self.mesh = make_mesh(config.mesh)
        check_batch_divides(self.mesh, config.data.rows_per_step // config.optim.accumulate)
        resumed = resume_run(config, directory, self.mesh)
        self.clock = Clock(resumed.meta.get("clock")) if resumed else clock
        self.source, self.quarantine = _open_rows(config, directory, resumed)
        steps = count_steps(self.source, config.data.rows_per_step)
        steps = min(steps, config.max_steps) if config.max_steps else steps
        optimizer = make_optimizer(config.optim, steps)
        start = resumed or start_run(config, directory, self.source, optimizer, self.mesh)
        guard = init_guard_state(config.guard, self.mesh, start.meta.get("guard"))
        self.loop = LoopState(start.state | {"guard": guard}, start.step, steps)
        self.model, self.optimizer = start.model, optimizer
        self.meter = ThroughputMeter(config, start, steps, self.mesh.size, self.clock)
        log.info(
            "MFU is relative to %.3g FLOP/s of a device (%s)",
            self.meter.device_peak, self.meter.peak_source,
        )  # fmt: skip
        self.hooks = HookList(())

    def make_evaluators(self, factory: EvaluatorFactory | None) -> dict[str, Evaluator]:
        """Builds the evaluators of the run, by the prefix of the names of their metrics."""
        evaluators: dict[str, Evaluator] = {}
        if self.config.evaluate.index:
            path = self.source.tokenizer_path
            held_out = HeldOutLoss(self.config, self.model, path, self.mesh)
            evaluators["held_out/"] = held_out.evaluate
        if factory:
            evaluators |= factory(self.config, self.model, self.source, self.mesh)
        return evaluators

    def add_hooks(
        self,
        trace: ProfilerTrace,
        watchdog: Watchdog,
        stop_signal: StopSignal,
        dashboard: Dashboard,
        report: Report | None,
        evaluators: dict[str, Evaluator],
        lock: RunLock | None,
        more: Sequence[Hook],
    ) -> None:
        """Builds the hooks of the loop. Their order is the order of effects at every point."""
        config, directory, loop = self.config, self.directory, self.loop
        clock, meter, quarantine = self.clock, self.meter, self.quarantine
        digest = self.source.mixture.digest
        checkpoints = CheckpointHook(config, directory, digest, quarantine, clock, watchdog, lock, loop)
        self.hooks = HookList((
            ClockHook(clock, meter, loop),
            WatchdogHook(watchdog),
            TraceHook(trace),
            ThroughputHook(meter),
            GuardHook(config, directory, self.source, checkpoints, loop),
            RunFolderHook(config.log_every, directory, lock),
            ReportHook(config.log_every, meter, quarantine, dashboard, report, clock, loop),
            StopSignalHook(stop_signal, loop),
            QuarantineHook(quarantine, config.log_every),
            SyncHook(config, directory, self.read_metrics, loop),
            EvaluationHook(config, evaluators, dashboard, stop_signal, clock, watchdog, loop),
            checkpoints,
            *more,
        ))  # fmt: skip

    def run(self) -> None:
        """Runs all remaining steps. Raises what `train` raises."""
        loop, hooks, accumulate = self.loop, self.hooks, self.config.optim.accumulate
        step_fn = self._jit_step()
        with jax.set_mesh(self.mesh), closing(self._batches()) as stream:
            for step in range(loop.step + 1, loop.steps + 1):
                hooks.before_batch(step)
                batch = next(stream)
                hooks.after_batch(step, batch)
                hooks.before_step(step)
                rows = shard_batch(self.mesh, batch.rows, accumulate)
                loop.state, metrics = step_fn(loop.state, rows)
                loop.step = step
                hooks.after_dispatch(step, batch)
                self.read_metrics()  # of the step before, while the devices work on this one
                loop.pending = step, metrics
                hooks.after_step(step)
        hooks.after_run()

    def read_metrics(self) -> None:
        """Waits for the step whose metrics are pending, and passes them to the hooks."""
        if self.loop.pending is None:
            return
        step, metrics = self.loop.pending
        self.loop.pending = None
        values = {k: np.asarray(v).item() for k, v in jax.device_get(metrics).items()}
        self.hooks.after_metrics(step, values)

    def _jit_step(self) -> Any:
        compute = self.config.compute
        step = guard_step(make_step(self.model, compute, self.optimizer), self.config.guard)
        options = compiler_options(compute, self.mesh.devices.flat[0].platform)
        return jit_step(step, self.loop.state, options)

    def _batches(self) -> Generator[Batch, None, None]:
        data = self.config.data
        return batches(
            self.source,
            first_step=self.loop.step,
            steps=self.loop.steps,
            rows_per_step=data.rows_per_step,
            accumulate=self.config.optim.accumulate,
            process=jax.process_index(),
            processes=jax.process_count(),
            workers=data.workers,
        )


def _open_rows(
    config: Config, directory: RunDirectory, resumed: StartingPoint | None
) -> tuple[RowSource, SharedQuarantine]:
    """Opens the packed rows of a run and its quarantine list.

    Raises ConfigError when a resumed run would read another index.
    """
    data = config.data
    quarantine = Quarantine.load(data.quarantine) if data.quarantine else Quarantine()
    if resumed:
        where = f"{config.run} step {resumed.step}"
        quarantine = Quarantine.from_json(resumed.meta["quarantine"], where)
    model = resumed.model if resumed else initial_model(config)
    source = RowSource(
        data.index,
        tokenizer_path=str(directory.path) if resumed else (config.init or config.tokenizer),
        tokens=data.tokens,
        windows=data.windows,
        targets=data.targets,
        positions=config.positions,
        weighting=data.weighting,
        seed=config.seed,
        epochs=data.epochs,
        quarantined=quarantine.excluded,
        root=data.root,
        cache=data.cache,
        cache_gb=data.cache_gb,
        media_root=data.media_root,
        allow_hosts=data.allow_hosts,
        pair_positions=model.vision.pair_positions,
    )
    check_rows_fit(model, source, config.positions)
    index = source.mixture
    if resumed and resumed.meta["index"] != index.digest:
        raise ConfigError(
            f"{config.run}: this run cannot resume with another index; {data.index} has changed since"
        )
    quarantine.check(index.location, len(index), data.quarantine or config.run)
    examples = len(source.packing.members) / max(1, len(source.packing))
    log.info(
        "%.2f examples in a row, %.0f in a step (data.rows_per_step = %d)",
        examples, examples * data.rows_per_step, data.rows_per_step,
    )  # fmt: skip
    return source, SharedQuarantine(quarantine, index, directory.path, data.max_quarantined)
