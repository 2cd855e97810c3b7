"""Confidence intervals and significance tests: the cluster bootstrap and McNemar's exact test.

Questions about one video are not independent, so the bootstrap resamples whole videos with all their
questions (cluster bootstrap). Every interval depends on a seed and is the same on every call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

RESAMPLES = 2000
CONFIDENCE_LEVEL = 0.95
# Clusters from which a bootstrap says something: of fewer, a resample often misses whole answers, and
# the interval is far too short.
MIN_CLUSTERS = 20
_CHUNK = 256  # resamples drawn at a time: 256 x 4,000 videos of float64 are 8 MB


@dataclass(frozen=True)
class Interval:
    """A percentile interval of the bootstrap; both ends are nan when there is nothing to resample."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"[{self.low:.1f}, {self.high:.1f}]"


class ClusterBootstrap:
    """Bootstrap totals of per-item values, resampling whole clusters of items.

    Args:
        clusters: Name of the cluster (the video) of each item.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling. The same seed over the same clusters draws the same resamples, so
            two runs over the same items can be compared resample by resample.
    """

    def __init__(self, clusters: Sequence[str], resamples: int = RESAMPLES, seed: int = 0) -> None:
        # np.unique sorts the names, so the order of a results file does not change the interval.
        names, self._cluster_index = np.unique(np.array(list(clusters), dtype=str), return_inverse=True)
        self.clusters, self._resamples, self._seed = len(names), resamples, seed

    def totals(self, values: np.ndarray) -> np.ndarray:
        """Returns the column sums of every resample.

        Args:
            values: Values of the items, [items, k].

        Returns:
            float64 [resamples, k].
        """
        values = np.asarray(values, np.float64)
        cluster_sums = np.zeros((self.clusters, values.shape[1]))
        np.add.at(cluster_sums, self._cluster_index, values)
        n = self.clusters
        if n < 2:  # every resample is the data
            return np.repeat(cluster_sums, self._resamples if n else 0, axis=0)

        def resampled(draws: np.ndarray, axis: int = -1) -> np.ndarray:
            counts = np.stack([np.bincount(draw, minlength=n) for draw in np.atleast_2d(draws)])
            return (counts @ cluster_sums).T

        return stats.bootstrap(
            (np.arange(n),),
            resampled,
            n_resamples=self._resamples,
            batch=_CHUNK,
            vectorized=True,
            method="percentile",
            rng=np.random.default_rng(self._seed),
        ).bootstrap_distribution.T


def percentile_interval(samples: np.ndarray, level: float = CONFIDENCE_LEVEL) -> Interval:
    """Returns the percentile interval of resampled statistics.

    Args:
        samples: Resampled statistic, [resamples]; nan (an empty group in a resample) is ignored.
        level: Confidence level.
    """
    finite = samples[np.isfinite(samples)]
    if not len(finite):
        return Interval(math.nan, math.nan)
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def safe_ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divides element by element; the result is nan where the denominator is 0."""
    out = np.full(np.shape(numerator), np.nan)
    return np.divide(numerator, denominator, out=out, where=np.asarray(denominator) > 0)


def bootstrap_p_value(samples: np.ndarray) -> float:
    """Returns the two-sided p-value of the hypothesis that a resampled difference is 0.

    It is twice the smaller tail, counted so that it is never below 2 / (resamples + 1), the smallest
    value that so many resamples can support.

    Args:
        samples: Resampled difference, [resamples]; nan is ignored.
    """
    finite = samples[np.isfinite(samples)]
    if not len(finite):
        return math.nan
    tail = min(int((finite <= 0).sum()), int((finite >= 0).sum()))
    return min(1.0, 2 * (tail + 1) / (len(finite) + 1))


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """McNemar's exact test of two classifiers on the same items, two-sided.

    Args:
        only_a: Number of items that only A answers correctly.
        only_b: Number of items that only B answers correctly.

    Returns:
        Probability of a split at least as uneven if both directions were equally likely; 1 when A and
        B agree on every item.
    """
    n = only_a + only_b
    return float(stats.binomtest(min(only_a, only_b), n, 0.5).pvalue) if n else 1.0
