"""The statistics of live sources as a table in a terminal, which rich lays out."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from livecc_jax.redact import displayable
from livecc_jax.serving.latency import SourceStats

MAX_NAME_WIDTH = 24
HEALTHY_STATES = ("watching", "finished")
STYLES = {
    "watching": "green",
    "finished": "green",
    "stalled": "yellow",
    "broken": "red",
    "failed": "red",
}


def table(stats: Sequence[SourceStats], total: str, height: int) -> Table:
    """Returns a table: headings, a line for each source, and the total.

    When there are more sources than lines, those in trouble come first and the others are counted.

    Args:
        stats: Statistics of each source.
        total: The last line.
        height: Lines of the terminal.
    """
    max_sources = max(1, height - 3)  # headings, total, and the line of the cursor
    shown, rest = list(stats), ""
    if len(shown) > max_sources:
        shown.sort(key=lambda s: s.state in HEALTHY_STATES)
        shown = shown[: max_sources - 1]
        rest = f"... and {len(stats) - max_sources + 1} more"
    caption = one_line("\n".join(filter(None, [rest, total])), keep_lines=True)
    drawn = Table(
        box=None, padding=(0, 2, 0, 0), pad_edge=False, caption=caption, caption_justify="left",
        caption_style="", header_style="bold",
    )  # fmt: skip
    drawn.add_column("source", max_width=MAX_NAME_WIDTH, no_wrap=True)
    drawn.add_column("state", min_width=8, no_wrap=True)
    for heading in ("second", "latency", "p99", "words/s", "silent", "dropped"):
        drawn.add_column(heading, justify="right", no_wrap=True)
    drawn.add_column("last words")  # the one that is cut where the terminal is narrow
    for s in shown:
        drawn.add_row(
            one_line(s.name),
            Text(s.state, STYLES.get(s.state, "")),
            f"{s.second:.1f}",
            _seconds(s.latency_p50),
            _seconds(s.latency_p99),
            f"{s.words_per_second:.1f}",
            f"{100 * s.silent:.0f}%",
            str(s.dropped),
            one_line(s.last_words),
        )
    return drawn


def one_line(text: str, keep_lines: bool = False) -> Text:
    """Returns a text for one line of a terminal: no control characters, cut where it is too long.

    Args:
        text: Words or a name of others.
        keep_lines: Whether line breaks stay.
    """
    kept = "".join(c if c.isprintable() or (keep_lines and c == "\n") else " " for c in text)
    return Text(displayable(kept).rstrip(), no_wrap=True, overflow="ellipsis")


def _seconds(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def gigabytes(count: int) -> str:
    """Formats a number of bytes as `1.23 GB`."""
    return f"{count / 1e9:.2f} GB"
