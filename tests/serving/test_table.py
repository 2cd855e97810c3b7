"""The table of live sources in a terminal."""

from livecc_jax.serving.latency import SourceStats
from livecc_jax.serving.table import columns, fit_columns, table


def stats(name, state="watching", last="so"):
    return SourceStats(name, state, 12.0, 0.25, 0.5, 2.0, 0.25, 3, 10, last)


def test_the_table_fits_its_terminal():
    rows = [stats(f"camera-{i}", "stalled" if i == 7 else "watching") for i in range(9)]
    rows[0] = stats("door", last="out \x1b[2J\nof 日本 " * 20)
    lines = table(rows, "all", 60, 8)
    assert len(lines) == 7
    assert lines[1].startswith("camera-7  stalled       12.0      0.25    0.50      2.0")
    assert lines[-2:] == ["... and 5 more", "all"]
    assert all(columns(line) <= 60 and line.isprintable() for line in lines)
    assert len(table(rows, "all", 60, 50)) == 11
    assert fit_columns("日本語の字幕", 8) == "日本..."
