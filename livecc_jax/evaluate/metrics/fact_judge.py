"""A deterministic judge: of two commentaries of a clip, the one with the better facts wins.

LiveCC (arXiv 2504.16030) compares commentaries by the verdicts of a language model, which differ from
version to version. Where the truth is known, facts decide, and anyone gets the same verdicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from livecc_jax.evaluate.metrics.fact_counts import FactCounts
from livecc_jax.evaluate.metrics.statistics import ClusterBootstrap, Interval, percentile_interval


@dataclass(frozen=True)
class WinRate:
    """The verdicts on two methods.

    Attributes:
        wins: Clips that the first method wins.
        ties: Clips that neither wins.
        losses: Clips that the second method wins.
        rate: Percent of the clips that the first wins, a tie counting half; nan without clips.
        interval: 95% bootstrap interval of the rate, resampling matches.
    """

    wins: int
    ties: int
    losses: int
    rate: float
    interval: Interval


def verdict(a: FactCounts, b: FactCounts) -> float:
    """Returns 1 if commentary `a` of a clip wins, 0 if `b` does, and one half for a tie.

    The higher F1 of facts in time wins. Where it is equal, the larger share of true facts wins; a
    commentary that says nothing has none.
    """
    keys = [(c.f1, c.true / c.said if c.said else 0.0) for c in (a, b)]
    return 0.5 if keys[0] == keys[1] else float(keys[0] > keys[1])


def win_rate(
    a: Sequence[FactCounts],
    b: Sequence[FactCounts],
    groups: Sequence[str],
    resamples: int = 2000,
    seed: int = 0,
) -> WinRate:
    """Judges two methods on the same clips.

    Args:
        a: Counts of the first method, clip by clip.
        b: Counts of the second method on the same clips.
        groups: The match of each clip.
        resamples: Number of bootstrap resamples.
        seed: Seed of the bootstrap.
    """
    points = np.array([verdict(x, y) for x, y in zip(a, b, strict=True)])
    if not len(points):
        return WinRate(0, 0, 0, float("nan"), Interval(float("nan"), float("nan")))
    values = np.stack([points, np.ones(len(points))], axis=1)
    totals = ClusterBootstrap(groups, resamples, seed).totals(values)
    return WinRate(
        int((points == 1).sum()),
        int((points == 0.5).sum()),
        int((points == 0).sum()),
        100 * float(points.mean()),
        percentile_interval(100 * totals[:, 0] / totals[:, 1]),
    )
