"""Live sources as a table in a terminal."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence

from livecc_jax.serving.latency import Figures

NAME_WIDTH = 24
HEADS = ("state", "second", "late p50", "p99", "words/s", "silent", "dropped")
WIDTHS = (8, 8, 8, 6, 7, 6, 7)
WELL = ("watching", "finished")


def table(figures: Sequence[Figures], total: str, width: int, height: int) -> list[str]:
    """Lines for so many columns and rows: a head, a line a source, the total.

    When there are more sources than rows those in trouble come first, and the rest is counted.
    """
    room = max(1, height - 3)  # head, total, and the line that the cursor is on
    shown, left = list(figures), ""
    if len(shown) > room:
        shown.sort(key=lambda f: f.state in WELL)
        shown, left = shown[: room - 1], f"... and {len(figures) - room + 1} more"
    names = min(NAME_WIDTH, max([len("source"), *(columns(f.name) for f in figures)]))
    lines = [_line("source", names, HEADS, "last words")]
    for f in shown:
        cells = (
            f.state,
            f"{f.second:.1f}",
            _seconds(f.late_p50),
            _seconds(f.late_p99),
            f"{f.words_per_second:.1f}",
            f"{100 * f.silent:.0f}%",
            str(f.dropped),
        )
        lines.append(_line(f.name, names, cells, f.last))
    return [fit(line, width) for line in (*lines, *filter(None, [left]), total)]


def _line(name: str, names: int, cells: Sequence[str], last: str) -> str:
    name = fit(name, names)
    padded = [cells[0].ljust(WIDTHS[0]), *(c.rjust(w) for c, w in zip(cells[1:], WIDTHS[1:]))]
    return "  ".join([name + " " * (names - columns(name)), *padded, last])


def _seconds(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def columns(text: str) -> int:
    """How many of a terminal's columns a text takes."""
    return sum(_columns(c) for c in text)


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def fit(text: str, width: int) -> str:
    """One line of at most so many columns; nothing in it moves the cursor."""
    text = "".join(c if c.isprintable() else " " for c in text).rstrip()
    if columns(text) <= width:
        return text
    kept, used = [], 0
    for c in text:
        used += _columns(c)
        if used > width - 3:
            break
        kept.append(c)
    return ("".join(kept) + "...")[: max(0, width)]


def gigabytes(count: int) -> str:
    """`1.23 GB`."""
    return f"{count / 1e9:.2f} GB"
