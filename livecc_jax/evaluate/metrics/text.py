"""Tables for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from livecc_jax.evaluate.metrics.commentary import METRICS
from livecc_jax.evaluate.metrics.compare import Comparison
from livecc_jax.evaluate.metrics.score import Scored, counts, strict_accuracy
from livecc_jax.evaluate.metrics.timed import PREDICTION, Commentary, forced_line, not_beaten


def scored_text(scored: Scored, full: bool = False) -> str:
    """A results file's table, with every denominator and what it leaves out.

    Args:
        scored: what to show.
        full: also facets crossed with each other.
    """
    headline = scored.headline
    lines = [
        f"{scored.layout.title}: {headline.name} {number(headline.accuracy)}% "
        f"{span(headline.low, headline.high)}  ({scored.path})",
        "",
        *columns(
            ("", "", "right", "of", "no answer", "accuracy", "95% interval"),
            [
                (
                    row.facet,
                    row.name,
                    whole(row.correct),
                    whole(row.count),
                    whole(row.unanswered),
                    number(row.accuracy),
                    span(row.low, row.high),
                )
                for row in scored.rows
                if full or " / " not in row.facet
            ],
        ),
        "",
        *count_lines(scored),
    ]
    return "\n".join(lines)


def count_lines(scored: Scored) -> list[str]:
    """Sentences on what was counted, and the first problems in words."""
    told = counts(scored.entries)
    size = f" of the benchmark's {told['expected']:,}" if told["expected"] else ""
    lines = [f"{told['items']:,} items{size}; the denominator has {told['in the denominator']:,}."]
    left = [f"{told[k]:,} {k}" for k in _PROBLEMS if told[k]]
    lines.append(f"Counted apart: {', '.join(left)}." if left else "Nothing was left out or repeated.")
    correct, of, accuracy = strict_accuracy(scored.entries)
    lines.append(
        f"With each item once and everything else wrong: {correct:,} of {of:,}, {number(accuracy)}%."
    )
    for name, value in scored.extra.items():
        lines.append(f"{name}: {number(value) if isinstance(value, float) else value}")
    lines += [f"  {note}" for note in scored.entries.notes]
    lines.append(
        f"Intervals: bootstrap over {len({e.cluster for e in scored.entries.items}):,} videos, "
        f"{scored.resamples} resamples, seed {scored.seed}."
    )
    return lines


_PROBLEMS = ("missing", "unanswered", "duplicate", "malformed", "missing videos")


def comparison_text(found: Comparison, a: str, b: str, full: bool = False) -> str:
    """A comparison's table."""
    lines = [
        f"A: {a}",
        f"B: {b}",
        f"{found.common:,} items are in both; {found.alone_a:,} in A alone and {found.alone_b:,} in B "
        "alone are not compared.",
        "",
        *columns(
            (
                "",
                "",
                "of",
                "A",
                "B",
                "B - A",
                "95% interval",
                "A only",
                "B only",
                "McNemar p",
                "boot p",
            ),
            [
                (
                    row.facet,
                    row.name,
                    whole(row.count),
                    number(row.a),
                    number(row.b),
                    f"{row.difference:+.1f}" if math.isfinite(row.difference) else "-",
                    span(row.low, row.high),
                    whole(row.only_a),
                    whole(row.only_b),
                    p_value(row.mcnemar),
                    p_value(row.bootstrap_p),
                )
                for row in found.rows
                if full or " / " not in row.facet
            ],
        ),
        "",
        "p-values are of each row alone, not corrected for how many rows there are.",
    ]
    return "\n".join(lines)


def columns(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned lines: the first two columns to the left, numbers to the right."""
    widths = [max(len(r[i]) for r in (heads, *rows)) for i in range(len(heads))]

    def line(cells: Sequence[str]) -> str:
        left = [cell.ljust(w) for cell, w in zip(cells[:2], widths)]
        right = [cell.rjust(w) for cell, w in zip(cells[2:], widths[2:])]
        return "  ".join([*left, *right]).rstrip()

    return [line(heads), *(line(row) for row in rows)]


def number(value: float) -> str:
    """One decimal; a dash for nan."""
    return f"{value:.1f}" if math.isfinite(value) else "-"


def whole(value: int | None) -> str:
    """A count, or nothing."""
    return "" if value is None else f"{value:,}"


def span(low: float, high: float) -> str:
    """An interval."""
    return f"[{low:.1f}, {high:.1f}]" if math.isfinite(low) else "-"


def p_value(value: float | None) -> str:
    """A p-value to three places."""
    if value is None or math.isnan(value):
        return ""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def commentary_text(commentary: Commentary) -> str:
    """The metrics of a prediction beside every baseline's."""
    methods = list(commentary.metrics)
    rows = []
    for metric, (unit, _) in METRICS.items():
        found = commentary.intervals.get(metric)
        rows.append(
            (
                metric,
                unit,
                *(
                    f"{v:.2f}" if math.isfinite(v := commentary.metrics[name][metric]) else "-"
                    for name in methods
                ),
                f"[{found.low:.2f}, {found.high:.2f}]" if found and math.isfinite(found.low) else "-",
            )
        )
    clips = commentary.counts[PREDICTION]
    left = [f"{v:,} {k}" for k, v in commentary.entries.problems.items() if v]
    lines = [
        f"Commentary: {len(clips):,} of {commentary.entries.expected:,} clips, "
        f"{sum(c.seconds for c in clips):,.0f} s of video, "
        f"{sum(c.reference_words for c in clips):,} words due, "
        f"{sum(c.said_words for c in clips):,} said  ({commentary.path})",
        "",
        *columns(("", "", *methods, "95% interval"), rows),
        "",
        f"Counted apart: {', '.join(left)}." if left else "Nothing was left out.",
        *(f"  {note}" for note in commentary.entries.notes),
        *filter(None, [forced_line(commentary)]),
        *not_beaten(commentary),
    ]
    return "\n".join(lines)
