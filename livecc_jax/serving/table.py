"""The statistics of live sources as a table in a terminal."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence

from livecc_jax.serving.latency import SourceStats

MAX_NAME_WIDTH = 24
HEADINGS = ("state", "second", "latency", "p99", "words/s", "silent", "dropped")
WIDTHS = (8, 8, 8, 6, 7, 6, 7)
HEALTHY_STATES = ("watching", "finished")


def table(stats: Sequence[SourceStats], total: str, width: int, height: int) -> list[str]:
    """Returns the lines of a table: headings, a line for each source, and the total.

    When there are more sources than lines, those in trouble come first and the others are counted.

    Args:
        stats: Statistics of each source.
        total: The last line.
        width: Columns of the terminal.
        height: Lines of the terminal.
    """
    max_sources = max(1, height - 3)  # headings, total, and the line of the cursor
    shown, rest = list(stats), ""
    if len(shown) > max_sources:
        shown.sort(key=lambda s: s.state in HEALTHY_STATES)
        shown = shown[: max_sources - 1]
        rest = f"... and {len(stats) - max_sources + 1} more"
    name_width = min(MAX_NAME_WIDTH, max([len("source"), *(columns(s.name) for s in stats)]))
    lines = [_line("source", name_width, HEADINGS, "last words")]
    for s in shown:
        cells = (
            s.state,
            f"{s.second:.1f}",
            _seconds(s.latency_p50),
            _seconds(s.latency_p99),
            f"{s.words_per_second:.1f}",
            f"{100 * s.silent:.0f}%",
            str(s.dropped),
        )
        lines.append(_line(s.name, name_width, cells, s.last_words))
    return [fit_columns(line, width) for line in (*lines, *filter(None, [rest]), total)]


def _line(name: str, name_width: int, cells: Sequence[str], last_words: str) -> str:
    name = fit_columns(name, name_width)
    padded = [cells[0].ljust(WIDTHS[0]), *(c.rjust(w) for c, w in zip(cells[1:], WIDTHS[1:]))]
    return "  ".join([name + " " * (name_width - columns(name)), *padded, last_words])


def _seconds(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def columns(text: str) -> int:
    """Returns how many columns of a terminal a text takes up."""
    return sum(_columns(c) for c in text)


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def fit_columns(text: str, width: int) -> str:
    """Returns the text as one line of at most `width` columns, without control characters."""
    text = "".join(c if c.isprintable() else " " for c in text).rstrip()
    if columns(text) <= width:
        return text
    start, used = [], 0
    for c in text:
        used += _columns(c)
        if used > width - 3:
            break
        start.append(c)
    return ("".join(start) + "...")[: max(0, width)]


def gigabytes(count: int) -> str:
    """Formats a number of bytes as `1.23 GB`."""
    return f"{count / 1e9:.2f} GB"
