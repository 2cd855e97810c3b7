"""Paired bootstrap of two commentary predictions: the difference of every metric on the same clips."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from livecc_jax.evaluate.metrics.commentary_metrics import METRICS, compute_metrics
from livecc_jax.evaluate.metrics.commentary_score import score_commentary
from livecc_jax.evaluate.metrics.statistics import bootstrap_p_value, percentile_interval


@dataclass(frozen=True)
class PairedMetric:
    """A metric of two runs.

    The field names are the keys of the JSON output.

    Attributes:
        name: Name of the metric.
        unit: Unit of the metric.
        a: Value of run A.
        b: Value of run B.
        difference: b - a.
        low: Lower end of the difference's 95% bootstrap interval.
        high: Upper end of that interval.
        p: p-value of the paired bootstrap; nan for a single clip.
    """

    name: str
    unit: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class CommentaryComparison:
    """Two predictions compared on their common clips.

    Attributes:
        clips: Number of clips that both have.
        unpaired_b: Number of clips that only run B has.
        metrics: One comparison for each metric.
    """

    clips: int
    unpaired_b: int
    metrics: list[PairedMetric]

    def to_json(self) -> dict[str, Any]:
        """Returns every number; nan becomes null."""
        metrics = [
            {k: None if v != v else v for k, v in dataclasses.asdict(m).items()} for m in self.metrics
        ]
        return {
            "benchmark": "commentary",
            "clips": self.clips,
            "alone_b": self.unpaired_b,
            "rows": metrics,
        }


def compare_commentary(
    a: str | Path, b: str | Path, references: str | Path, resamples: int = 2000, seed: int = 0
) -> CommentaryComparison:
    """Compares two predictions files on the clips that both have.

    Args:
        a: Predictions of run A, as `score_commentary` takes them.
        b: Predictions of run B.
        references: References file.
        resamples: Number of bootstrap resamples over clips.
        seed: Seed of the bootstrap.

    Raises:
        DataError: A file cannot be read, or there is no common clip.
    """
    score = score_commentary(b, references, baseline=a, resamples=0)
    clips_a, clips_b = score.counts[Path(a).name], score.clips
    metrics_a, metrics_b = compute_metrics(clips_a), compute_metrics(clips_b)
    rng = np.random.default_rng(seed)
    samples = []
    for _ in range(resamples if len(clips_b) > 1 else 0):
        chosen = rng.integers(0, len(clips_b), len(clips_b))
        sample_a, sample_b = (
            compute_metrics([clips[i] for i in chosen]) for clips in (clips_a, clips_b)
        )
        samples.append({name: sample_b[name] - sample_a[name] for name in METRICS})
    metrics = []
    for name, (unit, _) in METRICS.items():
        differences = np.array([s[name] for s in samples])
        interval = percentile_interval(differences)
        p = bootstrap_p_value(differences) if len(samples) else float("nan")
        value_a, value_b = metrics_a[name], metrics_b[name]
        metrics.append(
            PairedMetric(
                name, unit, value_a, value_b, value_b - value_a, interval.low, interval.high, p
            )
        )
    unpaired = score.problem_log.problems["not in the baseline"]
    return CommentaryComparison(len(clips_b), unpaired, metrics)
