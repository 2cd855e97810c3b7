"""Scores commentary predictions against references, together with the trivial baselines."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from livecc_jax.data.files.media_root import MediaRoot
from livecc_jax.errors import DataError
from livecc_jax.evaluate.benchmarks.scored_answers import ProblemLog
from livecc_jax.evaluate.metrics.baselines import BASELINES
from livecc_jax.evaluate.metrics.commentary import ClipCounts, count_clip
from livecc_jax.evaluate.metrics.commentary_metrics import bootstrap_intervals, compute_metrics
from livecc_jax.evaluate.metrics.perplexity import TeacherForcedClip, perplexity_by_second
from livecc_jax.evaluate.metrics.predictions import ClipPrediction, read_predictions
from livecc_jax.evaluate.metrics.references import read_references
from livecc_jax.evaluate.metrics.statistics import Interval

PREDICTION = "prediction"  # the name of the scored predictions among the methods


@dataclass
class CommentaryScore:
    """Predictions scored against references.

    Attributes:
        path: Path of the predictions file.
        problem_log: What in that file could not be used.
        references: Number of clips that have a reference.
        counts: Counts of each clip, by method: PREDICTION and the baselines.
        metrics: Metrics by method, then by metric name.
        intervals: 95% bootstrap intervals of the prediction's metrics, by metric name.
    """

    path: str
    problem_log: ProblemLog
    references: int
    counts: dict[str, list[ClipCounts]]
    metrics: dict[str, dict[str, float]]
    intervals: dict[str, Interval] = field(default_factory=dict)

    @property
    def clips(self) -> list[ClipCounts]:
        """Counts of the prediction's clips."""
        return self.counts[PREDICTION]

    @property
    def teacher_forced(self) -> list[TeacherForcedClip]:
        """Costs of the reference's tokens, for the clips whose prediction holds them."""
        return [c.teacher_forced for c in self.clips if c.teacher_forced]

    def to_json(self) -> dict[str, Any]:
        """Returns every number, and how many clips it is computed over; nan becomes null."""
        return {
            "benchmark": "commentary",
            "file": self.path,
            "clips": len(self.clips),
            "problems": {k: v for k, v in self.problem_log.problems.items() if v},
            "notes": self.problem_log.notes,
            "metrics": {
                method: {k: v if math.isfinite(v) else None for k, v in metrics.items()}
                for method, metrics in self.metrics.items()
            },
            "intervals": {
                k: [v.low, v.high] for k, v in self.intervals.items() if math.isfinite(v.low)
            },
            "not_beaten": unbeaten_baselines(self.metrics),
            "perplexity_by_second": [
                {k: v if math.isfinite(v) else None for k, v in dataclasses.asdict(p).items()}
                for p in perplexity_by_second(self.teacher_forced)
            ],
        }


def score_commentary(
    predictions: str | Path,
    references: str | Path,
    baseline: str | Path | None = None,
    resamples: int = 500,
    seed: int = 0,
    media_root: MediaRoot | None = None,
) -> CommentaryScore:
    """Scores timed predictions, and every baseline on the same clips.

    Args:
        predictions: Predictions file, as `read_predictions` reads it.
        references: References file, as `read_references` reads it.
        baseline: Other predictions. Clips that they lack are left out and counted.
        resamples: Number of bootstrap resamples over clips.
        seed: Seed of the bootstrap.
        media_root: Confines the videos of which a report shows pictures.

    Raises:
        DataError: A file cannot be read, or no prediction is of a clip that has a reference.
    """
    references_by_clip = read_references(references, media_root)
    problem_log = ProblemLog()
    predicted = read_predictions(predictions, references_by_clip, problem_log)
    problem_log.problems["missing"] = len(references_by_clip) - len(predicted)
    others: dict[str, dict[str, ClipPrediction]] = {}
    if baseline is not None:
        others[Path(baseline).name] = read_predictions(baseline, references_by_clip, ProblemLog())
    clips = [
        references_by_clip[i] for i in sorted(predicted) if all(i in other for other in others.values())
    ]
    problem_log.problems["not in the baseline"] = len(predicted) - len(clips)
    if not clips:
        raise DataError(f"{predictions}: no timed prediction is of a clip in {references}")
    counts = {PREDICTION: [count_clip(c, *predicted[c.id]) for c in clips]}
    for name, other in others.items():
        counts[name] = [count_clip(c, *other[c.id]) for c in clips]
    for name, predict in BASELINES.items():
        counts[name] = [count_clip(c, predict(c)) for c in clips]
    metrics = {method: compute_metrics(clip_counts) for method, clip_counts in counts.items()}
    intervals = bootstrap_intervals(counts[PREDICTION], resamples, seed)
    path, total = str(predictions), len(references_by_clip)
    return CommentaryScore(path, problem_log, total, counts, metrics, intervals)


def unbeaten_baselines(metrics: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Returns one sentence for each comparison in which a baseline is at least as good.

    Args:
        metrics: Metrics by method, PREDICTION among them, then by metric name.
    """
    prediction = metrics[PREDICTION]
    sentences = []
    for method, baseline in metrics.items():
        if method == PREDICTION:
            continue
        for metric in ("word F1", "seconds told right"):
            value = prediction[metric] if math.isfinite(prediction[metric]) else 0.0
            if math.isfinite(baseline[metric]) and value <= baseline[metric]:
                sentences.append(
                    f"Does not beat “{method}” in {metric}: "
                    f"{value:.1f}% against {baseline[metric]:.1f}%."
                )
    return sentences
