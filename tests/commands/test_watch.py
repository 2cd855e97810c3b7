"""Names of sources and the screen of `livecc watch`."""

import io
from types import SimpleNamespace

from livecc_jax.commands.watch import Screen
from livecc_jax.serving.latency import SourceStats
from livecc_jax.serving.names import source_names


def stats(name, state="watching", last="so"):
    return SourceStats(name, state, 12.0, 0.25, 0.5, 2.0, 0.25, 3, 10, last)


def test_names_for_files():
    assert source_names(
        ["a/b.mp4", "c/b.mp4", "0", "rtsp://user:secret@host:554/live/1?key=secret", "..", "日本.mp4"]
    ) == ["b", "b-2", "camera-0", "host-554-live-1", "source", "日本"]


def test_a_screen_is_redrawn():
    out = io.StringIO()
    out.isatty = lambda: True
    sources = [SimpleNamespace(stats=lambda: stats("door"))]
    screen = Screen(out)
    total = SimpleNamespace(steps_per_second=2.0)
    for news in ("one", "two"):
        screen.lines.append(news)
        screen.show(total, sources)
    first, second = out.getvalue().split("\x1b[3F\x1b[J")
    assert [x.splitlines()[0] for x in (first, second)] == ["one", "two"]
    assert "1 watching; 2.0 steps/s; device" in second
    plain = io.StringIO()
    screen = Screen(plain)
    for words in ("he scores", ""):
        screen.print_output("door", SimpleNamespace(start=3.0, stop=4.0, words=words))
    screen.show(total, sources)
    assert plain.getvalue() == "door: 3.0 - 4.0 he scores\n"
    screen.show(total, sources, last=True)
    assert len(plain.getvalue().splitlines()) == 4
