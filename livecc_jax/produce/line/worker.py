"""Workers: child processes that run shards, and the process that watches them.

A worker says which unit it is at in memory that both share, so watching costs nothing. A unit that
takes too long, takes too much memory or ends its worker is logged as rejected, and a new worker goes on
with the rest of the shard.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from livecc_jax.errors import LiveCCError
from livecc_jax.parallel.child_process import exit_with_parent
from livecc_jax.produce.line.limits import Limits, limit_address_space, resident_bytes
from livecc_jax.produce.line.phases import PHASES, public_name
from livecc_jax.produce.line.shard import Job, Line, Watched, reject_unit, run_shard
from livecc_jax.produce.models import Models

log = logging.getLogger(__name__)

CONTEXT = multiprocessing.get_context("spawn")
POLL_SECONDS = 0.1
STAGE_NAMES = ["", *dict.fromkeys(public_name(s) for phase in PHASES for s in phase.stages)]
# What a worker shares: the unit it is at, its stage, since when (monotonic), and how many are done.
UNIT, STAGE, SINCE, DONE, SIZE = 0, 1, 2, 3, 4
NO_UNIT = -1.0


class WorkerFailed(Exception):
    """A worker could not work at all; the message says why."""


def _work(pipe: Connection, shared: Any, limits: Limits, parent: int) -> None:
    """Runs in the child: shard after shard, as they are sent."""
    # Ctrl-C reaches every process of the terminal; only the parent reports it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    exit_with_parent(parent)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.ERROR)
    models: Models | None = None
    held: Line | None = None

    def begin(unit: int, stage: str) -> None:
        shared[UNIT] = NO_UNIT  # while the others are written, the watcher sees no unit
        shared[STAGE], shared[SINCE] = STAGE_NAMES.index(stage), time.monotonic()
        shared[UNIT] = unit

    def done(count: int) -> None:
        shared[UNIT], shared[DONE] = NO_UNIT, count

    while True:
        try:
            line, job = pipe.recv()
        except EOFError:
            return
        if models is None or held.parameters != line.parameters:
            models = Models()
        models.folder = line.workspace.root
        held = line
        shared[UNIT], shared[DONE] = NO_UNIT, 0
        limit_address_space(_memory_gb(limits, line, job))
        try:
            answer = ("done", run_shard(line, job, models, Watched(begin, done)))
        except LiveCCError as error:
            answer = ("error", error)
        except OSError as error:
            answer = ("error", LiveCCError(f"{error.filename or line.workspace.out}: {error.strerror}"))
        shared[UNIT] = NO_UNIT
        pipe.send(answer)


def _memory_gb(limits: Limits, line: Line, job: Job) -> float:
    stages = line.phase(job.phase).active(line.parameters)
    return limits.memory_for([_with_speech(line, stage) for stage in stages])


def _seconds(limits: Limits, line: Line, stage: str) -> float:
    return limits.seconds_for(_with_speech(line, stage))


def _with_speech(line: Line, stage: str) -> str:
    """Returns "speech" for the stage of words where it may run a model."""
    return "speech" if stage == "words" and line.parameters.speech_model else stage


class Worker:
    """One child process, watched.

    Args:
        limits: What a unit may take.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._attempts: Counter[tuple[Job, int]] = Counter()
        self._process: Any = None
        self._job: tuple[Line, Job] | None = None
        self.shared = CONTEXT.RawArray("d", SIZE)
        self._deaths_without_unit = 0

    @property
    def job(self) -> Job | None:
        """What it is at; None when it is free."""
        return self._job[1] if self._job else None

    @property
    def pipe(self) -> Connection:
        """Its end of the connection, which becomes ready when it has finished or died."""
        return self._pipe

    def start(self, line: Line, job: Job) -> None:
        """Gives it a shard."""
        if self._process is None or not self._process.is_alive():
            self._spawn()
        self._job = (line, job)
        self.shared[UNIT], self.shared[DONE] = NO_UNIT, 0
        try:
            self._pipe.send((line, job))
        except (BrokenPipeError, ConnectionResetError):
            return  # it has died; `poll` finds that out

    def _spawn(self) -> None:
        self.close()
        self._pipe, theirs = CONTEXT.Pipe()
        self._process = CONTEXT.Process(
            target=_work, args=(theirs, self.shared, self._limits, os.getpid()), daemon=True
        )
        with without_main_module():
            self._process.start()
        theirs.close()

    def poll(self) -> int | None:
        """Looks after the worker.

        Returns:
            The number of units it did when it has finished its shard, else None.

        Raises:
            LiveCCError: Something is wrong with the run.
            WorkerFailed: Workers end again and again outside any unit.
        """
        line, job = self._job
        if self._pipe.poll():
            try:
                kind, value = self._pipe.recv()
            except (EOFError, ConnectionResetError):
                self._died(line, job)
                return None
            self._job = None
            if kind == "error":
                raise value
            self._deaths_without_unit = 0
            return value
        if not self._process.is_alive():
            self._died(line, job)
            return None
        unit, stage = int(self.shared[UNIT]), STAGE_NAMES[int(self.shared[STAGE])]
        since = self.shared[SINCE]
        if unit < 0:
            return None
        if (limit := _seconds(self._limits, line, stage)) < time.monotonic() - since:
            self._end(line, job, unit, stage, f"took more than {limit:g} s")
        elif (most := _memory_gb(self._limits, line, job)) and self._resident_gb() > most:
            self._end(line, job, unit, stage, f"took more than {most:g} GB of memory")
        return None

    def _resident_gb(self) -> float:
        return resident_bytes(self._process.pid) / 1e9

    def _end(self, line: Line, job: Job, unit: int, stage: str, reason: str) -> None:
        """Ends the process because of a unit, rejects that, and goes on with the rest."""
        self._kill()
        if int(self.shared[UNIT]) == unit:
            log.warning(
                "shard %d of %s: unit %d %s in stage %s", job.shard, job.phase, unit, reason, stage
            )
            reject_unit(line, job, unit, stage, reason)
        self.start(line, job)

    def _died(self, line: Line, job: Job) -> None:
        """The process has ended by itself, or the system ended it."""
        self._process.join()
        code = self._process.exitcode
        unit, stage = int(self.shared[UNIT]), STAGE_NAMES[int(self.shared[STAGE])]
        how = f"by signal {-code}" if code < 0 else f"with code {code}"
        if unit < 0:
            self._deaths_without_unit += 1
            if self._deaths_without_unit > 2:
                raise WorkerFailed(f"a worker ended {how} again and again, outside any source")
        else:
            self._attempts[job, unit] += 1
            log.warning("shard %d of %s: unit %d ended its worker %s", job.shard, job.phase, unit, how)
            if self._attempts[job, unit] >= self._limits.attempts:
                reject_unit(line, job, unit, stage, f"ended its worker {how}")
        self.start(line, job)

    def _kill(self) -> None:
        if self._process is not None and self._process.is_alive():
            self._process.kill()
        if self._process is not None:
            self._process.join()

    def close(self) -> None:
        """Ends the process."""
        self._kill()
        if self._process is not None:
            self._pipe.close()
            self._process = None


