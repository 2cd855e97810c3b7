"""Preemption: SIGTERM before the machine is taken away, handled by all processes at the same step."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

import jax
from jax.experimental import multihost_utils

from livecc_jax.errors import LiveCCError

PREEMPTED_EXIT_CODE = 128 + signal.SIGTERM


class Preempted(LiveCCError):
    """The run received SIGTERM and has saved a checkpoint; started again, it continues from there."""


class StopSignal:
    """Context manager in which SIGTERM does not end the process but makes `poll` return true.

    With several processes a signal to any of them reaches all of them at the same poll: JAX's
    preemption service agrees on a poll that no process has passed yet. The service supports a single
    counter, so no other code may use it (`checkpoints.run` keeps orbax from doing so).
    """

    def __init__(self) -> None:
        self._received = False
        self._polls = 0
        self._previous_handler: object = None

    def __enter__(self) -> StopSignal:
        """Installs the handler. With several processes, JAX's service has a handler of its own."""
        if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
            self._previous_handler = signal.signal(signal.SIGTERM, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restores the previous handler."""
        if self._previous_handler is not None:
            signal.signal(signal.SIGTERM, self._previous_handler)  # type: ignore[arg-type]

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = True

    def poll(self) -> bool:
        """Returns whether to save and stop now. All processes must poll equally often."""
        self._polls += 1
        if jax.process_count() > 1 and not self._received:  # the service reports the signal once
            self._received = multihost_utils.reached_preemption_sync_point(self._polls)
        return self._received
