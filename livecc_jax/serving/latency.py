"""Statistics of live sources: latency, words and losses of each, and the memory in use."""

from __future__ import annotations

import collections
import resource
import threading
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from livecc_jax.stream.turn import SpokenTurn

RECENT_TURNS = 600  # turns that percentiles and rates cover: ten minutes


@dataclass(frozen=True)
class SourceStats:
    """Statistics of one source over its latest 600 turns.

    Attributes:
        name: Name of the source.
        state: `opening`, `watching`; `stalled`, `broken` or `ended` until the source comes back;
            `finished`, `full` (its context is), `failed` or `closed` when it is over.
        second: Second of the source up to which it was commented on.
        latency_p50: Median of the seconds from the capture of a turn's last frame to the turn's text.
            For a file that is read fast, from reading the frame. NaN before the first turn.
        latency_p99: 99th percentile of the same.
        words_per_second: Number of words per second of the source.
        silent: Share of silent turns.
        dropped: Number of frames that were lost since the beginning.
        turns: Number of turns since the beginning.
        last_words: The latest words.
    """

    name: str
    state: str
    second: float
    latency_p50: float
    latency_p99: float
    words_per_second: float
    silent: float
    dropped: int
    turns: int
    last_words: str


class StatsCollector:
    """Collects the statistics of one source; one thread adds turns and others may read."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # (latency, number of words, seconds of the source) of each turn.
        self._recent: collections.deque[tuple[float, int, float]] = collections.deque(
            maxlen=RECENT_TURNS
        )
        self._turns, self._second, self._last_words = 0, 0.0, ""

    def add(self, turn: SpokenTurn, latency: float) -> None:
        """Adds a turn.

        Args:
            turn: The turn.
            latency: Seconds from the capture of its last frame to its text.
        """
        words = turn.words
        with self._lock:
            self._recent.append((latency, len(words.split()), turn.stop - turn.start))
            self._turns += 1
            self._second = turn.stop
            self._last_words = words or self._last_words

    def stats(self, name: str, state: str, dropped: int) -> SourceStats:
        """Returns the current statistics.

        Args:
            name: Name of the source.
            state: State of the source, as in `SourceStats`.
            dropped: Number of frames that were lost.
        """
        with self._lock:
            recent = list(self._recent) or [(np.nan, 0, 0.0)]
            turns, second, last_words = self._turns, self._second, self._last_words
        latencies, words, seconds = (np.array(column, np.float64) for column in zip(*recent))
        p50, p99 = np.percentile(latencies, [50, 99])
        return SourceStats(
            name=name,
            state=state,
            second=second,
            latency_p50=float(p50),
            latency_p99=float(p99),
            words_per_second=float(words.sum() / max(seconds.sum(), 1e-9)),
            silent=float(np.mean(words == 0)) if turns else 0.0,
            dropped=dropped,
            turns=turns,
            last_words=last_words,
        )


def device_bytes() -> int:
    """Returns the bytes in use on the first device, or of all live arrays if it keeps no count."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_in_use" in stats:
        return stats["bytes_in_use"]
    return sum(x.nbytes for x in jax.live_arrays())


def host_bytes() -> int:
    """Returns this process's resident bytes of main memory, or their peak where only that is known."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * resource.getpagesize()
