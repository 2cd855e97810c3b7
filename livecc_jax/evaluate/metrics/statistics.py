"""How sure a number is: bootstrap intervals over videos, and whether two runs differ.

Questions about one video are not independent, so whole videos are drawn again, with all their questions
(the cluster bootstrap). Every interval comes from a seed and is the same each time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
_CHUNK = 256  # resamples at once: 256 x 4,000 videos of float64 are 8 MB


@dataclass(frozen=True)
class Interval:
    """A percentile interval; nan when there is nothing to draw from."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"[{self.low:.1f}, {self.high:.1f}]"


class Bootstrap:
    """Resampled totals of per-item values.

    Args:
        clusters: the cluster (video) of each item; drawn with all its items.
        resamples: how many times.
        seed: of the draws; the same seed over the same clusters draws the same, so two runs over the
            same items can be compared pair by pair.
    """

    def __init__(self, clusters: Sequence[str], resamples: int = RESAMPLES, seed: int = 0) -> None:
        # Sorted, so that the order of a results file does not change the interval.
        names, self._of = np.unique(np.array(list(clusters), dtype=str), return_inverse=True)
        self.clusters, self._resamples, self._seed = len(names), resamples, seed

    def totals(self, values: np.ndarray) -> np.ndarray:
        """Sums over resamples.

        Args:
            values: [items, k].

        Returns:
            float64 [resamples, k].
        """
        values = np.asarray(values, np.float64)
        sums = np.zeros((self.clusters, values.shape[1]))
        np.add.at(sums, self._of, values)
        rng = np.random.default_rng(self._seed)
        n = self.clusters
        rows = [np.zeros((0, values.shape[1]))]
        for first in range(0, self._resamples, _CHUNK):
            draws = rng.integers(0, n, (min(_CHUNK, self._resamples - first), n)) if n else None
            if draws is not None:
                counts = np.stack([np.bincount(d, minlength=n) for d in draws])
                rows.append(counts @ sums)
        return np.concatenate(rows)


def interval(samples: np.ndarray, level: float = LEVEL) -> Interval:
    """Percentile interval of resampled statistics [resamples]; nans (an empty group) are left out."""
    kept = samples[np.isfinite(samples)]
    if not len(kept):
        return Interval(math.nan, math.nan)
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Element by element, nan where the denominator is 0."""
    out = np.full(np.shape(numerator), np.nan)
    return np.divide(numerator, denominator, out=out, where=np.asarray(denominator) > 0)


def bootstrap_p(samples: np.ndarray) -> float:
    """Two-sided p-value of a resampled difference being 0: twice the smaller tail, at least 1 of
    resamples + 1 (a bootstrap cannot say less)."""
    kept = samples[np.isfinite(samples)]
    if not len(kept):
        return math.nan
    tail = min(int((kept <= 0).sum()), int((kept >= 0).sum()))
    return min(1.0, 2 * (tail + 1) / (len(kept) + 1))


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """McNemar's exact test, two-sided.

    Args:
        only_a: items that A alone has right.
        only_b: items that B alone has right.

    Returns:
        The probability of a split at least as uneven if each were equally likely; 1 when A and B agree
        on every item.
    """
    n = only_a + only_b
    if not n:
        return 1.0
    tail = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * tail / 2**n)
