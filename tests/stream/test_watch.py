"""Many sources at once: what one does, or whoever reads its words, concerns no other.

The network is left out: what is said follows from a turn's number alone.
"""

import asyncio
import gc
import io
import json
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from livecc_jax.commands.watch import Screen, labels
from livecc_jax.errors import LiveCCError, MediaError
from livecc_jax.media import sources
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.live import LiveOptions
from livecc_jax.serving.feed import Feed
from livecc_jax.serving.latency import Figures
from livecc_jax.serving.sinks import JsonLines
from livecc_jax.serving.table import columns, fit, table
from livecc_jax.serving.watch import Watch
from livecc_jax.stream.engine import SlotsFull
from livecc_jax.stream.session import Answer, ContextFull
from tests.support.media import make_video
from tests.support.streaming import LIMIT, QUERY, engine, options

BUDGET = PixelBudget.parse(16)
SOON = 60  # seconds that nothing here takes


def words(number):
    """What is said in a turn: some letters, or nothing."""
    return [20 + (number + i) % 40 for i in range(number % 3)]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Videos of 12, 9 and 4 seconds (10, 7 and 2 turns), and something else."""
    home = tmp_path_factory.mktemp("clips")
    made = {
        name: str(make_video(home / f"{name}.mp4", range(0, 1000 * seconds, 250)))
        for name, seconds in (("long", 12), ("medium", 9), ("short", 4))
    }
    (home / "garbage.mp4").write_bytes(np.random.default_rng(0).bytes(20_000))
    return made | {"garbage": str(home / "garbage.mp4")}


def watch(**changes):
    made = engine(**({"pool": 8000} | changes))

    def run(rows, *_):
        said = np.full((len(rows), LIMIT), -1)
        for tokens, row in zip(said, rows):
            tokens[: row.number % 3] = words(row.number)
        return said, np.zeros(len(rows), bool)

    made._run, made._see = run, lambda chosen: None
    return Watch(made)


def said_of(turns):
    return [list(t.tokens) for t in turns]


def test_what_fails_or_ends_concerns_no_other(clips, tmp_path):
    quick = LiveOptions(retries=1, patient=True, backoff=0.01)
    events, broken_pipe = [], ValueError("this consumer is broken")

    def complain(_):
        raise broken_pipe

    with watch(slots=6) as made:
        every = made.said()
        kinds = {
            "long": {}, "short": {}, "garbage": {},
            "rtsp://127.0.0.1:1/": {"live": quick, "on_event": events.append},
            "medium": {"on_said": complain},
        }  # fmt: skip
        watched = {
            name: made.add(
                clips.get(name, name), BUDGET, QUERY, options("mrope"), name=name,
                sinks=[JsonLines(tmp_path / f"{labels([name])[0]}.jsonl")], **kind,
            )
            for name, kind in kinds.items()
        }  # fmt: skip
        full = made.add(clips["long"], BUDGET, QUERY, options("mrope", context=400))
        assert made.wait(SOON)
        assert made.engine.free == 8000
        again = made.add(clips["short"], BUDGET, QUERY, options("mrope"))
        assert made.wait(SOON)
    states = {name: w.figures().state for name, w in watched.items()}
    assert states == {
        "long": "finished", "short": "finished", "garbage": "failed",
        "rtsp://127.0.0.1:1/": "failed", "medium": "failed",
    }  # fmt: skip
    assert isinstance(watched["garbage"].failure, MediaError)
    assert watched["medium"].failure is broken_pipe
    assert isinstance(full.failure, ContextFull)
    assert [e.kind for e in events] == ["broken", "lost"]
    found = list(every)
    for name, turns in (("long", 10), ("short", 2)):
        expected = [words(n) for n in range(turns)]
        assert said_of(t for w, t in found if w is watched[name]) == expected
        lines = (tmp_path / f"{name}.jsonl").read_text().splitlines()
        assert [json.loads(x)["tokens"] for x in lines] == expected
    assert (tmp_path / "garbage.jsonl").read_text() == ""
    assert again.figures().turns == 2
    figures = watched["long"].figures()
    assert (figures.turns, figures.second, figures.dropped) == (10, 12.0, 0)
    assert figures.silent == 0.4
    assert 0 < figures.late_p50 <= figures.late_p99 < SOON
    with pytest.raises(LiveCCError, match="is closed"):
        made.add(clips["long"], BUDGET)


def test_a_reader_that_stops_holds_up_its_own_file_alone(clips):
    with watch(slots=2) as made:
        free = made.add(clips["medium"], BUDGET, QUERY, options("mrope"))
        gate = free.said(limit=1)  # unread: it does not end before it may
        held = made.add(clips["long"], BUDGET, QUERY, options("mrope"))
        feed = held.said(limit=2)
        first = next(feed)
        with pytest.raises(SlotsFull):
            made.add(clips["short"], BUDGET)
        gate.close()
        while not free.over:
            made.wait(0.01)
        assert not held.over
        assert len(feed._items) <= 2 + made.engine.options.waiting + 1
        # It comes back: nothing was lost.
        assert said_of([first, *feed])[-8:] == [words(n) for n in range(2, 10)]
        assert held.over
        # Another leaves for good.
        third = made.add(clips["long"], BUDGET, QUERY, options("mrope"))
        unread = third.said(limit=1)
        assert unread.limit == 1
        del unread
        gc.collect()
        assert made.wait(SOON)
        assert third.figures().state == "finished"


def test_a_reader_that_stops_loses_the_oldest_of_a_live_source(clips, monkeypatch):
    gate = threading.Event()
    monkeypatch.setattr(sources, "_keep_pace", lambda *_: gate.wait(SOON))
    with watch(waiting=20) as made:
        live = made.add(clips["long"], BUDGET, QUERY, options("mrope"), pace="own")
        feed = live.said(limit=3)
        gate.set()
        assert made.wait(SOON)
        assert live.figures().dropped == 0
    assert said_of(feed) == [words(n) for n in (7, 8, 9)]
    assert feed.dropped == 7


def test_async_readers(clips, monkeypatch):
    """One reads all, one leaves early, one is cancelled while its source stalls; none minds another."""
    gate = threading.Event()

    def keep_pace(stamp, began):
        if stamp >= 4_000_000:
            gate.wait(SOON)

    monkeypatch.setattr(sources, "_keep_pace", keep_pace)

    async def scene():
        async with watch() as made:
            stalls = made.add(clips["long"], BUDGET, QUERY, options("mrope"), pace="own")
            waits = stalls.said()

            shown = []

            async def read():
                async for turn in waits:
                    shown.append(turn)

            reading = asyncio.create_task(read())
            film = made.add(clips["medium"], BUDGET, QUERY, options("mrope"))
            left = film.said(limit=1)
            found = []
            async for turn in left:
                found.append(turn)
                if len(found) == 3:
                    break
            # It waits for its reader, so there is time to ask.
            later = film.said()
            film.ask("who?")
            left.close()
            rest = [t async for t in later]
            while len(shown) < 2:
                await asyncio.sleep(0.001)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            assert not waits._readers
            assert not stalls.over
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(waits), 0.01)
            gate.set()
            after = await asyncio.wait_for(anext(waits), SOON)
            return found, rest, film, after

    found, rest, film, after = asyncio.run(scene())
    assert film.figures().state == "finished"
    assert said_of(found) == [words(n) for n in range(3)]
    assert [t.question for t in rest if isinstance(t, Answer)] == ["who?"]
    assert after.start >= 4.0


def test_closing_in_the_middle(clips, monkeypatch):
    """Of a source, then of the watch: files are closed, readers are told, nothing hangs."""
    gate = threading.Event()
    monkeypatch.setattr(sources, "_keep_pace", lambda stamp, _: stamp < 4_000_000 or gate.wait(SOON))
    made = watch()
    with made:
        one, other = (
            made.add(clips["long"], BUDGET, QUERY, options("mrope"), pace="own") for _ in range(2)
        )
        feeds = [one.said(), other.said()]
        first = next(feeds[0])
        one.close()
        assert said_of([first, *feeds[0]])[:1] == [words(0)]
        assert not other.over
    assert other.over
    assert one.figures().state == other.figures().state == "closed"
    assert len(list(feeds[1])) <= 2
    assert not made._thread.is_alive()
    gate.set()


def test_what_the_end_cuts_short_has_not_finished(clips):
    """Neither one that was still being read, nor one whose turns still waited."""
    made, pause = watch(slots=2), threading.Event()

    def until(condition):
        while not condition():
            pause.wait(0.001)

    def is_read(name):
        return all(thread.name != f"read {name}" for thread in threading.enumerate())

    def hold(_):
        """The tick that the end comes upon lasts until the other's reading has noticed it."""
        until(lambda: made._stopping and is_read("long"))

    waits = made.add(clips["short"], BUDGET, QUERY, options("mrope"), name="short", on_said=hold)
    until(lambda: is_read("short"))
    read = made.add(clips["long"], BUDGET, QUERY, options("mrope"), name="long")
    made.close()
    assert waits.figures().turns == 1
    assert waits.figures().state == read.figures().state == "closed"


