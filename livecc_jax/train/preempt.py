"""Notice that the machine will be taken away (SIGTERM), heeded by all processes at the same step."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

import jax
from jax.experimental import multihost_utils

from livecc_jax.errors import LiveCCError

EXIT_CODE = 128 + signal.SIGTERM


class Preempted(LiveCCError):
    """The run was told to end (SIGTERM) and has saved; started again, it goes on from there."""


class Notice:
    """While entered, SIGTERM does not end the process but makes `reached` true.

    With several processes a notice to any of them reaches all, at the same poll: jax's preemption
    service agrees on one that none has passed yet. It knows one count, so nothing else may ask it
    (`checkpoints.run` keeps orbax from doing so).
    """

    def __init__(self) -> None:
        self._told = False
        self._polls = 0
        self._before: object = None

    def __enter__(self) -> Notice:
        """Take the signal over; a process among several leaves it to jax's service."""
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._tell)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signal back."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)  # type: ignore[arg-type]

    def _tell(self, number: int, frame: FrameType | None) -> None:
        self._told = True

    def reached(self) -> bool:
        """Poll: whether to save and end now. All processes poll equally often."""
        self._polls += 1
        if jax.process_count() > 1 and not self._told:  # jax says it once
            self._told = multihost_utils.reached_preemption_sync_point(self._polls)
        return self._told
