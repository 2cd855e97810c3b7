"""The parts of a report about a benchmark: its accuracy table, plots, and a paired comparison."""

from __future__ import annotations

from livecc_jax.evaluate.metrics.paired_accuracy import AccuracyComparison
from livecc_jax.evaluate.metrics.score import BenchmarkScore
from livecc_jax.evaluate.report import svg
from livecc_jax.evaluate.report.document import Block, Figure, Heading, Table, Text
from livecc_jax.evaluate.report.formatting import (
    describe_counts,
    format_count,
    format_interval,
    format_number,
    format_p_value,
)


def benchmark_blocks(score: BenchmarkScore) -> list[Block]:
    """Returns the headline, the counts, the table, and one bar chart for each facet."""
    headline = score.headline
    interval = format_interval(headline.low, headline.high)
    blocks: list[Block] = [
        Heading(f"{score.layout.title}: {headline.name} {format_number(headline.accuracy)}%", 1),
        Text(f"95% interval {interval}. File {score.path}, sha256 {score.sha256}."),
        *(Text(line.strip()) for line in describe_counts(score)),
        Heading("Table"),
        Table(
            ("facet", "", "right", "of", "no answer", "accuracy %", "95% interval"),
            [
                (
                    r.facet,
                    r.name,
                    format_count(r.correct),
                    format_count(r.count),
                    format_count(r.unanswered),
                    format_number(r.accuracy),
                    format_interval(r.low, r.high),
                )
                for r in score.table
            ],
            text_columns=2,
        ),
        Heading("Accuracy by group"),
    ]
    for facet in dict.fromkeys(r.facet for r in score.table):
        if " / " in facet:  # crossed facets are too many for a plot
            continue
        bars = [
            svg.Bar(r.name, r.accuracy, r.low, r.high, f"of {r.count:,}" if r.count is not None else "")
            for r in score.table
            if r.facet == facet
        ]
        blocks.append(Figure(svg.bar_chart(bars, facet), f"{facet}: percent, with 95% intervals"))
    return blocks


def comparison_blocks(comparison: AccuracyComparison, name: str) -> list[Block]:
    """Returns the comparison with another run.

    Args:
        comparison: The other run as A, this run as B.
        name: Name of the other run.
    """
    heads = (
        "facet", "", "of", "other", "this", "difference", "95% interval", "McNemar p", "bootstrap p",
    )  # fmt: skip
    return [
        Heading(f"Against {name}"),
        Text(
            f"{comparison.common_items:,} items are in both; {comparison.unpaired_b:,} in this run "
            f"alone and {comparison.unpaired_a:,} in the other alone are not compared. "
            "An item without an answer is wrong."
        ),
        Table(
            heads,
            [
                (
                    r.facet,
                    r.name,
                    format_count(r.count),
                    format_number(r.a),
                    format_number(r.b),
                    format_number(r.difference),
                    format_interval(r.low, r.high),
                    format_p_value(r.mcnemar),
                    format_p_value(r.bootstrap_p),
                )
                for r in comparison.differences
            ],
            text_columns=2,
        ),
    ]
