"""Two runs on the same items: is the difference more than chance?"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np

from livecc_jax.errors import DataError
from livecc_jax.evaluate.benchmarks.catalog import Layout
from livecc_jax.evaluate.benchmarks.entries import Entries
from livecc_jax.evaluate.metrics.statistics import (
    RESAMPLES,
    Bootstrap,
    bootstrap_p,
    interval,
    mcnemar_exact,
    ratio,
)
from livecc_jax.evaluate.metrics.tables import Groups


@dataclass(frozen=True)
class Difference:
    """One row of a comparison, over the items both runs have.

    a and b in percent; difference is b - a in points with its 95% interval over videos; only_a and
    only_b count the items that one alone has right, mcnemar their exact test (None for a mean of rows);
    bootstrap_p is the paired bootstrap's p-value.
    """

    facet: str
    name: str
    count: int | None
    a: float
    b: float
    difference: float
    low: float
    high: float
    only_a: int | None
    only_b: int | None
    mcnemar: float | None
    bootstrap_p: float

    def to_json(self) -> dict[str, object]:
        """As JSON has it: nan becomes null."""
        return {
            k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(self).items()
        }


@dataclass(frozen=True)
class Comparison:
    """common items were compared; the others are in one run alone."""

    common: int
    alone_a: int
    alone_b: int
    rows: list[Difference]


def compare(
    layout: Layout, a: Entries, b: Entries, resamples: int = RESAMPLES, seed: int = 0
) -> Comparison:
    """Compare run B with run A, item by item.

    Each item counts once (its first entry) and an item without an answer is wrong, so that both runs
    have one denominator; a row may so differ from the published rule's where answers are missing.

    Raises:
        DataError: the runs have no item in common.
    """
    first_a, first_b = a.first(), b.first()
    ids = sorted(first_a.keys() & first_b.keys())
    if not ids:
        raise DataError("the two files have no item in common, so there is nothing to compare")
    groups = Groups(layout, [first_a[i] for i in ids])
    member = groups.membership()
    right = [np.array([first[i].correct for i in ids], bool) for first in (first_a, first_b)]
    values = np.concatenate([member & r[:, None] for r in right] + [member], axis=1)
    rows = len(groups.keys)
    sums = values.sum(0).astype(int)
    drawn = Bootstrap([first_a[i].cluster for i in ids], resamples, seed).totals(values)

    def means(totals: np.ndarray, run: int) -> dict:
        span = slice(run * rows, (run + 1) * rows)
        return groups.with_means(ratio(totals[..., span], totals[..., 2 * rows :]))

    point = [means(sums, run) for run in (0, 1)]
    samples = [means(drawn, run) for run in (0, 1)]
    only = [(member & (right[i] & ~right[1 - i])[:, None]).sum(0) for i in (0, 1)]
    out = []
    for key in point[0]:
        spread = 100 * (samples[1][key] - samples[0][key])
        span = interval(spread)
        va, vb = 100 * float(point[0][key]), 100 * float(point[1][key])
        paired: tuple = (None, None, None)
        count = None
        if key in groups.keys:
            i = groups.keys.index(key)
            count = int(sums[2 * rows + i])
            paired = int(only[0][i]), int(only[1][i]), mcnemar_exact(int(only[0][i]), int(only[1][i]))
        out.append(
            Difference(*key, count, va, vb, vb - va, span.low, span.high, *paired, bootstrap_p(spread))
        )
    return Comparison(len(ids), len(first_a) - len(ids), len(first_b) - len(ids), out)
