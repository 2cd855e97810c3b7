"""Paired tests of two runs on the items of one benchmark: is the difference more than chance?"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np

from livecc_jax.errors import DataError
from livecc_jax.evaluate.benchmarks.catalog import TableLayout
from livecc_jax.evaluate.benchmarks.scored_answers import ScoredAnswers
from livecc_jax.evaluate.metrics.accuracy_table import AnswerGroups
from livecc_jax.evaluate.metrics.statistics import (
    MIN_CLUSTERS,
    RESAMPLES,
    ClusterBootstrap,
    bootstrap_p_value,
    mcnemar_exact,
    percentile_interval,
    safe_ratio,
)


@dataclass(frozen=True)
class PairedDifference:
    """The difference of two runs in one table row, over the items that both runs have.

    The field names are the keys of the JSON output.

    Attributes:
        facet: What the items are grouped by.
        name: Value of the facet.
        count: Number of items; None for a mean of other table rows.
        a: Accuracy of run A in percent.
        b: Accuracy of run B in percent.
        difference: b - a in percentage points.
        low: Lower end of the difference's 95% bootstrap interval over videos.
        high: Upper end of that interval.
        only_a: Number of items that only A answers correctly; None for a mean.
        only_b: Number of items that only B answers correctly; None for a mean.
        mcnemar: p-value of McNemar's exact test; None for a mean.
        bootstrap_p: p-value of the paired bootstrap.
        videos: Number of videos (units of the bootstrap) that interval and p-value rest on.
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
    videos: int = 0

    @property
    def has_interval(self) -> bool:
        """Whether the interval says something: it rests on enough videos, and they differ."""
        return self.videos >= MIN_CLUSTERS and self.low < self.high

    def to_json(self) -> dict[str, object]:
        """Returns the fields as a JSON object; nan becomes null."""
        return {
            k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(self).items()
        }


@dataclass(frozen=True)
class AccuracyComparison:
    """Two runs compared on their common items.

    Attributes:
        common_items: Number of items that were compared.
        unpaired_a: Number of items that only run A has.
        unpaired_b: Number of items that only run B has.
        differences: One difference for each table row.
    """

    common_items: int
    unpaired_a: int
    unpaired_b: int
    differences: list[PairedDifference]


def compare_accuracy(
    layout: TableLayout, a: ScoredAnswers, b: ScoredAnswers, resamples: int = RESAMPLES, seed: int = 0
) -> AccuracyComparison:
    """Compares run B with run A, item by item.

    Each item counts once (its first answer), and an item without an answer is wrong, so that both runs
    have the same denominator. A table row may therefore differ from the benchmark's own accuracy where
    answers are missing.

    Args:
        layout: Table layout of the benchmark.
        a: Scored answers of run A.
        b: Scored answers of run B.
        resamples: Number of bootstrap resamples.
        seed: Seed of the bootstrap.

    Raises:
        DataError: The runs have no item in common.
    """
    first_a, first_b = a.first_by_id(), b.first_by_id()
    ids = sorted(first_a.keys() & first_b.keys())
    if not ids:
        raise DataError("the two files have no item in common, so there is nothing to compare")
    groups = AnswerGroups(layout, [first_a[i] for i in ids])
    member = groups.membership()
    correct = [np.array([first[i].correct for i in ids], bool) for first in (first_a, first_b)]
    values = np.concatenate([member & c[:, None] for c in correct] + [member], axis=1)
    width = len(groups.keys)
    sums = values.sum(0).astype(int)
    # The same resamples for both runs: a paired bootstrap.
    clusters = [first_a[i].cluster for i in ids]
    resampled = ClusterBootstrap(clusters, resamples, seed).totals(values)

    def accuracies(totals: np.ndarray, run: int) -> dict:
        columns = slice(run * width, (run + 1) * width)
        return groups.with_means(safe_ratio(totals[..., columns], totals[..., 2 * width :]))

    estimates = [accuracies(sums, run) for run in (0, 1)]
    samples = [accuracies(resampled, run) for run in (0, 1)]
    discordant = [(member & (correct[i] & ~correct[1 - i])[:, None]).sum(0) for i in (0, 1)]
    differences = []
    for key in estimates[0]:
        difference_samples = 100 * (samples[1][key] - samples[0][key])
        interval = percentile_interval(difference_samples)
        accuracy_a, accuracy_b = 100 * float(estimates[0][key]), 100 * float(estimates[1][key])
        mcnemar: tuple = (None, None, None)
        count, videos = None, len(set(clusters))
        if key in groups.keys:
            i = groups.keys.index(key)
            count = int(sums[2 * width + i])
            videos = len({c for c, inside in zip(clusters, member[:, i]) if inside})
            only_a, only_b = int(discordant[0][i]), int(discordant[1][i])
            mcnemar = only_a, only_b, mcnemar_exact(only_a, only_b)
        differences.append(
            PairedDifference(
                *key,
                count,
                accuracy_a,
                accuracy_b,
                accuracy_b - accuracy_a,
                interval.low,
                interval.high,
                *mcnemar,
                bootstrap_p_value(difference_samples),
                videos,
            )
        )
    return AccuracyComparison(len(ids), len(first_a) - len(ids), len(first_b) - len(ids), differences)
