"""Orbax's background threads: their errors are raised, not printed too, and they can be waited for.

When a disk is full, every thread of a save fails for the same reason. Orbax logs each failure with its
traceback, although the first one is raised to whoever saves, and tensorstore prints more tracebacks
when it reports to threads that have ended.
"""

from __future__ import annotations

import functools
import logging
import sys
import threading
import time
from typing import Any

SECONDS_TO_END = 30.0  # a write that the disk refuses ends much sooner


def _is_repeated(record: logging.LogRecord) -> bool:
    """Returns whether a log record is a copy of an error that Orbax raises as well.

    asyncio reports what other tasks of Orbax's threads have raised once they are dropped.
    """
    if record.name == "asyncio":
        return "never retrieved" in record.msg and "orbax" in record.msg
    return record.levelno >= logging.ERROR and "orbax" in record.pathname


@functools.cache
def silence_background_errors() -> None:
    """Keeps errors of Orbax's threads, which are raised as well, off standard error."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(lambda record: not _is_repeated(record))
    earlier_hook = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        # What tensorstore's threads report when the event loop that waited for them has ended.
        if str(unraisable.exc_value) != "Event loop is closed":
            earlier_hook(unraisable)

    sys.unraisablehook = hook


def wait_for_background_threads() -> None:
    """Waits until the threads of a failed save have ended, so that none writes after a clean-up."""
    deadline = time.monotonic() + SECONDS_TO_END
    for thread in threading.enumerate():
        if type(thread).__module__.startswith("orbax"):
            thread.join(max(0.0, deadline - time.monotonic()))
