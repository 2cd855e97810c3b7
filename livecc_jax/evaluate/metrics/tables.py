"""Entries into tables: every row with its count, its denominator and its interval."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np

from livecc_jax.evaluate.benchmarks.catalog import Layout, Mean
from livecc_jax.evaluate.benchmarks.entries import Entries, Entry
from livecc_jax.evaluate.metrics.statistics import RESAMPLES, Bootstrap, interval, ratio


@dataclass(frozen=True)
class Row:
    """One number of a table.

    facet and name say which; correct of count answers are right (both None for a mean of rows);
    unanswered are those the rule found no answer in; accuracy in percent, nan without answers; low and
    high its 95% interval over videos.
    """

    facet: str
    name: str
    correct: int | None
    count: int | None
    unanswered: int | None
    accuracy: float
    low: float
    high: float

    def to_json(self) -> dict[str, object]:
        """As JSON has it: nan becomes null."""
        return {
            k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(self).items()
        }


Key = tuple[str, str]


class Groups:
    """Which rows a layout has over these entries, and how each is computed from sums over entries."""

    def __init__(self, layout: Layout, entries: Iterable[Entry]) -> None:
        self.layout = layout
        self.entries = list(entries)
        self.keys: list[Key] = [("all", layout.pooled)]
        for facet, order in layout.facets.items():
            found = {e.labels[facet] for e in self.entries if facet in e.labels}
            ordered = [v for v in order if v in found] + sorted(found - set(order))
            self.keys += [(facet, value) for value in ordered]
        for a, b in layout.crossed:
            pairs = {
                (e.labels[a], e.labels[b]) for e in self.entries if a in e.labels and b in e.labels
            }
            ranks = {v: i for f in (a, b) for i, v in enumerate(layout.facets[f])}
            ordered_pairs = sorted(pairs, key=lambda p: [(ranks.get(v, 999), v) for v in p])
            self.keys += [(f"{a} / {b}", " / ".join(p)) for p in ordered_pairs]
        self._column = {key: i for i, key in enumerate(self.keys)}

    def membership(self) -> np.ndarray:
        """bool [entries, rows]."""
        out = np.zeros((len(self.entries), len(self.keys)), bool)
        out[:, 0] = True
        for i, entry in enumerate(self.entries):
            for facet in self.layout.facets:
                if facet in entry.labels:
                    out[i, self._column[facet, entry.labels[facet]]] = True
            for a, b in self.layout.crossed:
                if a in entry.labels and b in entry.labels:
                    name = f"{entry.labels[a]} / {entry.labels[b]}"
                    out[i, self._column[f"{a} / {b}", name]] = True
        return out

    def with_means(self, ratios: np.ndarray) -> dict[Key, np.ndarray]:
        """Rows and the means over them, from the rows' ratios [..., rows]."""
        values = {key: ratios[..., i] for key, i in self._column.items()}
        for mean in self.layout.means:
            rows = [values[k] for k in self._parts(mean) if k in values]
            stacked = np.stack(rows, -1) if rows else np.full((*ratios.shape[:-1], 1), np.nan)
            present = np.isfinite(stacked)
            total = np.where(present, stacked, 0).sum(-1)
            values["mean", mean.name] = ratio(total, present.sum(-1))
        return values

    def _parts(self, mean: Mean) -> list[Key]:
        if isinstance(mean.of, str):
            return [key for key in self.keys if key[0] == mean.of]
        return list(mean.of)


def table(layout: Layout, entries: Entries, resamples: int = RESAMPLES, seed: int = 0) -> list[Row]:
    """The benchmark's table.

    Args:
        layout: of the benchmark.
        entries: scored answers; those the benchmark's rule does not count stay out of the denominators.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        The pooled row, facets, crossed facets, means, in the layout's order.
    """
    groups = Groups(layout, entries.items)
    member = groups.membership()
    right = np.array([e.correct and e.counted for e in groups.entries], bool)
    counted = np.array([e.counted for e in groups.entries], bool)
    answered = np.array([e.answered for e in groups.entries], bool)
    rows = len(groups.keys)
    values = np.concatenate([member & right[:, None], member & counted[:, None]], axis=1)
    correct, count = (x.astype(int) for x in np.split(values.sum(0), 2))
    silent = (member & ~answered[:, None]).sum(0)
    totals = Bootstrap([e.cluster for e in groups.entries], resamples, seed).totals(values)
    point = groups.with_means(ratio(correct, count))
    drawn = groups.with_means(ratio(totals[:, :rows], totals[:, rows:]))
    out = []
    for key, value in point.items():
        span = interval(100 * drawn[key])
        numbers: tuple[int | None, ...] = (None, None, None)
        if key in groups.keys:
            i = groups.keys.index(key)
            numbers = (int(correct[i]), int(count[i]), int(silent[i]))
        out.append(Row(*key, *numbers, 100 * float(value), span.low, span.high))
    return out
