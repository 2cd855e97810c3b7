"""Where the time of a run goes: wall-clock accounts over all restarts, and profiler traces of steps."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from livecc_jax.errors import ConfigError

# start: restoring and compiling; step: training; data: the devices were idle and no rows were ready;
# save, evaluate: the loop stood still for them; lost: steps that a crash undid, and time when no
# process ran; other: logging and the like.
ACCOUNTS = ("start", "step", "data", "save", "evaluate", "lost", "other")

SKIPPED_STEPS = 2  # not traced at the start when the config only gives a number of steps


class Clock:
    """Books the wall time of a run; every second is in exactly one of ACCOUNTS.

    Args:
        saved: The result of `to_json` in the checkpoint that the run resumes from. The time since then
            is booked as lost.
        now: Function that returns the time in seconds, such as `time.time`.

    Attributes:
        seconds: Seconds in each account.
        first_step_done: Whether a step has ended since this start. Until then, work is booked as
            "start", because the first step compiles.
    """

    def __init__(
        self, saved: dict[str, Any] | None = None, now: Callable[[], float] = time.time
    ) -> None:
        self._now = now
        self._last = now()
        self.seconds = dict.fromkeys(ACCOUNTS, 0.0)
        self.first_step_done = False
        if saved:
            self.seconds |= {k: float(v) for k, v in saved["seconds"].items() if k in self.seconds}
            self.seconds["lost"] += max(0.0, self._last - saved["at"])

    def book(self, account: str) -> float:
        """Books the time since the last call to an account, and returns it in seconds."""
        now = self._now()
        elapsed, self._last = max(0.0, now - self._last), now
        self.seconds[account] += elapsed
        return elapsed

    def book_work(self) -> float:
        """Books the time since the last call as "step", or as "start" before the first step is done."""
        return self.book("step" if self.first_step_done else "start")

    def goodput(self) -> float:
        """Returns the share of the wall time that went into steps that count."""
        return self.shares()["step"]

    def shares(self) -> dict[str, float]:
        """Returns the share of each account in the wall time."""
        total = sum(self.seconds.values()) or 1.0
        return {k: v / total for k, v in self.seconds.items()}

    def to_json(self) -> dict[str, Any]:
        """Returns the accounts and the current time, to be saved in a checkpoint."""
        return {"seconds": dict(self.seconds), "at": self._now()}


class ProfilerTrace:
    """Traces some steps for TensorBoard's profiler or Perfetto.

    Args:
        steps: "" for none; "3" for so many, after the first steps of this start; or "100-103".
        first: The first step of this start.
        directory: Directory for the trace.

    Raises:
        ConfigError: `steps` has another form.
    """

    def __init__(self, steps: str, first: int, directory: Path) -> None:
        self._directory, self._running = directory, False
        self._start, self._stop = -1, -1
        if steps:
            match = re.fullmatch(r"(\d+)(?:-(\d+))?", steps)
            begin, end = (match[1], match[2]) if match else ("0", None)
            if end is not None:
                self._start, self._stop = int(begin), int(end)
            else:
                self._start = first + SKIPPED_STEPS
                self._stop = self._start + int(begin) - 1
            if not match or not 1 <= self._start <= self._stop:
                raise ConfigError(
                    f"profile {steps!r} is neither a number of steps nor a range such as 100-103"
                )

    def step_starts(self, step: int) -> None:
        """Starts the trace before the first of its steps."""
        if self._start <= step <= self._stop and not self._running:
            jax.profiler.start_trace(str(self._directory))
            self._running = True

    def step_ended(self, step: int) -> None:
        """Writes the trace after the last of its steps."""
        if step >= self._stop:
            self.close()

    def close(self) -> None:
        """Writes what was traced, if a trace is running."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
