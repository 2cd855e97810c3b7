"""The hooks that operate every run: clock, watchdog, trace, metrics, guard, evaluation, checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from livecc_jax.checkpoints.run import RunDirectory
from livecc_jax.data.rows.pipeline import Batch, RowSource
from livecc_jax.data.rows.shared_quarantine import SharedQuarantine
from livecc_jax.errors import CheckpointError
from livecc_jax.parallel.processes import is_main_process
from livecc_jax.train.config import Config, flatten
from livecc_jax.train.guard import (
    VERDICTS,
    Diverged,
    describe_anomaly,
    guard_state_to_json,
    record_anomaly,
)
from livecc_jax.train.hooks import Evaluator, Hook, LoopState
from livecc_jax.train.metrics import BatchCounts, Dashboard, Report, ThroughputMeter
from livecc_jax.train.preemption import Preempted, StopSignal
from livecc_jax.train.run_folder import check_run_folder, describe_newest
from livecc_jax.train.run_lock import RunLock
from livecc_jax.train.timing import Clock, ProfilerTrace
from livecc_jax.train.watchdog import Watchdog

log = logging.getLogger(__name__)


class ClockHook(Hook):
    """Books the time of the loop: work of the devices, and waiting for rows while they are idle."""

    def __init__(self, clock: Clock, meter: ThroughputMeter, loop: LoopState) -> None:
        self._clock, self._meter, self._loop = clock, meter, loop

    def before_batch(self, step: int) -> None:
        self._clock.book_work()

    def after_batch(self, step: int, batch: Batch) -> None:
        # While the devices still work on the step before, waiting for rows costs nothing.
        starved = self._loop.devices_idle() and self._clock.first_step_done
        waited = self._clock.book("data") if starved else self._clock.book_work()
        self._meter.waited += waited

    def after_metrics(self, step: int, metrics: dict[str, float]) -> None:
        self._clock.book_work()
        self._clock.first_step_done = True


class WatchdogHook(Hook):
    """Tells the watchdog which phase of which step this process is in."""

    def __init__(self, watchdog: Watchdog) -> None:
        self._watchdog = watchdog

    def before_batch(self, step: int) -> None:
        self._watchdog.enter_phase(step, "rows")

    def before_step(self, step: int) -> None:
        self._watchdog.enter_phase(step, "step")

    def after_metrics(self, step: int, metrics: dict[str, float]) -> None:
        self._watchdog.progressed()


class TraceHook(Hook):
    """Starts and ends the profiler trace."""

    def __init__(self, trace: ProfilerTrace) -> None:
        self._trace = trace

    def after_batch(self, step: int, batch: Batch) -> None:
        self._trace.step_starts(step)  # before the rows are sharded: their transfer is in the trace

    def after_metrics(self, step: int, metrics: dict[str, float]) -> None:
        self._trace.step_ended(step)


class ThroughputHook(Hook):
    """Counts tokens and FLOPs of every batch, and adds them up once its step is done."""

    def __init__(self, meter: ThroughputMeter) -> None:
        self._meter = meter
        self._counts: dict[int, BatchCounts] = {}  # by step, of steps that are not done

    def after_dispatch(self, step: int, batch: Batch) -> None:
        self._counts[step] = self._meter.count(batch)

    def after_metrics(self, step: int, metrics: dict[str, float]) -> None:
        self._meter.add(self._counts.pop(step))


class CheckpointHook(Hook):
    """Saves checkpoints, and ends the run after one when it was asked to stop."""

    def __init__(
        self,
        config: Config,
        directory: RunDirectory,
        index_digest: str,
        quarantine: SharedQuarantine,
        clock: Clock,
        watchdog: Watchdog,
        lock: RunLock | None,
        loop: LoopState,
    ) -> None:
        self._config, self._directory, self._index_digest = config, directory, index_digest
        self._quarantine, self._clock, self._watchdog = quarantine, clock, watchdog
        self._lock, self._loop = lock, loop
        self.newest = loop.step  # the newest step that is saved or being saved

    def save(self, step: int) -> None:
        """Starts to write a checkpoint of the current state, unless this step has one."""
        if step <= self.newest:
            return
        check_run_folder(self._directory, self._lock)  # or Orbax would make a folder that is no run
        self._quarantine.synchronize()
        self._clock.book_work()
        self._watchdog.enter_phase(step, "save")
        state = self._loop.state
        meta = {
            "step": step,
            "rows": step * self._config.data.rows_per_step,
            "config": flatten(self._config),
            "index": self._index_digest,
            "quarantine": self._quarantine.to_json(),
            "guard": guard_state_to_json(state["guard"]),
            "clock": self._clock.to_json(),
        }
        self._directory.save(step, state["params"], state["opt_state"], meta)
        self.newest = step
        self._watchdog.progressed()
        self._clock.book("save")

    def after_step(self, step: int) -> None:
        if self._loop.saves(self._config, step) or self._loop.stop:
            self.save(step)
        if self._loop.stop and step < self._loop.steps:
            self._watchdog.enter_phase(step, "save")
            self._directory.wait()
            raise Preempted(
                f"{self._directory.path}: received SIGTERM, saved at step {step} of "
                f"{self._loop.steps}; started again, the run continues from there"
            )

    def after_run(self) -> None:
        self._directory.wait()
        check_run_folder(self._directory, self._lock)
        newest = self._directory.latest_step()
        if newest != self._loop.steps:
            raise CheckpointError(
                f"{self._directory.path}: the checkpoint of the last step, {self._loop.steps}, is not "
                f"there any more; {describe_newest(self._directory)}"
            )


class GuardHook(Hook):
    """Records steps that the guard found harmful, and ends the run if that is the policy."""

    def __init__(
        self,
        config: Config,
        directory: RunDirectory,
        source: RowSource,
        checkpoints: CheckpointHook,
        loop: LoopState,
    ) -> None:
        self._config, self._directory, self._source = config, directory, source
        self._checkpoints, self._loop = checkpoints, loop
        self._path: Path = directory.path / "anomalies.jsonl"

    def after_metrics(self, step: int, metrics: dict[str, float]) -> None:
        verdict = VERDICTS[int(metrics["verdict"])]
        if verdict == "good":
            return
        guard, rows = self._config.guard, self._config.data.rows_per_step
        policy = guard.nan if verdict == "nan" else guard.spike
        clause = describe_anomaly(metrics)
        if is_main_process():
            numbers = range((step - 1) * rows, step * rows)
            record_anomaly(self._path, step, metrics, policy, self._source, numbers)
            log.warning(
                "step %d: %s (policy: %s; its rows are in %s)", step, clause, policy, self._path
            )
        if policy == "stop":
            self._directory.wait()
            raise Diverged(
                f"step {step}: {clause}; its rows are in {self._path}, and "
                f"{describe_newest(self._directory)} (to continue past it: --guard.{verdict} skip)"
            )
        if policy == "skip" and metrics["refused"] > guard.most:
            self._checkpoints.save(self._loop.step)
            self._directory.wait()
            raise Diverged(
                f"{self._path}: {int(metrics['refused'])} consecutive steps could not be used, "
                f"the last {step}"
            )


class ReportHook(Hook):
    """Writes the metrics of every `log_every`-th step and of the last one."""

    def __init__(
        self,
        log_every: int,
        meter: ThroughputMeter,
        quarantine: SharedQuarantine,
        dashboard: Dashboard,
        report: Report | None,
        clock: Clock,
        loop: LoopState,
    ) -> None:
        self._log_every, self._meter, self._quarantine = log_every, meter, quarantine
        self._dashboard, self._report, self._clock, self._loop = dashboard, report, clock, loop

    def after_metrics(self, step: int, metrics: dict[str, float]) -> None:
        if step % self._log_every and step != self._loop.steps:
            return
        progress = self._meter.read(step, metrics, len(self._quarantine))
        self._dashboard.add(progress.scalars(), step)
        self._dashboard.add(self._clock.shares(), step, "time/")
        if self._report:
            self._report(progress)
        self._clock.book("other")


class StopSignalHook(Hook):
    """Polls for SIGTERM after every step."""

    def __init__(self, stop_signal: StopSignal, loop: LoopState) -> None:
        self._stop_signal, self._loop = stop_signal, loop

    def after_step(self, step: int) -> None:
        self._loop.stop = self._stop_signal.poll()


class QuarantineHook(Hook):
    """Collects unusable examples, and shares them between processes on every `log_every`-th step."""

    def __init__(self, quarantine: SharedQuarantine, log_every: int) -> None:
        self._quarantine, self._log_every = quarantine, log_every

    def after_batch(self, step: int, batch: Batch) -> None:
        self._quarantine.add(batch.failed)

    def after_step(self, step: int) -> None:
        if step % self._log_every == 0:
            self._quarantine.synchronize()

    def after_run(self) -> None:
        self._quarantine.write()


class SyncHook(Hook):
    """Reads the metrics of a step before it is evaluated or saved, and reports failed writes.

    A checkpoint is only saved once the guard has judged every step in it.
    """

    def __init__(
        self,
        config: Config,
        directory: RunDirectory,
        read_metrics: Callable[[], None],
        loop: LoopState,
    ) -> None:
        self._config, self._directory = config, directory
        self._read_metrics, self._loop = read_metrics, loop

    def after_step(self, step: int) -> None:
        loop, config = self._loop, self._config
        if loop.saves(config, step) or loop.stop or loop.evaluates(config, step):
            self._read_metrics()
        self._directory.check()


class EvaluationHook(Hook):
    """Runs the evaluations of a run, whose metrics go to the dashboard."""

    def __init__(
        self,
        config: Config,
        evaluators: dict[str, Evaluator],
        dashboard: Dashboard,
        stop_signal: StopSignal,
        clock: Clock,
        watchdog: Watchdog,
        loop: LoopState,
    ) -> None:
        self._config, self._evaluators, self._dashboard = config, evaluators, dashboard
        self._stop_signal, self._clock, self._watchdog = stop_signal, clock, watchdog
        self._loop = loop

    def after_step(self, step: int) -> None:
        loop = self._loop
        if not self._evaluators or loop.stop or not loop.evaluates(self._config, step):
            return
        self._clock.book_work()
        self._watchdog.enter_phase(step, "evaluate")
        for prefix, evaluator in self._evaluators.items():
            metrics = evaluator(loop.state["params"], self._poll)
            self._clock.book("evaluate")
            if metrics is None:
                loop.stop = True
                return
            self._dashboard.add(metrics, step, prefix)
            listed = ", ".join(f"{prefix}{name} {value:.4g}" for name, value in metrics.items())
            log.info("step %d: %s", step, listed)

    def _poll(self) -> bool:
        """Called after every part of an evaluation. Returns whether to stop."""
        self._watchdog.progressed()
        return self._stop_signal.poll()
