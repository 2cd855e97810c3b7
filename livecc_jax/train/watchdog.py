"""Which host is late: every process keeps a small file up to date, and reads all when no step ends."""

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

log = logging.getLogger(__name__)

FIRST = 6  # the first step compiles: so many times as long is allowed
GIVEN_UP = 75  # exit status (EX_TEMPFAIL): start the run again

# In the order in which a step goes through them; who is earliest is late.
PHASES = {
    "rows": "reading rows",
    "step": "waiting for the devices",
    "evaluate": "evaluating",
    "save": "saving",
}


@dataclass(frozen=True)
class Beat:
    """Where a process is."""

    process: int
    host: str
    step: int
    phase: str
    seconds: float  # in this phase, when written
    written: float  # time.time()


def describe(beats: list[Beat], now: float, silent: float, expected: int) -> str:
    """A clause on who is late.

    Args:
        beats: the newest of each process.
        now: the time.
        silent: a beat older than so many seconds is of a process that hangs or is gone.
        expected: how many processes there are.
    """

    def name(b: Beat) -> str:
        return f"{b.host} (process {b.process})"

    order = list(PHASES)
    lost = [b for b in beats if now - b.written > silent]
    missing = sorted(set(range(expected)) - {b.process for b in beats})
    if lost or missing:
        who = [f"{name(b)} has not been heard of for {now - b.written:.0f} s" for b in lost]
        return "; ".join(who + [f"process {p} has never been heard of" for p in missing])
    behind = min((b.step, order.index(b.phase)) for b in beats)
    late = [b for b in beats if (b.step, order.index(b.phase)) == behind]
    doing = f"at step {late[0].step}, {PHASES[late[0].phase]}"
    if len(late) == len(beats):
        return f"all {expected} processes are {doing}"
    spent = max(b.seconds + now - b.written for b in late)
    some = ", ".join(name(b) for b in late[:8]) + (", ..." if len(late) > 8 else "")
    return f"late is {some}: {doing} for {spent:.0f} s; the other {len(beats) - len(late)} are further"


class Watchdog:
    """A thread that knows where this process is and looks at the others when nothing moves.

    Args:
        directory: of the processes' files; the same for all.
        process: this one's number.
        processes: how many there are.
        late: seconds without a finished step before it is said who is late; 0 for never.
        give_up: seconds before the process ends with GIVEN_UP; 0 for never.
        end: what ends the process.
    """

    def __init__(
        self,
        directory: Path,
        process: int,
        processes: int,
        late: float,
        give_up: float,
        end: Callable[[int], None] = os._exit,
    ) -> None:
        self._directory, self._process, self._processes = directory, process, processes
        self._late, self._give_up, self._end = late, give_up, end
        self._host = socket.gethostname()
        self._where = (0, "rows", time.time())
        self._moved = time.time()
        self._allowed = FIRST  # times `late`, until the first step has ended
        self._said = False
        self._over = threading.Event()
        self._interval = max(0.05, min([10.0, *(t / 4 for t in (late, give_up) if t)]))
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        """Begin to watch, unless nothing is to be done."""
        if self._late or self._give_up:
            with contextlib.suppress(OSError):
                self._directory.mkdir(parents=True, exist_ok=True)
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """End the thread."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def at(self, step: int, phase: str) -> None:
        """This process is in `phase` of `step` now; PHASES has the phases."""
        self._where = (step, phase, time.time())

    def stepped(self) -> None:
        """A step has ended."""
        self._moved, self._allowed, self._said = time.time(), 1, False

    def _watch(self) -> None:
        while not self._over.wait(self._interval):
            now = time.time()
            step, phase, since = self._where
            beat = Beat(self._process, self._host, step, phase, now - since, now)
            # The disk that holds the files may be what hangs or is full: then there is nobody to tell.
            with contextlib.suppress(OSError):
                part = self._directory / f"{self._process}.part"
                part.write_text(json.dumps(asdict(beat)))
                part.replace(self._directory / f"{self._process}.json")
            still = (now - self._moved) / self._allowed
            if self._late and still > self._late and not self._said:
                self._said = True
                log.warning("no step has ended for %.0f s: %s", now - self._moved, self.look(now))
            if self._give_up and still > self._give_up:
                log.error("no step has ended for %.0f s; giving up", now - self._moved)
                self._end(GIVEN_UP)

    def look(self, now: float) -> str:
        """Who is late, by the files of all."""
        beats = []
        for process in range(self._processes):
            with contextlib.suppress(OSError, ValueError, TypeError):
                beats.append(Beat(**json.loads((self._directory / f"{process}.json").read_text())))
        if not beats:
            return f"nothing can be read in {self._directory}"
        return describe(beats, now, max(30.0, 3 * self._interval), self._processes)
