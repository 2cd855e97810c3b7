"""Formats scores and comparisons as text tables for a terminal."""

from __future__ import annotations

import math

from livecc_jax.evaluate.metrics.commentary_metrics import METRICS
from livecc_jax.evaluate.metrics.commentary_score import CommentaryScore, unbeaten_baselines
from livecc_jax.evaluate.metrics.paired_accuracy import AccuracyComparison
from livecc_jax.evaluate.metrics.paired_commentary import CommentaryComparison
from livecc_jax.evaluate.metrics.score import BenchmarkScore
from livecc_jax.evaluate.metrics.statistics import MIN_CLUSTERS
from livecc_jax.evaluate.report.formatting import (
    accuracy_columns,
    align_columns,
    describe_counts,
    describe_perplexity,
    describe_problems,
    format_count,
    format_metric,
    format_number,
    format_p_value,
    is_shown,
    row_interval,
)


def format_score(score: BenchmarkScore, full: bool = False) -> str:
    """Formats the accuracy table of a results file, and what its denominators leave out.

    Args:
        score: The scored results file.
        full: Also show the crossed facets.
    """
    headline = score.headline
    lines = [
        f"{score.layout.title}: {headline.name} {format_number(headline.accuracy)}% "
        f"{row_interval(headline)}  ({score.path})",
        "",
        *align_columns(*accuracy_columns([row for row in score.table if is_shown(row, full)])),
        "",
        *describe_counts(score),
    ]
    return "\n".join(lines)


def format_comparison(comparison: AccuracyComparison, a: str, b: str, full: bool = False) -> str:
    """Formats the paired comparison of two results files.

    Args:
        comparison: The comparison.
        a: Name of run A.
        b: Name of run B.
        full: Also show the crossed facets.
    """
    heads = ("", "", "of", "A", "B", "B - A", "95% interval", "A only", "B only", "McNemar p", "boot p")
    lines = [
        f"A: {a}",
        f"B: {b}",
        f"{comparison.common_items:,} items are in both; {comparison.unpaired_a:,} in A alone and "
        f"{comparison.unpaired_b:,} in B alone are not compared.",
        "",
        *align_columns(
            heads,
            [
                (
                    row.facet,
                    row.name,
                    format_count(row.count),
                    format_number(row.a),
                    format_number(row.b),
                    f"{row.difference:+.1f}" if math.isfinite(row.difference) else "-",
                    row_interval(row),
                    format_count(row.only_a),
                    format_count(row.only_b),
                    format_p_value(row.mcnemar),
                    format_p_value(row.bootstrap_p) if row.has_interval else "",
                )
                for row in comparison.differences
                if is_shown(row, full)
            ],
        ),
        "",
        "p-values are of each row alone, not corrected for how many rows there are.",
    ]
    return "\n".join(lines)


def format_commentary(score: CommentaryScore) -> str:
    """Formats the metrics of the predictions and of every baseline."""
    rows = []
    for metric, (unit, _) in METRICS.items():
        interval = score.intervals.get(metric)
        has_interval = interval and math.isfinite(interval.low) and len(score.clips) >= MIN_CLUSTERS
        rows.append(
            (
                metric,
                unit,
                *(format_metric(metrics[metric]) for metrics in score.metrics.values()),
                f"[{interval.low:.2f}, {interval.high:.2f}]" if has_interval else "-",
            )
        )
    clips = score.clips
    lines = [
        f"Commentary: {len(clips):,} of {score.references:,} clips, "
        f"{sum(c.seconds for c in clips):,.0f} s of video, "
        f"{sum(c.reference_words for c in clips):,} words due, "
        f"{sum(c.predicted_words for c in clips):,} said  ({score.path})",
        "",
        *align_columns(("", "", *score.metrics, "95% interval"), rows),
        "",
        describe_problems(score.problem_log.problems),
        *(f"  {note}" for note in score.problem_log.notes),
        *filter(None, [describe_perplexity(score)]),
        *unbeaten_baselines(score.metrics),
    ]
    return "\n".join(lines)


def format_commentary_comparison(comparison: CommentaryComparison, a: str, b: str) -> str:
    """Formats the paired comparison of two commentary predictions; nan is a dash.

    Args:
        comparison: The comparison.
        a: Name of run A.
        b: Name of run B.
    """
    enough = comparison.clips >= MIN_CLUSTERS  # fewer clips say too little about others
    rows = [
        (
            f"{m.name} ({m.unit})",
            format_metric(m.a),
            format_metric(m.b),
            "-" if math.isnan(m.difference) else f"{m.difference:+.2f}",
            f"{m.low:+.2f} to {m.high:+.2f}" if enough and not math.isnan(m.low) else "-",
            format_p_value(m.p) if enough else "",
        )
        for m in comparison.metrics
    ]
    in_both, only_b = comparison.clips, comparison.unpaired_b
    summary = f"{in_both:,} clips are in both; {only_b:,} of B alone are not compared."
    table = align_columns(("", "A", "B", "B - A", "95% interval", "boot p"), rows)
    return "\n".join([f"A: {a}", f"B: {b}", summary, "", *table])
