"""Names of sources and the screen of `livecc watch`."""

import io
import re
import sys
from types import SimpleNamespace

import pytest

from livecc_jax.commands.console import progress_bar
from livecc_jax.commands.terminal import SafeStream, _print_exception
from livecc_jax.commands.watch import Screen
from livecc_jax.serving.latency import SourceStats
from livecc_jax.serving.names import source_names


def stats(name, state="watching", last="so"):
    return SourceStats(name, state, 12.0, 0.25, 0.5, 2.0, 0.25, 3, 10, last)


def test_names_for_files():
    assert source_names(
        ["a/b.mp4", "c/b.mp4", "0", "rtsp://user:secret@host:554/live/1?key=secret", "..", "日本.mp4"]
    ) == ["b", "b-2", "camera-0", "host-554-live-1", "source", "日本"]


def seen(text):
    """The lines of a terminal after this text: it can move up, erase lines, hide the cursor, colour."""
    lines, row = [""], 0
    for piece in re.findall(r"\x1b\[\??[\d;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text):
        if piece == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif re.fullmatch(r"\x1b\[\d*A", piece):
            row -= int(piece[2:-1] or 1)
        elif piece == "\x1b[2K":
            lines[row] = ""
        elif piece[0] not in "\x1b\r":
            lines[row] += piece
    return [line.rstrip() for line in lines if line.strip()]


def test_a_screen_is_redrawn(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = io.StringIO()
    stream = SafeStream(out)
    out.isatty = lambda: True
    sources = [SimpleNamespace(stats=lambda: stats("door", last="\x1b[31mred"))]
    screen = Screen(stream)
    total = SimpleNamespace(steps_per_second=2.0)
    for news in ("one", "two \x1b[2J"):
        screen.lines.append(news)
        screen.show(total, sources)
    drawn = seen(out.getvalue())
    assert drawn[:2] == ["one", "two \\x1b[2J"]
    assert [line.split()[0] for line in drawn[2:]] == ["source", "door", "1"]
    assert "1 watching; 2.0 steps/s; device" in drawn[-1]
    assert drawn[3].endswith(" [31mred")
    screen.show(total, sources, last=True)
    assert len(seen(out.getvalue())) == 5
    assert out.getvalue().rstrip("\n").endswith("\x1b[?25h")  # the cursor is back


def test_a_screen_without_a_terminal():
    plain = io.StringIO()
    sources = [SimpleNamespace(stats=lambda: stats("door", last="so " * 100))]
    total = SimpleNamespace(steps_per_second=2.0)
    screen = Screen(plain)
    for words in ("he scores" * 20, ""):
        screen.print_output("door", SimpleNamespace(start=3.0, stop=4.0, words=words))
    screen.show(total, sources)
    assert plain.getvalue() == f"door: 3.0 - 4.0 {'he scores' * 20}\n"
    screen.show(total, sources, last=True)
    assert len(plain.getvalue().splitlines()) == 4
    assert plain.getvalue().count("so ") >= 99
    screen.lines.append("WARNING: at the end")
    screen.close()
    assert plain.getvalue().endswith("\nWARNING: at the end\n")


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_shown_in_a_terminal_alone(terminal, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    out = io.StringIO()
    stream = SafeStream(out)
    out.isatty = lambda: terminal
    with progress_bar(stream, "examples") as progress:
        progress(1, 4)
        progress(4, 4)
    assert ("examples" in out.getvalue()) == terminal
    assert ("4/4" in out.getvalue()) == terminal
    assert "\\x1b" not in out.getvalue()


def test_an_uncaught_exception_in_a_terminal(monkeypatch):
    """Its lines of code are shown, but no secret and no control character of its message."""
    out = io.StringIO()
    out.isatty = lambda: True
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "stderr", SafeStream(out))
    try:
        raise RuntimeError("rtsp://admin:hunter2@127.0.0.1:9/live clip\x1b]0;gone\x07")
    except RuntimeError as error:
        _print_exception(type(error), error, error.__traceback__)
    lines = " ".join(seen(out.getvalue()))
    assert "RuntimeError" in lines
    assert "test_watch.py" in lines
    assert "rtsp://***@127.0.0.1:9/live clip\\x1b]0;gone\\x07" in lines
    assert "hunter2@" not in lines.split("RuntimeError")[-1]
