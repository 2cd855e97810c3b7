"""The table of live sources in a terminal."""

import io

from rich.cells import cell_len
from rich.console import Console

from livecc_jax.serving.latency import SourceStats
from livecc_jax.serving.table import table


def stats(name, state="watching", last="so"):
    return SourceStats(name, state, 12.0, 0.25, 0.5, 2.0, 0.25, 3, 10, last)


def lines(rows, width, height, total="all"):
    out = io.StringIO()
    Console(file=out, width=width).print(table(rows, total, height))
    return out.getvalue().splitlines()


def test_the_table_fits_its_terminal():
    rows = [stats(f"camera-{i}", "stalled" if i == 7 else "watching") for i in range(9)]
    rows[0] = stats("door", last="out \x1b[2J\nof 日本 " * 20)
    drawn = lines(rows, 90, 8)
    assert len(drawn) == 7
    assert drawn[0].split() == [
        "source", "state", "second", "latency", "p99", "words/s", "silent", "dropped", "last", "words",
    ]  # fmt: skip
    assert drawn[1].split() == ["camera-7", "stalled", "12.0", "0.25", "0.50", "2.0", "25%", "3", "so"]
    assert [line.strip() for line in drawn[-2:]] == ["... and 5 more", "all"]
    assert all(cell_len(line) <= 90 and line.isprintable() for line in drawn)
    assert "door" in drawn[2]
    assert "out  [2J of 日" in drawn[2]
    assert drawn[2].rstrip().endswith("…")
    assert len(lines(rows, 90, 50)) == 11


def test_a_name_and_words_that_hold_a_secret_or_a_style():
    drawn = "\n".join(lines([stats("rtsp://u:s3cret@host/live", last="[red]boo[/red]")], 120, 50))
    assert "s3cret" not in drawn
    assert "[red]boo[/red]" in drawn


def test_a_terminal_that_is_too_narrow():
    assert all(cell_len(line) <= 20 for line in lines([stats("door")], 20, 10))
