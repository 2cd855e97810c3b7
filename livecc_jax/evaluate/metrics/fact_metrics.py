"""Metrics of commentary by facts, pooled over clips, with bootstrap intervals over matches.

Formulas are in docs/evaluation/world.md.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from livecc_jax.evaluate.metrics.commentary_metrics import compute_metrics
from livecc_jax.evaluate.metrics.fact_counts import FactCounts
from livecc_jax.evaluate.metrics.statistics import Interval, percentile_interval

HEADLINE = "fact F1, in time"

# Name: (unit, whether a larger value is better; None where neither is). The names are keys of reports.
FACT_METRICS: dict[str, tuple[str, bool | None]] = {
    HEADLINE: ("%", True),
    "fact precision, in time": ("%", True),
    "fact recall, in time": ("%", True),
    "fact F1, at any time": ("%", True),
    "fact F1, names aside": ("%", True),
    "right names": ("%", True),
    "right score": ("%", True),
    "true facts": ("%", True),
    "facts a minute": ("1/min", None),
    "delay after an event, median": ("s", False),
    "delay after an event, 90th percentile": ("s", False),
}
# Metrics of words that stand beside them; formulas in docs/evaluation.md.
WORD_METRICS: dict[str, tuple[str, bool | None]] = {
    "trigger F1": ("%", True),
    "silence recall": ("%", True),
    "seconds told right": ("%", True),
    "false alarms a quiet minute": ("1/min", False),
    "repeated 4-grams": ("%", False),
}
ALL_METRICS = FACT_METRICS | WORD_METRICS


def fact_metrics(clips: Sequence[FactCounts]) -> dict[str, float]:
    """Returns every metric by its name in ALL_METRICS, pooled over clips; nan for a part of 0."""
    said, reference, in_time, any_time, but_names, named, named_right, scores, scores_right, true = (
        sum(getattr(c, name) for c in clips)
        for name in (
            "said", "reference", "in_time", "any_time", "but_names", "named", "named_right", "scores",
            "scores_right", "true",
        )
    )  # fmt: skip
    delays_s = np.array([d for c in clips for d in c.delays_us], np.float64) / 1e6
    words = compute_metrics([c.words for c in clips])
    return {
        HEADLINE: _percent(2 * in_time, said + reference),
        "fact precision, in time": _percent(in_time, said),
        "fact recall, in time": _percent(in_time, reference),
        "fact F1, at any time": _percent(2 * any_time, said + reference),
        "fact F1, names aside": _percent(2 * (in_time + but_names), said + reference),
        "right names": _percent(named_right, named),
        "right score": _percent(scores_right, scores),
        "true facts": _percent(true, said),
        "facts a minute": said / max(sum(c.words.seconds for c in clips) / 60, 1e-9),
        "delay after an event, median": float(np.median(delays_s)) if len(delays_s) else math.nan,
        "delay after an event, 90th percentile": (
            float(np.quantile(delays_s, 0.9)) if len(delays_s) else math.nan
        ),
        **{name: words[name] for name in WORD_METRICS},
    }


def _percent(part: float, whole: float) -> float:
    return 100 * part / whole if whole else math.nan


def action_table(clips: Sequence[FactCounts]) -> list[tuple[str, int, int, int, float]]:
    """Returns (fact, said, in the reference, in time, F1 in percent) by kind and action, in order."""
    totals: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for clip in clips:
        for key, counts in clip.by_action.items():
            totals[key] = [a + b for a, b in zip(totals[key], counts)]
    return [
        (" ".join(dict.fromkeys(key)), said, reference, right, _percent(2 * right, said + reference))
        for key, (said, reference, right) in sorted(totals.items())
    ]


def fact_intervals(
    clips: Sequence[FactCounts], groups: Sequence[str], resamples: int, seed: int
) -> dict[str, Interval]:
    """Returns the 95% bootstrap interval of every metric, resampling matches; empty for one match.

    Args:
        clips: Counts of the clips.
        groups: The match of each clip.
        resamples: Number of resamples.
        seed: Seed of the resampling.
    """
    by_group: dict[str, list[FactCounts]] = defaultdict(list)
    for clip, group in zip(clips, groups, strict=True):
        by_group[group].append(clip)
    names = sorted(by_group)
    if len(names) < 2:
        return {}
    rng = np.random.default_rng(seed)
    samples = []
    for _ in range(resamples):
        drawn = rng.integers(0, len(names), len(names))
        samples.append(fact_metrics([c for i in drawn for c in by_group[names[i]]]))
    return {name: percentile_interval(np.array([s[name] for s in samples])) for name in ALL_METRICS}
