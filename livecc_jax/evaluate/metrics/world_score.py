"""Scores commentary on a synthetic world by facts, beside a ceiling and every baseline."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from livecc_jax.errors import DataError
from livecc_jax.evaluate.benchmarks.scored_answers import ProblemLog
from livecc_jax.evaluate.metrics.baselines import BASELINES
from livecc_jax.evaluate.metrics.commentary import PredictedTurn
from livecc_jax.evaluate.metrics.fact_counts import FactCounts, count_facts
from livecc_jax.evaluate.metrics.fact_errors import CLASSES
from livecc_jax.evaluate.metrics.fact_judge import WinRate, win_rate
from livecc_jax.evaluate.metrics.fact_metrics import (
    HEADLINE,
    action_table,
    fact_intervals,
    fact_metrics,
)
from livecc_jax.evaluate.metrics.predictions import read_predictions
from livecc_jax.evaluate.metrics.statistics import Interval
from livecc_jax.evaluate.metrics.world_clips import WorldClip, read_world
from livecc_jax.timeline.example import Word

PREDICTION = "prediction"
CEILING = "second draw"  # the same commentator once more: the ceiling that any model can reach


@dataclass
class WorldScore:
    """Commentary on a world, scored by facts.

    Attributes:
        path: Path of the predictions file.
        problem_log: What in that file could not be used.
        clips: The clips that are scored.
        total: Number of clips of the world.
        counts: Counts of each clip, by method: PREDICTION, CEILING and the baselines.
        metrics: Metrics by method, then by metric name.
        intervals: 95% bootstrap intervals of the prediction's metrics, over matches.
        win_rates: Of the prediction against each other method.
    """

    path: str
    problem_log: ProblemLog
    clips: list[WorldClip]
    total: int
    counts: dict[str, list[FactCounts]]
    metrics: dict[str, dict[str, float]]
    intervals: dict[str, Interval] = field(default_factory=dict)
    win_rates: dict[str, WinRate] = field(default_factory=dict)

    @property
    def errors(self) -> Counter[str]:
        """Facts of the prediction by what is wrong with them."""
        return sum((c.errors for c in self.counts[PREDICTION]), Counter())

    @property
    def share_of_ceiling(self) -> float:
        """The prediction's F1 of facts in time by that of the second draw; nan without one."""
        ceiling = self.metrics.get(CEILING, {}).get(HEADLINE, math.nan)
        return self.metrics[PREDICTION][HEADLINE] / ceiling if ceiling else math.nan

    def to_json(self) -> dict[str, Any]:
        """Returns every number; nan becomes null."""
        return {
            "benchmark": "world",
            "file": self.path,
            "clips": len(self.clips),
            "problems": {k: v for k, v in self.problem_log.problems.items() if v},
            "notes": self.problem_log.notes,
            "metrics": {
                method: {k: _finite(v) for k, v in metrics.items()}
                for method, metrics in self.metrics.items()
            },
            "intervals": {
                k: [v.low, v.high] for k, v in self.intervals.items() if math.isfinite(v.low)
            },
            "share_of_ceiling": _finite(self.share_of_ceiling),
            "win_rates": {
                name: {
                    "wins": w.wins, "ties": w.ties, "losses": w.losses, "rate": _finite(w.rate),
                    "interval": [_finite(w.interval.low), _finite(w.interval.high)],
                }
                for name, w in self.win_rates.items()
            },
            "errors": {name: self.errors[name] for name in CLASSES},
            "facts": [
                [name, said, reference, right, _finite(f1)]
                for name, said, reference, right, f1 in action_table(self.counts[PREDICTION])
            ],
        }  # fmt: skip


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def turns_of_words(words: Sequence[Word]) -> list[PredictedTurn]:
    """Returns timed words as a prediction that says each when it ends."""
    return [PredictedTurn(w.start_us, w.end_us, w.text, w.end_us) for w in words]


def score_world(
    predictions: str | Path,
    data: str | Path,
    baselines: Mapping[str, str | Path] | None = None,
    resamples: int = 500,
    seed: int = 0,
) -> WorldScore:
    """Scores timed predictions of a world's held-out matches.

    Args:
        predictions: Predictions file, as `read_predictions` reads it.
        data: The world, as `read_world` reads it.
        baselines: Further predictions by the name of their method. Clips that one of them lacks are
            left out and counted.
        resamples: Number of bootstrap resamples over matches.
        seed: Seed of the bootstrap.

    Raises:
        DataError: A file cannot be read, or no prediction is of a clip of this world.
    """
    world = {clip.id: clip for clip in read_world(data)}
    references = {name: clip.facts.reference for name, clip in world.items()}
    problem_log = ProblemLog()
    predicted = read_predictions(predictions, references, problem_log)
    problem_log.problems["missing"] = len(world) - len(predicted)
    others = {
        name: read_predictions(path, references, ProblemLog())
        for name, path in (baselines or {}).items()
    }
    ids = [i for i in world if i in predicted and all(i in other for other in others.values())]
    problem_log.problems["not in the baseline"] = len(predicted) - len(ids)
    if not ids:
        raise DataError(f"{predictions}: no timed prediction is of a clip in {data}")
    clips = [world[i] for i in ids]
    methods = {PREDICTION: [predicted[i].turns for i in ids]}
    if all(clip.second for clip in clips):
        methods[CEILING] = [turns_of_words(clip.second) for clip in clips]
    for name, other in others.items():
        methods[name] = [other[i].turns for i in ids]
    for name, predict in BASELINES.items():
        methods[name] = [predict(clip.facts.reference) for clip in clips]
    counts = {
        name: [count_facts(clip.facts, turns) for clip, turns in zip(clips, said, strict=True)]
        for name, said in methods.items()
    }
    groups = [clip.facts.group for clip in clips]
    return WorldScore(
        str(predictions),
        problem_log,
        clips,
        len(world),
        counts,
        {name: fact_metrics(c) for name, c in counts.items()},
        fact_intervals(counts[PREDICTION], groups, resamples, seed),
        {
            name: win_rate(counts[PREDICTION], c, groups, seed=seed)
            for name, c in counts.items()
            if name != PREDICTION
        },
    )