def test_a_decoding_that_fails_is_told_to_all(clips):
    made = watch()
    fault = RuntimeError("out of memory")

    def tick():
        raise fault

    made.engine.tick = tick
    with made:
        feed = made.add(clips["long"], BUDGET, QUERY, options("mrope")).said()
        with pytest.raises(RuntimeError, match="out of memory"):
            made.wait(SOON)
        with pytest.raises(RuntimeError, match="out of memory"):
            list(feed)


def test_a_feed_drops_what_may_be_dropped():
    feed = Feed(limit=2)
    for number, live in enumerate([True, False, True, False, True]):
        feed.put(number, live)
    assert not feed.has_room
    feed.end()
    assert list(feed) == [1, 3, 4]
    assert feed.dropped == 2
    assert feed.has_room


def figures(name, state="watching", last="so"):
    return Figures(name, state, 12.0, 0.25, 0.5, 2.0, 0.25, 3, 10, last)


def test_the_table_fits_its_terminal():
    shown = [figures(f"camera-{i}", "stalled" if i == 7 else "watching") for i in range(9)]
    shown[0] = figures("door", last="out \x1b[2J\nof 日本 " * 20)
    lines = table(shown, "all", 60, 8)
    assert len(lines) == 7
    assert lines[1].startswith("camera-7  stalled       12.0      0.25    0.50      2.0")
    assert lines[-2:] == ["... and 5 more", "all"]
    assert all(columns(line) <= 60 and line.isprintable() for line in lines)
    assert len(table(shown, "all", 60, 50)) == 11
    assert fit("日本語の字幕", 8) == "日本..."


def test_names_for_files():
    assert labels(
        ["a/b.mp4", "c/b.mp4", "0", "rtsp://user:secret@host:554/live/1?key=secret", "..", "日本.mp4"]
    ) == ["b", "b-2", "camera-0", "host-554-live-1", "source", "日本"]


def test_a_screen_is_drawn_over():
    out = io.StringIO()
    out.isatty = lambda: True
    watched = [SimpleNamespace(figures=lambda: figures("door"))]
    screen = Screen(out)
    total = SimpleNamespace(ticks_per_second=2.0)
    for news in ("one", "two"):
        screen.lines.append(news)
        screen.show(total, watched)
    first, second = out.getvalue().split("\x1b[3F\x1b[J")
    assert [x.splitlines()[0] for x in (first, second)] == ["one", "two"]
    assert "1 watching; 2.0 ticks/s; device" in second
    plain = io.StringIO()
    screen = Screen(plain)
    tell = screen.teller("door")
    for words in ("he scores", ""):
        tell(SimpleNamespace(start=3.0, stop=4.0, words=words))
    screen.show(total, watched)
    assert plain.getvalue() == "door: 3.0 - 4.0 he scores\n"
    screen.show(total, watched, last=True)
    assert len(plain.getvalue().splitlines()) == 4
