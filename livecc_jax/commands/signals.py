"""Ctrl-C and SIGTERM: every command ends soon after either, whatever it is doing.

Both raise an exception in the main thread. Where a callback that cannot pass it on was running (of the
garbage collector, of a weak reference, of jax), the signal is sent again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

RESEND_SECONDS = 0.02  # until the callback that could not pass an exception on has ended
GRACE_SECONDS = 10.0  # after so long in native code a command that was told to terminate is ended


class Terminated(KeyboardInterrupt):
    """The command was told to end by SIGTERM, which is answered as Ctrl-C is."""


class StopRequest:
    """Whether a signal has asked the command to end.

    Attributes:
        received: The number of the last signal, or None.
        raised: Set as soon as the main thread has taken note of a signal.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.raised = threading.Event()

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The handler of both signals, which the system calls in the main thread."""
        self.received = number
        self.raised.set()
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    def raise_if_received(self) -> None:
        """Raises the exception of a signal again, for a loop that may have lost it in a callback."""
        if self.received is not None:
            self.handle(self.received, None)

    @property
    def exit_code(self) -> int:
        """The exit code that shells and supervisors expect of a command ended by this signal."""
        return 128 + (self.received or signal.SIGINT)

    def __str__(self) -> str:
        return "terminated" if self.received == signal.SIGTERM else "interrupted"


_current = StopRequest()  # of the command that runs in this process


def raise_if_stopped() -> None:
    """Raises KeyboardInterrupt if a signal has asked the running command to end."""
    _current.raise_if_received()


@contextlib.contextmanager
def stop_signals(command: str) -> Iterator[StopRequest]:
    """Answers SIGINT and SIGTERM while the block runs; outside the main thread it does nothing.

    Args:
        command: Name of the command, for the message of one that is ended in native code.
    """
    global _current
    _current = request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    earlier = {n: signal.signal(n, request.handle) for n in (signal.SIGINT, signal.SIGTERM)}
    earlier_hook = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            return earlier_hook(unraisable)
        number = signal.SIGTERM if issubclass(unraisable.exc_type, Terminated) else signal.SIGINT
        main = threading.main_thread().ident
        timer = threading.Timer(RESEND_SECONDS, signal.pthread_kill, (main, number))
        timer.daemon = True
        timer.start()

    sys.unraisablehook = hook
    try:
        with _ended_in_native_code(command, request):
            yield request
    finally:
        sys.unraisablehook = earlier_hook
        for number, handler in earlier.items():
            signal.signal(number, handler)
        _current = StopRequest()


@contextlib.contextmanager
def _ended_in_native_code(command: str, request: StopRequest) -> Iterator[None]:
    """Ends the process when SIGTERM finds the main thread in native code that does not return.

    Handlers run between two instructions of Python. A compilation or a device that hangs would
    otherwise keep a command alive that could be terminated before there was a handler.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    earlier = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def watch() -> None:
        while data := os.read(reader, 64):
            ours = signal.getsignal(signal.SIGTERM) == request.handle  # training has one of its own
            if signal.SIGTERM in data and ours and not request.raised.wait(GRACE_SECONDS):
                os.write(2, f"livecc {command}: terminated\n".encode())
                os._exit(128 + signal.SIGTERM)

    thread = threading.Thread(target=watch, name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(earlier)
        os.close(writer)
        thread.join()
        os.close(reader)
