"""Formats single numbers, and the sentences that the terminal and the report have in common."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from livecc_jax.evaluate.metrics.accuracy_table import TableRow
from livecc_jax.evaluate.metrics.commentary_score import CommentaryScore
from livecc_jax.evaluate.metrics.paired_accuracy import PairedDifference
from livecc_jax.evaluate.metrics.score import BenchmarkScore, count_answers, strict_accuracy
from livecc_jax.evaluate.metrics.statistics import MIN_CLUSTERS

MIN_CROSSED = 10  # answers of a crossed group that is shown; all are in the JSON report
_PROBLEM_COUNTS = ("missing", "unanswered", "duplicate", "malformed", "missing videos")


def format_number(value: float) -> str:
    """Formats a number with one decimal; nan is a dash."""
    return f"{value:.1f}" if math.isfinite(value) else "-"


def format_metric(value: float) -> str:
    """Formats a number with two decimals; nan is a dash."""
    return f"{value:.2f}" if math.isfinite(value) else "-"


def format_count(value: int | None) -> str:
    """Formats a count; None is empty."""
    return "" if value is None else f"{value:,}"


def format_interval(low: float, high: float) -> str:
    """Formats a confidence interval with one decimal; nan is a dash."""
    return f"[{low:.1f}, {high:.1f}]" if math.isfinite(low) else "-"


def row_interval(row: TableRow | PairedDifference) -> str:
    """Formats the interval of a table row; a dash where too few videos make it meaningless."""
    return format_interval(row.low, row.high) if row.has_interval else "-"


def accuracy_columns(rows: Sequence[TableRow]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Returns heads and cells of an accuracy table; chance has a column only where it is known.

    Args:
        rows: Rows that are shown.
    """
    columns: dict[str, Callable[[TableRow], str]] = {
        "facet": lambda r: r.facet,
        "": lambda r: r.name,
        "right": lambda r: format_count(r.correct),
        "of": lambda r: format_count(r.count),
        "no answer": lambda r: format_count(r.unanswered),
        "accuracy %": lambda r: format_number(r.accuracy),
    }
    if any(math.isfinite(row.chance) for row in rows):
        columns["chance %"] = lambda r: format_number(r.chance)
    columns["95% interval"] = row_interval
    return tuple(columns), [tuple(cell(row) for cell in columns.values()) for row in rows]


def is_shown(row: TableRow | PairedDifference, full: bool = True) -> bool:
    """Whether a table shows a row: crossed groups only if asked for, and if they are large enough.

    Args:
        row: The row.
        full: Whether crossed groups are asked for.
    """
    return " / " not in row.facet or (full and (row.count or 0) >= MIN_CROSSED)


def format_p_value(value: float | None) -> str:
    """Formats a p-value with three decimals; None and nan are empty."""
    if value is None or math.isnan(value):
        return ""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def align_columns(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a table: the first two columns left-aligned, the others right-aligned.

    Args:
        heads: Headings of the columns.
        rows: The cells of each line.
    """
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    for i in range(len(heads)):
        table.add_column(justify="left" if i < 2 else "right", no_wrap=True)
    for cells in (heads, *rows):
        table.add_row(*map(Text, cells))
    width = 2 * len(heads) + sum(
        max(Text(row[i]).cell_len for row in (heads, *rows)) for i in range(len(heads))
    )
    text = io.StringIO()
    Console(file=text, width=width, color_system=None).print(table)
    return [line.rstrip() for line in text.getvalue().splitlines()]


def describe_counts(score: BenchmarkScore) -> list[str]:
    """Returns sentences on what was counted, followed by the notes on the first problems."""
    counts = count_answers(score.answers)
    size = f" of the benchmark's {counts['expected']:,}" if counts["expected"] else ""
    problems = [f"{counts[k]:,} {k}" for k in _PROBLEM_COUNTS if counts[k]]
    correct, total, accuracy = strict_accuracy(score.answers)
    lines = [
        f"{counts['items']:,} items{size}; the denominator has {counts['in the denominator']:,}.",
        f"Problems: {', '.join(problems)}." if problems else "Nothing was left out or repeated.",
        f"With each item once and everything else wrong: {correct:,} of {total:,}, "
        f"{format_number(accuracy)}%.",
    ]
    for name, value in score.extra.items():
        lines.append(f"{name}: {format_number(value) if isinstance(value, float) else value}")
    lines += [f"  {note}" for note in score.answers.notes]
    videos = len({a.cluster for a in score.answers.items})
    lines.append(
        f"Intervals: bootstrap over {videos:,} videos, {score.resamples} resamples, seed {score.seed}; "
        f"only of groups with at least {MIN_CLUSTERS} videos, since fewer say too little."
    )
    return lines


def describe_problems(problems: Mapping[str, int]) -> str:
    """Returns one sentence on the problems of a predictions file, by kind."""
    parts = [f"{count:,} {kind}" for kind, count in problems.items() if count]
    return f"Problems: {', '.join(parts)}." if parts else "Nothing was left out."


def describe_perplexity(score: CommentaryScore) -> str:
    """Returns one sentence on the clips and tokens behind the perplexity; empty if there is none."""
    clips = score.teacher_forced
    if not clips:
        return ""
    tokens = sum(t.word_tokens for c in clips for t in c.turns)
    return (
        f"Perplexity of the reference: over {len(clips):,} of {len(score.clips):,} clips, "
        f"{tokens:,} tokens of words; {sum(c.words_after_last_frame for c in clips):,} words due after "
        "the last frame are left out."
    )
