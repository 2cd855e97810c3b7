"""How live sources are doing: what a table or a log shows of each, and of the machine."""

from __future__ import annotations

import collections
import resource
import threading
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from livecc_jax.stream.session import SpokenTurn

RECENT = 600  # turns that figures are of: ten minutes


@dataclass(frozen=True)
class Figures:
    """One source, over its latest 600 turns.

    Attributes:
        state: `opening`, `watching`; `stalled`, `broken` or `ended` until it comes back; `finished`,
            `full` (its context is), `failed` or `closed` for good.
        second: of the source, up to which was commented on.
        late_p50, late_p99: seconds from the capture of a turn's last frame (of a file read fast: from
            reading it) to the turn's words; NaN before the first.
        words_per_second: of the source.
        silent: share of turns that say nothing.
        dropped: frames that were lost, since the beginning.
        turns: since the beginning.
        last: the latest words.
    """

    name: str
    state: str
    second: float
    late_p50: float
    late_p99: float
    words_per_second: float
    silent: float
    dropped: int
    turns: int
    last: str


class Tally:
    """Adds turns up; from one thread, and read from others."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Of each turn: how late, how many words, how many seconds of the source.
        self._recent: collections.deque[tuple[float, int, float]] = collections.deque(maxlen=RECENT)
        self._turns, self._second, self._last = 0, 0.0, ""

    def add(self, spoken: SpokenTurn, late: float) -> None:
        """A turn, so many seconds after its last frame."""
        words = spoken.words
        with self._lock:
            self._recent.append((late, len(words.split()), spoken.stop - spoken.start))
            self._turns += 1
            self._second = spoken.stop
            self._last = words or self._last

    def figures(self, name: str, state: str, dropped: int) -> Figures:
        """As they are now."""
        with self._lock:
            recent, turns, second, last = list(self._recent), self._turns, self._second, self._last
        late, words, spans = (np.array(x, np.float64) for x in zip(*(recent or [(np.nan, 0, 0)])))
        p50, p99 = np.percentile(late, [50, 99])
        return Figures(
            name=name,
            state=state,
            second=second,
            late_p50=float(p50),
            late_p99=float(p99),
            words_per_second=float(words.sum() / max(spans.sum(), 1e-9)),
            silent=float(np.mean(words == 0)) if turns else 0.0,
            dropped=dropped,
            turns=turns,
            last=last,
        )


def device_bytes() -> int:
    """In use on the first device; of one that keeps no count, the bytes of all arrays there are."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_in_use" in stats:
        return stats["bytes_in_use"]
    return sum(x.nbytes for x in jax.live_arrays())


def host_bytes() -> int:
    """Of this process in main memory; the most there ever were, where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * resource.getpagesize()
