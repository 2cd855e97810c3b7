"""The parts of a report about commentary on a synthetic world."""

from __future__ import annotations

import math

from livecc_jax.evaluate.metrics.fact_metrics import HEADLINE
from livecc_jax.evaluate.metrics.world_score import PREDICTION, WorldScore
from livecc_jax.evaluate.report.formatting import describe_problems, format_number
from livecc_jax.evaluate.report.world_terminal import (
    action_rows,
    describe_ceiling,
    error_rows,
    metric_rows,
    win_rate_rows,
)
from livecc_jax.reports import charts
from livecc_jax.reports.page import Block, Figure, Heading, Table, Text

MAX_TIMELINES = 5  # clips that are shown turn by turn


def world_blocks(score: WorldScore) -> list[Block]:
    """Returns the metrics of every method, verdicts, kinds of facts, errors, and the first clips."""
    counts = score.counts[PREDICTION]
    delays_s = [d / 1e6 for c in counts for d in c.delays_us]
    headline = format_number(score.metrics[PREDICTION][HEADLINE])
    interval = score.intervals.get(HEADLINE)
    bars = [
        charts.Bar(
            method,
            metrics[HEADLINE],
            interval.low if interval and method == PREDICTION else math.nan,
            interval.high if interval and method == PREDICTION else math.nan,
        )
        for method, metrics in score.metrics.items()
    ]
    return [
        Heading(f"Commentary on a synthetic world: {HEADLINE} {headline}%", 1),
        Text(
            f"{len(score.clips):,} of {score.total:,} clips, "
            f"{sum(c.words.seconds for c in counts):,.0f} s of video. File {score.path}."
        ),
        Text(describe_problems(score.problem_log.problems)),
        *([Text(describe_ceiling(score), strong=True)] if describe_ceiling(score) else []),
        Figure(charts.bar_chart(bars, HEADLINE), f"{HEADLINE} in percent, every method"),
        Heading("Metrics"),
        Table(("", "unit", *score.metrics, "95% interval"), metric_rows(score), text_columns=2),
        Heading("Verdicts"),
        Text(
            "Of two commentaries of a clip, the one with the higher F1 of facts in time wins; a tie "
            "counts half in the win rate."
        ),
        Table(
            ("against", "wins", "ties", "losses", "win rate", "95% interval"),
            [(name, *rest) for name, _, *rest in win_rate_rows(score)],
        ),
        Heading("Facts by kind"),
        Table(
            ("facts", "in the reference", "said", "in time", "F1"),
            [(name, *rest) for name, _, *rest in action_rows(score)],
        ),
        Heading("What is wrong"),
        Table(("", "facts"), [(name, number) for name, _, number in error_rows(score)]),
        Heading("Delay of the first word after an event"),
        Figure(
            charts.histogram(delays_s, "delay", "seconds after an event"),
            f"{len(delays_s):,} events that the reference mentions and that a word follows within 5 s",
        ),
        Heading("The first clips"),
        *(
            block
            for i in range(min(len(score.clips), MAX_TIMELINES))
            for block in _clip_blocks(score, i)
        ),
    ]


def _clip_blocks(score: WorldScore, number: int) -> list[Block]:
    clip, counts = score.clips[number], score.counts[PREDICTION][number]
    rows = []
    for turn in counts.words.turns:
        start, stop = turn.start_us, turn.stop_us
        human = [w.text for w in clip.facts.reference.words if start < w.end_us <= stop]
        happened = [
            str(f) for f in clip.facts.truth if f.kind == "event" and start < 1e6 * f.time <= stop
        ]
        rows.append(
            (f"{start / 1e6:g}-{stop / 1e6:g}", ", ".join(happened), " ".join(human), turn.text)
        )
    return [
        Heading(f"{clip.id}: F1 {format_number(100 * counts.f1)}%", 3),
        Table(("seconds", "what happens", "reference", "prediction"), rows, text_columns=4),
    ]
