"""Formats the score of a commentary on a synthetic world as text tables for a terminal."""

from __future__ import annotations

import math

from livecc_jax.evaluate.metrics.fact_errors import CLASSES
from livecc_jax.evaluate.metrics.fact_metrics import ALL_METRICS, HEADLINE, action_table
from livecc_jax.evaluate.metrics.world_score import CEILING, PREDICTION, WorldScore
from livecc_jax.evaluate.report.formatting import (
    align_columns,
    describe_problems,
    format_count,
    format_interval,
    format_metric,
    format_number,
)


def metric_rows(score: WorldScore) -> list[tuple[str, ...]]:
    """Returns (metric, unit, value of each method, interval) of every metric."""
    rows = []
    for name, (unit, _) in ALL_METRICS.items():
        interval = score.intervals.get(name)
        values = (format_metric(metrics[name]) for metrics in score.metrics.values())
        rows.append(
            (name, unit, *values, format_interval(interval.low, interval.high) if interval else "-")
        )
    return rows


def win_rate_rows(score: WorldScore) -> list[tuple[str, ...]]:
    """Returns (method, wins, ties, losses, win rate, interval) against each other method."""
    return [
        (
            name, "", format_count(w.wins), format_count(w.ties), format_count(w.losses),
            f"{format_number(w.rate)}%", format_interval(w.interval.low, w.interval.high),
        )
        for name, w in score.win_rates.items()
    ]  # fmt: skip


def action_rows(score: WorldScore) -> list[tuple[str, ...]]:
    """Returns (fact, in the reference, said, in time, F1) of every kind of fact."""
    return [
        (name, "", *map(format_count, (reference, said, right)), format_number(f1))
        for name, said, reference, right, f1 in action_table(score.counts[PREDICTION])
    ]


def error_rows(score: WorldScore) -> list[tuple[str, ...]]:
    """Returns (class, facts) of what is wrong with the facts, in order."""
    return [(name, "", format_count(score.errors[name])) for name in CLASSES]


def describe_ceiling(score: WorldScore) -> str:
    """Returns one sentence on the share of the ceiling; empty without a second draw."""
    if math.isnan(score.share_of_ceiling):
        return ""
    metrics = score.metrics
    return (
        f"{HEADLINE}: {format_number(metrics[PREDICTION][HEADLINE])}% of a ceiling of "
        f"{format_number(metrics[CEILING][HEADLINE])}% ({CEILING}): "
        f"{format_number(100 * score.share_of_ceiling)}% of it."
    )


def format_world(score: WorldScore) -> str:
    """Formats every metric of all methods, the verdicts, the kinds of facts and what is wrong."""
    counts = score.counts[PREDICTION]
    lines = [
        f"World: {len(score.clips):,} of {score.total:,} clips, "
        f"{sum(c.words.seconds for c in counts):,.0f} s, "
        f"{sum(c.reference for c in counts):,} facts in the reference, "
        f"{sum(c.said for c in counts):,} said  ({score.path})",
        *filter(None, [describe_ceiling(score)]),
        "",
        *align_columns(("", "", *score.metrics, "95% interval"), metric_rows(score)),
        "",
        *align_columns(
            ("against", "", "wins", "ties", "losses", "win rate", "95% interval"), win_rate_rows(score)
        ),
        "",
        *align_columns(("facts", "", "reference", "said", "in time", "F1"), action_rows(score)),
        "",
        *align_columns(("what is wrong", "", "facts"), error_rows(score)),
        "",
        describe_problems(score.problem_log.problems),
        *(f"  {note}" for note in score.problem_log.notes),
    ]
    return "\n".join(lines)
