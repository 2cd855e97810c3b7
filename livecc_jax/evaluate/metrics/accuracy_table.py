"""The accuracy table of a benchmark: correct answers, denominators and bootstrap intervals by group."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np

from livecc_jax.evaluate.benchmarks.catalog import MeanRow, TableLayout
from livecc_jax.evaluate.benchmarks.scored_answers import ScoredAnswer, ScoredAnswers
from livecc_jax.evaluate.metrics.statistics import (
    MIN_CLUSTERS,
    RESAMPLES,
    ClusterBootstrap,
    percentile_interval,
    safe_ratio,
)


@dataclass(frozen=True)
class TableRow:
    """One accuracy of a table.

    The field names are the keys of the JSON output.

    Attributes:
        facet: What the answers are grouped by, such as `duration` or `task`.
        name: Value of the facet, such as `short`.
        correct: Number of correct answers; None for a mean of other table rows.
        count: Denominator; None for a mean of other table rows.
        unanswered: Number of responses in which the benchmark's rule finds no answer; None for a mean.
        accuracy: Accuracy in percent; nan without answers.
        low: Lower end of the 95% bootstrap interval over videos.
        high: Upper end of that interval.
        videos: Number of videos (units of the bootstrap) that the interval rests on.
        chance: Percent that guessing gets right: the mean of 1 / options over the answers that count;
            nan if the options of some are not known.
    """

    facet: str
    name: str
    correct: int | None
    count: int | None
    unanswered: int | None
    accuracy: float
    low: float
    high: float
    videos: int = 0
    chance: float = math.nan

    @property
    def has_interval(self) -> bool:
        """Whether the interval says something: it rests on enough videos, and they differ."""
        return self.videos >= MIN_CLUSTERS and self.low < self.high

    def to_json(self) -> dict[str, object]:
        """Returns the fields as a JSON object; nan becomes null."""
        return {
            k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(self).items()
        }


RowKey = tuple[str, str]  # (facet, name)


class AnswerGroups:
    """The groups of answers that a table layout asks for, and which answers belong to each.

    Args:
        layout: Table layout of the benchmark.
        answers: Scored answers of a results file.

    Attributes:
        keys: (facet, name) of every group: all answers, then facets, then crossed facets.
    """

    def __init__(self, layout: TableLayout, answers: Iterable[ScoredAnswer]) -> None:
        self.layout = layout
        self.answers = list(answers)
        self.keys: list[RowKey] = [("all", layout.pooled)]
        for facet, order in layout.facets.items():
            present = {e.labels[facet] for e in self.answers if facet in e.labels}
            ordered = [v for v in order if v in present] + sorted(present - set(order))
            self.keys += [(facet, value) for value in ordered]
        for a, b in layout.crossed:
            pairs = {
                (e.labels[a], e.labels[b]) for e in self.answers if a in e.labels and b in e.labels
            }
            ranks = {v: i for f in (a, b) for i, v in enumerate(layout.facets[f])}
            ordered_pairs = sorted(pairs, key=lambda p: [(ranks.get(v, 999), v) for v in p])
            self.keys += [(f"{a} / {b}", " / ".join(p)) for p in ordered_pairs]
        self._column = {key: i for i, key in enumerate(self.keys)}

    def membership(self) -> np.ndarray:
        """Returns which answer belongs to which group, bool [answers, groups]."""
        out = np.zeros((len(self.answers), len(self.keys)), bool)
        out[:, 0] = True
        for i, answer in enumerate(self.answers):
            for facet in self.layout.facets:
                if facet in answer.labels:
                    out[i, self._column[facet, answer.labels[facet]]] = True
            for a, b in self.layout.crossed:
                if a in answer.labels and b in answer.labels:
                    name = f"{answer.labels[a]} / {answer.labels[b]}"
                    out[i, self._column[f"{a} / {b}", name]] = True
        return out

    def with_means(self, ratios: np.ndarray) -> dict[RowKey, np.ndarray]:
        """Adds the means over groups to the accuracies of the groups.

        Args:
            ratios: Accuracy of every group, [..., groups].

        Returns:
            (facet, name) to accuracies [...], groups first, then the means of the layout. A group
            without answers is left out of a mean.
        """
        values = {key: ratios[..., i] for key, i in self._column.items()}
        for mean in self.layout.means:
            averaged = [values[k] for k in self._averaged_keys(mean) if k in values]
            stacked = np.stack(averaged, -1) if averaged else np.full((*ratios.shape[:-1], 1), np.nan)
            present = np.isfinite(stacked)
            total = np.where(present, stacked, 0).sum(-1)
            values["mean", mean.name] = safe_ratio(total, present.sum(-1))
        return values

    def _averaged_keys(self, mean: MeanRow) -> list[RowKey]:
        if isinstance(mean.rows, str):
            return [key for key in self.keys if key[0] == mean.rows]
        return list(mean.rows)


def accuracy_table(
    layout: TableLayout, answers: ScoredAnswers, resamples: int = RESAMPLES, seed: int = 0
) -> list[TableRow]:
    """Computes the benchmark's table.

    Args:
        layout: Table layout of the benchmark.
        answers: Scored answers. Those that the benchmark's rule does not count are left out of the
            denominators.
        resamples: Number of bootstrap resamples.
        seed: Seed of the bootstrap.

    Returns:
        The row of all answers, then facets, crossed facets and means, in the layout's order.
    """
    groups = AnswerGroups(layout, answers.items)
    member = groups.membership()
    correct_and_counted = np.array([e.correct and e.in_denominator for e in groups.answers], bool)
    counted = np.array([e.in_denominator for e in groups.answers], bool)
    answered = np.array([e.answered for e in groups.answers], bool)
    width = len(groups.keys)
    values = np.concatenate([member & correct_and_counted[:, None], member & counted[:, None]], axis=1)
    correct, count = (x.astype(int) for x in np.split(values.sum(0), 2))
    unanswered = (member & ~answered[:, None]).sum(0)
    clusters = [e.cluster for e in groups.answers]
    chance = np.array([e.chance for e in groups.answers], float)
    # The sum of a group with an answer of unknown options is nan.
    known = np.where(member & counted[:, None], chance[:, None], 0.0).sum(0)
    chances = groups.with_means(safe_ratio(known, count))
    unknown = groups.with_means(np.isnan(known).astype(float))  # a mean with an unknown part, too
    bootstrap = ClusterBootstrap(clusters, resamples, seed)
    totals = bootstrap.totals(values)
    estimates = groups.with_means(safe_ratio(correct, count))
    resampled = groups.with_means(safe_ratio(totals[:, :width], totals[:, width:]))
    table = []
    for key, value in estimates.items():
        interval = percentile_interval(100 * resampled[key])
        numbers: tuple[int | None, ...] = (None, None, None)
        videos = bootstrap.clusters
        if key in groups.keys:
            i = groups.keys.index(key)
            numbers = (int(correct[i]), int(count[i]), int(unanswered[i]))
            videos = len({c for c, inside in zip(clusters, member[:, i] & counted) if inside})
        percent = 100 * float(value)
        guess = math.nan if unknown[key] > 0 else 100 * float(chances[key])
        table.append(TableRow(*key, *numbers, percent, interval.low, interval.high, videos, guess))
    return table
