"""Where the time of building rows goes: timed sections, in whatever thread or process they run."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator

SECTIONS = ("check files", "tokenize", "decode", "resize", "patchify", "fill row")
_thread = threading.local()


@contextlib.contextmanager
def collect_timings() -> Iterator[Counter]:
    """Collects what this thread times until the block ends.

    Yields:
        A counter that receives seconds by section, seconds of the whole block under "build", and counts
        by name.
    """
    outer = getattr(_thread, "timings", None)
    _thread.timings = timings = Counter()
    start = time.perf_counter()
    try:
        yield timings
    finally:
        _thread.timings = outer
        timings["build"] += time.perf_counter() - start


@contextlib.contextmanager
def timed_section(name: str) -> Iterator[None]:
    """Adds the time of the block to the timings, if this thread collects any."""
    timings = getattr(_thread, "timings", None)
    if timings is None:
        yield
        return
    start = time.perf_counter()
    try:
        yield
    finally:
        timings[name] += time.perf_counter() - start


def add_count(name: str, n: int) -> None:
    """Adds a count to the timings, if this thread collects any."""
    timings = getattr(_thread, "timings", None)
    if timings is not None:
        timings[name] += n
