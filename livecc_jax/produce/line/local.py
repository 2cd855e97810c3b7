"""Runs the phases of a line on this machine, with a pool of watched worker processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from livecc_jax.produce.filters.plug_in import is_plug_in
from livecc_jax.produce.line.limits import Limits
from livecc_jax.produce.line.phases import Phase
from livecc_jax.produce.line.shard import Job, Line, is_finished, run_shard
from livecc_jax.produce.line.worker import Worker, run_jobs
from livecc_jax.produce.models import Models
from livecc_jax.produce.parameters import Parameters


@dataclass
class PhaseProgress:
    """How far a phase is.

    Attributes:
        phase: Name of the phase.
        stages: Names of its stages.
        shards: Number of shards.
        finished: Shards that have finished.
        units: Units that have been done since the phase began, those of running shards included.
        running: Units done so far of the shards that are running.
    """

    phase: str
    stages: tuple[str, ...]
    shards: int
    finished: int = 0
    units: int = 0
    running: dict[Job, int] = field(default_factory=dict)


Report = Callable[[PhaseProgress], None]


def missing_jobs(line: Line, phase: Phase) -> list[Job]:
    """Returns a phase's shards that have not finished with the input that they have now."""
    jobs = [Job(phase.name, shard) for shard in range(line.workspace.shards)]
    return [job for job in jobs if not is_finished(line, job)]


class LocalPool:
    """Processes on this machine, which keep their models from phase to phase.

    Args:
        workers: Number of processes.
        limits: What a unit may take.
        model_workers: Number of them that run phases whose model is on this machine: a model takes all
            cores, or an accelerator that processes cannot share.
    """

    def __init__(self, workers: int = 1, limits: Limits | None = None, model_workers: int = 1) -> None:
        self._workers = [Worker(limits or Limits()) for _ in range(max(workers, model_workers))]
        self._count, self._model_count = workers, model_workers

    def close(self) -> None:
        """Ends the processes."""
        for worker in self._workers:
            worker.close()

    def run(self, line: Line, phase: Phase, report: Report) -> int:
        """Runs a phase over all shards that are missing.

        Args:
            line: The run.
            phase: The phase.
            report: Called a few times a second.

        Returns:
            The number of units that were missing.

        Raises:
            LiveCCError: Something is wrong with the run, such as a full disk.
        """
        jobs = missing_jobs(line, phase)
        shards = line.workspace.shards
        progress = PhaseProgress(
            phase.name, phase.active(line.parameters), shards, finished=shards - len(jobs)
        )
        report(progress)
        total = 0

        def running(units: dict[Job, int]) -> None:
            progress.running, progress.units = units, total + sum(units.values())
            report(progress)

        number = self._model_count if has_local_model(line.parameters, phase) else self._count
        for _, count in run_jobs(line, jobs, self._workers[:number], running):
            total += count
            progress.finished += 1
        progress.running, progress.units = {}, total
        report(progress)
        return total


def has_local_model(parameters: Parameters, phase: Phase) -> bool:
    """Whether a phase runs a model of this project in the worker itself."""
    for stage in phase.active(parameters):
        name = {"text": parameters.text_model, "faces": parameters.face_model}.get(stage, "")
        if stage == "prompts" and not parameters.prompt_model.startswith(("http://", "https://")):
            name = parameters.prompt_model
        if name and not name.lower().endswith(".onnx") and not is_plug_in(name):
            return True
    return False


class InThisProcess:
    """Runs phases in this process, without limits: for a debugger, and for sources that are trusted."""

    def __init__(self) -> None:
        self._models: Models | None = None

    def close(self) -> None:
        """Forgets the models."""
        self._models = None

    def run(self, line: Line, phase: Phase, report: Report) -> int:
        """Runs a phase over all shards that are missing; see `LocalPool.run`."""
        self._models = self._models or Models(line.workspace.root)
        jobs, shards = missing_jobs(line, phase), line.workspace.shards
        stages = phase.active(line.parameters)
        progress = PhaseProgress(phase.name, stages, shards, finished=shards - len(jobs))
        report(progress)
        for job in jobs:
            progress.units += run_shard(line, job, self._models)
            progress.finished += 1
            report(progress)
        return progress.units
