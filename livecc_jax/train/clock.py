"""Where a run's wall time goes: every second is in just one account, over all its restarts."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

# start: restoring and compiling; step: training; data: the devices were done and no rows were there;
# save, evaluate: the loop stood still for them; lost: steps done again after a crash, and the time
# when nothing ran; other: logging and the like.
ACCOUNTS = ("start", "step", "data", "save", "evaluate", "lost", "other")


class Clock:
    """Accounts of seconds.

    Args:
        before: `to_json` of the checkpoint that the run goes on from; what has passed since was lost.
        now: seconds, as `time.time`.
    """

    def __init__(
        self, before: dict[str, Any] | None = None, now: Callable[[], float] = time.time
    ) -> None:
        self._now = now
        self._mark = now()
        self.seconds = dict.fromkeys(ACCOUNTS, 0.0)
        if before:
            self.seconds |= {k: float(v) for k, v in before["seconds"].items() if k in self.seconds}
            self.seconds["lost"] += max(0.0, self._mark - before["at"])

    def spent(self, account: str) -> float:
        """Book the time since the last booking, and return it."""
        now = self._now()
        passed, self._mark = max(0.0, now - self._mark), now
        self.seconds[account] += passed
        return passed

    def goodput(self) -> float:
        """Share of all wall time that went into steps that count."""
        return self.shares()["step"]

    def shares(self) -> dict[str, float]:
        """Share of each account."""
        total = sum(self.seconds.values()) or 1.0
        return {k: v / total for k, v in self.seconds.items()}

    def to_json(self) -> dict[str, Any]:
        """To be saved with a checkpoint."""
        return {"seconds": dict(self.seconds), "at": self._now()}
