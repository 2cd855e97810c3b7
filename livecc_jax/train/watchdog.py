"""The watchdog: says which host is late when no step ends, from a heartbeat file of every process."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from livecc_jax.bounded_json import parse_json

log = logging.getLogger(__name__)

FIRST_STEP_FACTOR = 6  # the first step compiles, so it may take so many times as long
GAVE_UP_EXIT_CODE = 75  # EX_TEMPFAIL: the launcher should start the run again
MAX_HEARTBEAT_BYTES = 1 << 16
LISTED_PROCESSES = 8  # maximum number of late processes in a message

# In the order in which a step goes through them; the process that is earliest is late.
PHASES = {
    "rows": "reading rows",
    "step": "waiting for the devices",
    "evaluate": "evaluating",
    "save": "saving",
}


@dataclass(frozen=True)
class Heartbeat:
    """The progress of a process, as its file has it."""

    process: int
    host: str
    step: int
    phase: str
    seconds: float  # time in this phase when the file was written
    written: float  # time.time() when the file was written


def describe_late_processes(
    heartbeats: list[Heartbeat], now: float, timeout: float, processes: int
) -> str:
    """Returns a clause about which processes are late.

    Args:
        heartbeats: The newest heartbeat of each process that has one.
        now: The current time.
        timeout: Seconds after which a process without a new heartbeat hangs or has ended.
        processes: Number of processes of the run.
    """

    def name(beat: Heartbeat) -> str:
        return f"{beat.host} (process {beat.process})"

    order = list(PHASES)
    silent = [beat for beat in heartbeats if now - beat.written > timeout]
    missing = sorted(set(range(processes)) - {beat.process for beat in heartbeats})
    if silent or missing:
        clauses = [
            f"{name(beat)} has sent no heartbeat for {now - beat.written:.0f} s" for beat in silent
        ]
        return "; ".join(clauses + [f"process {p} has never sent a heartbeat" for p in missing])
    earliest = min((beat.step, order.index(beat.phase)) for beat in heartbeats)
    late = [beat for beat in heartbeats if (beat.step, order.index(beat.phase)) == earliest]
    activity = f"at step {late[0].step}, {PHASES[late[0].phase]}"
    if len(late) == len(heartbeats):
        return f"all {processes} processes are {activity}"
    seconds = max(beat.seconds + now - beat.written for beat in late)
    names = ", ".join(name(beat) for beat in late[:LISTED_PROCESSES])
    names += ", ..." if len(late) > LISTED_PROCESSES else ""
    ahead = len(heartbeats) - len(late)
    return f"late is {names}: {activity} for {seconds:.0f} s; the other {ahead} are further"


class Watchdog:
    """A thread that writes the heartbeats of this process and reads all others when no step ends.

    Args:
        directory: Directory of the heartbeat files, shared by all processes.
        process: Index of this process.
        processes: Number of processes.
        late: Seconds without a finished step after which the late processes are logged; 0: never.
        give_up: Seconds without a finished step after which this process ends with
            GAVE_UP_EXIT_CODE; 0: never.
        exit_process: Function that ends the process with an exit code.
    """

    def __init__(
        self,
        directory: Path,
        process: int,
        processes: int,
        late: float,
        give_up: float,
        exit_process: Callable[[int], None] = os._exit,
    ) -> None:
        self._directory, self._process, self._processes = directory, process, processes
        self._late, self._give_up, self._exit_process = late, give_up, exit_process
        self._host = socket.gethostname()
        self._phase = (0, "rows", time.time())  # step, phase, and since when
        self._last_progress = time.time()
        self._patience = FIRST_STEP_FACTOR  # multiple of `late`, until the first step has ended
        self._warned = False
        self._closed = threading.Event()
        self._interval = max(0.05, min([10.0, *(t / 4 for t in (late, give_up) if t)]))
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        """Starts the thread, unless both times are 0."""
        if self._late or self._give_up:
            with contextlib.suppress(OSError):
                self._directory.mkdir(parents=True, exist_ok=True)
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Ends the thread."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    def enter_phase(self, step: int, phase: str) -> None:
        """Records that this process is now in one of PHASES of a step."""
        self._phase = (step, phase, time.time())

    def progressed(self) -> None:
        """Records that a step, a save or a part of an evaluation has ended."""
        self._last_progress, self._patience, self._warned = time.time(), 1, False

    def _watch(self) -> None:
        while not self._closed.wait(self._interval):
            now = time.time()
            step, phase, since = self._phase
            beat = Heartbeat(self._process, self._host, step, phase, now - since, now)
            # The disk of the files may be what hangs or is full; then no heartbeat can be written.
            with contextlib.suppress(OSError):
                unfinished = self._directory / f"{self._process}.part"
                unfinished.write_text(json.dumps(asdict(beat)))
                unfinished.replace(self._directory / f"{self._process}.json")
            waited = now - self._last_progress
            if self._late and waited / self._patience > self._late and not self._warned:
                self._warned = True
                log.warning("no step has ended for %.0f s: %s", waited, self.describe_delay(now))
            if self._give_up and waited / self._patience > self._give_up:
                log.error("no step has ended for %.0f s; giving up", waited)
                self._exit_process(GAVE_UP_EXIT_CODE)

    def describe_delay(self, now: float) -> str:
        """Returns a clause about which processes are late, from the heartbeat files of all."""
        heartbeats = []
        for process in range(self._processes):
            with contextlib.suppress(OSError, ValueError, TypeError):
                text = (self._directory / f"{process}.json").read_text()
                heartbeats.append(Heartbeat(**parse_json(text, max_bytes=MAX_HEARTBEAT_BYTES)))
        if not heartbeats:
            return f"nothing can be read in {self._directory}"
        timeout = max(30.0, 3 * self._interval)
        return describe_late_processes(heartbeats, now, timeout, self._processes)
