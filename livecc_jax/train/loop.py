"""A training run from its config: rows in, checkpoints out, the same again when repeated."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from livecc_jax.checkpoints.run import RunDirectory
from livecc_jax.data.rows.pipeline import Batch, RowSource, batches, steps_in
from livecc_jax.data.rows.quarantine import Quarantine
from livecc_jax.errors import ConfigError
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.qwen2_vl import Params
from livecc_jax.parallel.batch import check_rows, place_batch
from livecc_jax.parallel.mesh import make_mesh
from livecc_jax.parallel.processes import is_first
from livecc_jax.train.clock import Clock
from livecc_jax.train.config import Config, flatten
from livecc_jax.train.guard import VERDICTS, Diverged, begin_guard, guard_json, guarded, record
from livecc_jax.train.held_out import HeldOut
from livecc_jax.train.optimizer import make_optimizer
from livecc_jax.train.preempt import Notice, Preempted
from livecc_jax.train.report import Board, Counts, Meter, Progress, Report
from livecc_jax.train.shared_quarantine import SharedQuarantine
from livecc_jax.train.start import Start, begin, check_config, resume
from livecc_jax.train.step import compiler_options, jit_step, make_step
from livecc_jax.train.trace import Trace
from livecc_jax.train.watchdog import Watchdog

__all__ = ["Progress", "Report", "train"]

log = logging.getLogger(__name__)


# Figures of the parameters, each named; None when the poll said to end. And what makes them of a run,
# by the prefix of their names.
Examination = Callable[[Params, Callable[[], bool]], dict[str, float] | None]
Examine = Callable[[Config, ModelConfig, RowSource, Mesh], dict[str, Examination]]


def train(config: Config, report: Report | None = None, examine: Examine | None = None) -> Path:
    """Run training to its end, from the start or from the run's newest checkpoint.

    Every process of a run calls this; `parallel.processes.start_processes` comes before it.

    Args:
        config: the experiment.
        report: called with the figures of every `log_every`-th step and the last.
        examine: makes what `evaluate.run.choice` and `evaluate.metrics.commentary` ask for
            (`livecc_jax.evaluate.in_training.examinations`).

    Returns:
        The run directory.

    Raises:
        ConfigError: the config cannot work, or contradicts the run it resumes.
        CheckpointError, DataError, TokenizerError: something it names cannot be used.
        Diverged: a step was bad and the policy is to stop.
        Preempted: SIGTERM; the run has saved.
    """
    clock = Clock()
    check_config(config)
    if (config.evaluate.choice or config.evaluate.commentary) and not examine:
        raise ConfigError(
            "evaluate.choice and evaluate.commentary need `examine`, as livecc train has it"
        )
    with ExitStack() as stack:
        notice = stack.enter_context(Notice())
        settings = config.checkpoint
        run = RunDirectory(config.run, keep=settings.keep, keep_every=settings.keep_every)
        stack.enter_context(closing(run))
        board = Board(run.path / "tensorboard", config.wandb, run.path.name, flatten(config))
        stack.enter_context(board)
        watchdog = Watchdog(
            run.path / "hosts",
            jax.process_index(),
            jax.process_count(),
            config.watch.late,
            config.watch.give_up,
        )
        stack.enter_context(watchdog)
        loop = _Loop(config, run, board, report, notice, watchdog, clock, examine)
        stack.callback(loop.trace.close)
        loop.run()
        return run.path


@dataclass(frozen=True)
class _Pending:
    """A step that was handed to the devices and not read yet."""

    step: int
    metrics: dict[str, jax.Array]
    counts: Counts


class _Loop:
    """The parts of a run and the order in which they come together."""

    def __init__(
        self,
        config: Config,
        run: RunDirectory,
        board: Board,
        report: Report | None,
        notice: Notice,
        watchdog: Watchdog,
        clock: Clock,
        examine: Examine | None,
    ) -> None:
        self.config, self.directory, self.board = config, run, board
        self.report, self.notice, self.watchdog = report, notice, watchdog
        data = config.data
        self.mesh = make_mesh(config.mesh)
        micro = data.rows_per_step // config.optim.accumulate
        check_rows(self.mesh, micro)

        resumed = resume(config, run, self.mesh)
        self.clock = Clock(resumed.meta.get("clock")) if resumed else clock
        known = Quarantine.load(data.quarantine) if data.quarantine else Quarantine()
        if resumed:
            where = f"{config.run} step {resumed.step}"
            known = Quarantine.from_json(resumed.meta["quarantine"], where)
        self.source = _source(config, run, resumed is not None, known)
        index = self.source.opened
        if resumed and resumed.meta["index"] != index.digest:
            raise ConfigError(
                f"{config.run}: this run cannot resume with another index; "
                f"{data.index} has changed since"
            )
        known.check(index.where, len(index), data.quarantine or config.run)
        self.quarantine = SharedQuarantine(known, index, run.path, data.max_quarantined)
        steps = steps_in(self.source, data.rows_per_step)
        self.steps = min(steps, config.max_steps) if config.max_steps else steps
        held = len(self.source.plan.members) / max(1, len(self.source.plan))
        log.info(
            "%.2f examples a row, %.0f a step (data.rows_per_step = %d)",
            held, held * data.rows_per_step, data.rows_per_step,
        )  # fmt: skip
        self.optimizer: optax.GradientTransformation = make_optimizer(config.optim, self.steps)
        self.started: Start = resumed or begin(config, run, self.source, self.optimizer, self.mesh)
        self.saved = self.first = self.handed = self.started.step
        self.trace = Trace(config.profile, self.first + 1, run.path / "profile")
        guard = begin_guard(config.guard, self.mesh, self.started.meta.get("guard"))
        self.state: dict[str, Any] = self.started.state | {"guard": guard}
        self.meter = Meter(config, self.started, self.steps, self.mesh.size, self.clock)
        log.info("MFU is against %.3g FLOP/s a device (%s)", self.meter.peak, self.meter.peak_from)
        self.examinations: dict[str, Examination] = {}
        if config.evaluate.index:
            held_out = HeldOut(config, self.started.model, self.source.tokenizer_path, self.mesh)
            self.examinations["held_out/"] = held_out.losses
        if examine:
            self.examinations |= examine(config, self.started.model, self.source, self.mesh)
        self.pending: _Pending | None = None
        self.account = "start"  # until the first step is done, which compiles

    def run(self) -> None:
        """All steps. Raises what `train` says."""
        config = self.config
        step_fn = guarded(make_step(self.started.model, config.compute, self.optimizer), config.guard)
        options = compiler_options(config.compute, self.mesh.devices.flat[0].platform)
        jitted = jit_step(step_fn, self.state, options)
        with jax.set_mesh(self.mesh), closing(self._batches()) as numbered:
            for step, batch in numbered:
                self.trace.before(step)
                self.watchdog.at(step, "step")
                placed = place_batch(self.mesh, batch.rows, config.optim.accumulate)
                self.state, metrics = jitted(self.state, placed)
                self.handed = step
                counts = self.meter.count(batch)
                self._read()
                self.pending = _Pending(step, metrics, counts)
                self._after(step)
        self.quarantine.write()
        self.directory.wait()

    def _batches(self) -> Generator[tuple[int, Batch], None, None]:
        """Number the steps from 1, and book what is waited for."""
        config = self.config
        stream = batches(
            self.source,
            first_step=self.first,
            steps=self.steps,
            rows_per_step=config.data.rows_per_step,
            accumulate=config.optim.accumulate,
            process=jax.process_index(),
            processes=jax.process_count(),
            workers=config.data.workers,
        )
        with closing(stream):
            for step in range(self.first + 1, self.steps + 1):
                self.watchdog.at(step, "rows")
                self.clock.spent(self.account)
                batch = next(stream)
                # While the devices still work on the step before, nothing is lost by waiting.
                idle = self.pending is None or self.pending.metrics["loss"].is_ready()
                starting = self.account == "start"
                waited = self.clock.spent("data" if idle and not starting else self.account)
                self.meter.waited += waited
                self.quarantine.found(batch.failed)
                yield step, batch

    def _after(self, step: int) -> None:
        """What is due after a step was handed to the devices."""
        config = self.config
        every = config.checkpoint.every
        saves = step == self.steps or bool(every and step % every == 0)
        evaluates = saves
        if config.evaluate.every:
            evaluates = step == self.steps or step % config.evaluate.every == 0
        stop = self.notice.reached()
        if step % config.log_every == 0:
            self.quarantine.share()
        if saves or stop or evaluates:
            self._read()
        self.directory.check()
        if evaluates and not stop and self.examinations:
            stop = self._evaluate(step)
        if saves or stop:
            self._save(step)
        if stop and step < self.steps:
            self.watchdog.at(step, "save")
            self.directory.wait()
            raise Preempted(
                f"{self.directory.path}: told to end (SIGTERM), saved at step {step} of {self.steps}; "
                "started again, the run goes on from there"
            )

    def _read(self) -> None:
        """Wait for the step that is pending, and see to what it says."""
        if self.pending is None:
            return
        pending, self.pending = self.pending, None
        fetched = jax.device_get(pending.metrics)
        values = {k: np.asarray(v).item() for k, v in fetched.items()}
        self.clock.spent(self.account)
        self.account = "step"
        self.watchdog.stepped()
        self.trace.after(pending.step)
        self.meter.add(pending.counts)
        if VERDICTS[int(values["verdict"])] != "good":
            self._bad(pending.step, values)
        if pending.step % self.config.log_every == 0 or pending.step == self.steps:
            progress = self.meter.read(pending.step, values, len(self.quarantine))
            self.board.add(progress.scalars(), pending.step)
            self.board.add(self.clock.shares(), pending.step, "time/")
            if self.report:
                self.report(progress)
            self.clock.spent("other")

    def _bad(self, step: int, values: dict[str, float]) -> None:
        """Record a step that the guard did not find good, and end the run if that is the policy."""
        guard, rows = self.config.guard, self.config.data.rows_per_step
        name = VERDICTS[int(values["verdict"])]
        policy = guard.nan if name == "nan" else guard.spike
        listed = self.directory.path / "anomalies.jsonl"
        what = "it was bad"
        if is_first():
            numbers = range((step - 1) * rows, step * rows)
            what = record(listed, step, values, policy, self.source, numbers)
            log.warning("step %d: %s (policy: %s; its rows are in %s)", step, what, policy, listed)
        if policy == "stop":
            self.directory.wait()
            raise Diverged(
                f"step {step}: {what}; its rows are in {listed}, and the newest checkpoint is step "
                f"{self.saved} (to go on past it: --guard.{name} skip)"
            )
        if policy == "skip" and values["refused"] > guard.most:
            self._save(self.handed)
            self.directory.wait()
            raise Diverged(
                f"{listed}: {int(values['refused'])} steps in a row could not be used, the last {step}"
            )

    def _evaluate(self, step: int) -> bool:
        """Held-out loss and what else is measured; true when the run was told to end meanwhile."""
        self.clock.spent(self.account)
        self.watchdog.at(step, "evaluate")

        def poll() -> bool:
            self.watchdog.stepped()
            return self.notice.reached()

        for prefix, examination in self.examinations.items():
            figures = examination(self.state["params"], poll)
            self.clock.spent("evaluate")
            if figures is None:
                return True
            self.board.add(figures, step, prefix)
            told = ", ".join(f"{prefix}{name} {value:.4g}" for name, value in figures.items())
            log.info("step %d: %s", step, told)
        return False

    def _save(self, step: int) -> None:
        """Begin to write a checkpoint, unless it is there."""
        if step <= self.saved:
            return
        self.quarantine.share()
        self.clock.spent(self.account)
        self.watchdog.at(step, "save")
        meta = {
            "step": step,
            "rows": step * self.config.data.rows_per_step,
            "config": flatten(self.config),
            "index": self.source.opened.digest,
            "quarantine": self.quarantine.to_json(),
            "guard": guard_json(self.state["guard"]),
            "clock": self.clock.to_json(),
        }
        self.directory.save(step, self.state["params"], self.state["opt_state"], meta)
        self.saved = step
        self.watchdog.stepped()
        self.clock.spent("save")


def _source(config: Config, run: RunDirectory, resumed: bool, quarantine: Quarantine) -> RowSource:
    data = config.data
    return RowSource(
        data.index,
        tokenizer_path=str(run.path) if resumed else (config.init or config.tokenizer),
        tokens=data.tokens,
        windows=data.windows,
        targets=data.targets,
        positions=config.positions,
        weighting=data.weighting,
        seed=config.seed,
        epochs=data.epochs,
        quarantined=quarantine.left_out,
        root=data.root,
        cache=data.cache,
        cache_gb=data.cache_gb,
    )