def run_jobs(
    line: Line,
    jobs: Iterable[Job],
    workers: Sequence[Worker],
    progress: Callable[[dict[Job, int]], None] = lambda running: None,
) -> Iterator[tuple[Job, int]]:
    """Runs jobs in worker processes.

    Args:
        line: The run.
        jobs: Phases and shards.
        workers: The processes; they are free before, and afterwards unless an error is raised.
        progress: Called a few times a second with the units done so far of each job that is running.

    Yields:
        Each job as it is finished, with the number of units that were missing.

    Raises:
        LiveCCError: Something is wrong with the run, such as a full disk.
    """
    waiting = list(jobs)[::-1]
    try:
        for worker in workers:
            if waiting:
                worker.start(line, waiting.pop())
        while busy := [worker for worker in workers if worker.job]:
            wait([worker.pipe for worker in busy], POLL_SECONDS)
            progress({worker.job: int(worker.shared[DONE]) for worker in busy})
            for worker in busy:
                job = worker.job
                count = worker.poll()
                if count is not None:
                    if waiting:
                        worker.start(line, waiting.pop())
                    yield job, count
    except WorkerFailed as error:
        raise LiveCCError(f"{line.workspace.out}: {error}") from error


@contextlib.contextmanager
def without_main_module() -> Iterator[None]:
    """Keeps a new process from importing the main module again, which may be anything: a user's script
    that calls us without a guard, or a file that is not Python."""
    main = sys.modules["__main__"]
    saved = {name: getattr(main, name, None) for name in ("__file__", "__spec__")}
    try:
        if saved["__file__"] is not None:
            del main.__file__
        main.__spec__ = None
        yield
    finally:
        for name, value in saved.items():
            if value is not None or name == "__spec__":
                setattr(main, name, value)
