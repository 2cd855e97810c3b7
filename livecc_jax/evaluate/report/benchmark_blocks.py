"""The parts of a report about a benchmark: its accuracy table, plots, and a paired comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence

from livecc_jax.evaluate.metrics.accuracy_table import TableRow
from livecc_jax.evaluate.metrics.paired_accuracy import AccuracyComparison
from livecc_jax.evaluate.metrics.score import BenchmarkScore, count_answers
from livecc_jax.evaluate.report.formatting import (
    MIN_CROSSED,
    accuracy_columns,
    describe_counts,
    format_count,
    format_number,
    format_p_value,
    is_shown,
    row_interval,
)
from livecc_jax.reports import charts
from livecc_jax.reports.page import Block, Details, Facts, Figure, Heading, Table, Text


def benchmark_blocks(score: BenchmarkScore) -> list[Block]:
    """Returns the headline, the counts, the table, and one bar chart for each facet."""
    headline = score.headline
    plain = [r for r in score.table if " / " not in r.facet]
    crossed = [r for r in score.table if " / " in r.facet]
    blocks: list[Block] = [
        Heading(f"{score.layout.title}: {headline.name} {format_number(headline.accuracy)}%", 1),
        Facts(_facts(score)),
        Text(f"File {score.path}, sha256 {score.sha256}."),
        *(Text(line.strip()) for line in describe_counts(score)),
        Heading("Table"),
        _table(plain),
    ]
    if crossed:
        large = [r for r in crossed if is_shown(r)]
        name = f"Crossed groups of at least {MIN_CROSSED} answers: {len(large):,} of {len(crossed):,}"
        blocks.append(Details(name, [_table(large)] if large else []))
    blocks.append(Heading("Accuracy by group"))
    for facet in dict.fromkeys(r.facet for r in plain):
        rows = [r for r in plain if r.facet == facet]
        caption = f"{facet}: percent"
        if any(r.has_interval for r in rows):
            caption += ", with 95% intervals where enough videos support one"
        blocks.append(Figure(_bar_chart(rows, facet), caption))
    return blocks


def _facts(score: BenchmarkScore) -> list[tuple[str, str, str]]:
    headline, counts = score.headline, count_answers(score.answers)
    note = f"95% interval {row_interval(headline)}" if headline.has_interval else ""
    facts = [(headline.name, f"{format_number(headline.accuracy)}%", note)]
    if math.isfinite(headline.chance):
        facts.append(("chance", f"{headline.chance:.1f}%", "guessing among the options"))
    size = f"of {counts['expected']:,}" if counts["expected"] else ""
    facts.append(("answers", format_count(counts["items"]), size))
    facts.append(("videos", format_count(headline.videos), ""))
    return facts


def _table(rows: Sequence[TableRow]) -> Table:
    heads, cells = accuracy_columns(rows)
    return Table(heads, cells, text_columns=2)


def _bar_chart(rows: Sequence[TableRow], facet: str) -> charts.Plot:
    """Draws the rows of a facet, with the level of chance if it is the same for all of them."""
    bars = [
        charts.Bar(
            r.name,
            r.accuracy,
            *((r.low, r.high) if r.has_interval else ()),
            note=f"of {r.count:,}" if r.count is not None else "",
        )
        for r in rows
    ]
    levels = {round(r.chance, 6) for r in rows}
    chance = levels.pop() if len(levels) == 1 else math.nan
    return charts.bar_chart(
        bars, facet, "percent", limits=(0, 100), reference=chance, reference_name="chance"
    )


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
            "An item without an answer is wrong. p-values are of each row alone, not corrected for how "
            "many rows there are."
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
                    row_interval(r),
                    format_p_value(r.mcnemar),
                    format_p_value(r.bootstrap_p) if r.has_interval else "",
                )
                for r in comparison.differences
                if is_shown(r)
            ],
            text_columns=2,
        ),
    ]
