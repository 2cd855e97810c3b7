"""Where the time of building rows goes: parts measured in whatever thread or process they run in."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator

PARTS = ("look", "tokenise", "decode", "resize", "patchify", "lay out")
_here = threading.local()


@contextlib.contextmanager
def measuring() -> Iterator[Counter]:
    """Collect what this thread measures until the block ends: seconds by part, and counts."""
    before = getattr(_here, "spent", None)
    _here.spent = spent = Counter()
    began = time.perf_counter()
    try:
        yield spent
    finally:
        _here.spent = before
        spent["build"] += time.perf_counter() - began


@contextlib.contextmanager
def part(name: str) -> Iterator[None]:
    """Book the time of the block, if somebody is measuring."""
    spent = getattr(_here, "spent", None)
    if spent is None:
        yield
        return
    began = time.perf_counter()
    try:
        yield
    finally:
        spent[name] += time.perf_counter() - began


def count(name: str, n: int) -> None:
    """Book something counted, if somebody is measuring."""
    spent = getattr(_here, "spent", None)
    if spent is not None:
        spent[name] += n
