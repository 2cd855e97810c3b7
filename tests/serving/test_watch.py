"""Many sources at a time: a source that fails or a reader that stops affects no other.

The network is left out: what is generated depends only on a turn's number.
"""

import asyncio
import gc
import json
import threading

import numpy as np
import pytest

from livecc_jax.errors import LiveCCError, MediaError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.live import LiveOptions
from livecc_jax.serving.names import source_names
from livecc_jax.serving.sinks import JsonLines
from livecc_jax.serving.watch import Watch
from livecc_jax.stream.engine import EngineFull
from livecc_jax.stream.turn import Answer, ContextFull
from tests.support.media import make_video
from tests.support.streaming import LIMIT, QUERY, fake_engine, options

BUDGET = PixelBudget.parse(16)
TIMEOUT = 60  # seconds that nothing here takes
POOL = 8000


def words(number):
    """The tokens of a turn: some letters, or nothing."""
    return [20 + (number + i) % 40 for i in range(number % 3)]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Videos of 12, 9 and 4 seconds (10, 7 and 2 turns), and a file that is no video."""
    home = tmp_path_factory.mktemp("clips")
    paths = {
        name: str(make_video(home / f"{name}.mp4", range(0, 1000 * seconds, 250)))
        for name, seconds in (("long", 12), ("medium", 9), ("short", 4))
    }
    (home / "garbage.mp4").write_bytes(np.random.default_rng(0).bytes(20_000))
    return paths | {"garbage": str(home / "garbage.mp4")}


def watch(**changes):
    def generate(rows):
        tokens = np.full((len(rows), LIMIT), -1)
        for out, row in zip(tokens, rows):
            out[: row.number % 3] = words(row.number)
        return tokens

    return Watch(fake_engine(generate, pool_tokens=POOL, **changes))


def tokens_of(turns):
    return [list(t.tokens) for t in turns]


def test_a_source_that_fails_or_ends_affects_no_other(clips, tmp_path):
    quick = LiveOptions(retries=1, retry_first=True, backoff=0.01)
    events, broken_pipe = [], ValueError("this consumer is broken")

    def fail(_):
        raise broken_pipe

    with watch(max_conversations=6) as many:
        every = many.outputs()
        kinds = {
            "long": {}, "short": {}, "garbage": {},
            "rtsp://127.0.0.1:1/": {"live": quick, "on_event": events.append},
            "medium": {"on_output": fail},
        }  # fmt: skip
        watched = {
            name: many.add(
                clips.get(name, name), BUDGET, QUERY, options("mrope"), name=name,
                sinks=[JsonLines(tmp_path / f"{source_names([name])[0]}.jsonl")], **kind,
            )
            for name, kind in kinds.items()
        }  # fmt: skip
        full = many.add(clips["long"], BUDGET, QUERY, options("mrope", context=400))
        assert many.wait(TIMEOUT)
        assert many.engine.free == POOL
        again = many.add(clips["short"], BUDGET, QUERY, options("mrope"))
        assert many.wait(TIMEOUT)
    states = {name: w.stats().state for name, w in watched.items()}
    assert states == {
        "long": "finished", "short": "finished", "garbage": "failed",
        "rtsp://127.0.0.1:1/": "failed", "medium": "failed",
    }  # fmt: skip
    assert isinstance(watched["garbage"].failure, MediaError)
    assert watched["medium"].failure is broken_pipe
    assert isinstance(full.failure, ContextFull)
    assert [e.kind for e in events] == ["broken", "lost"]
    outputs = list(every)
    for name, turns in (("long", 10), ("short", 2)):
        expected = [words(n) for n in range(turns)]
        assert tokens_of(t for w, t in outputs if w is watched[name]) == expected
        lines = (tmp_path / f"{name}.jsonl").read_text().splitlines()
        assert [json.loads(x)["tokens"] for x in lines] == expected
    assert (tmp_path / "garbage.jsonl").read_text() == ""
    assert again.stats().turns == 2
    stats = watched["long"].stats()
    assert (stats.turns, stats.second, stats.dropped) == (10, 12.0, 0)
    assert stats.silent == 0.4
    assert 0 < stats.latency_p50 <= stats.latency_p99 < TIMEOUT
    with pytest.raises(LiveCCError, match="is closed"):
        many.add(clips["long"], BUDGET)


def test_a_reader_that_stops_holds_up_its_own_file_alone(clips):
    with watch(max_conversations=2) as many:
        free = many.add(clips["medium"], BUDGET, QUERY, options("mrope"))
        gate = free.outputs(limit=1)  # unread: it does not end before it may
        waits = many.add(clips["long"], BUDGET, QUERY, options("mrope"))
        feed = waits.outputs(limit=2)
        first = next(feed)
        with pytest.raises(EngineFull):
            many.add(clips["short"], BUDGET)
        gate.close()
        while not free.over:
            many.wait(0.01)
        assert not waits.over
        assert feed.waiting <= 2 + many.engine.options.max_waiting + 1
        # It comes back: nothing was lost.
        assert tokens_of([first, *feed])[-8:] == [words(n) for n in range(2, 10)]
        assert waits.over
        # Another leaves for good.
        third = many.add(clips["long"], BUDGET, QUERY, options("mrope"))
        unread = third.outputs(limit=1)
        assert unread.limit == 1
        del unread
        gc.collect()
        assert many.wait(TIMEOUT)
        assert third.stats().state == "finished"


def test_a_reader_that_stops_loses_the_oldest_of_a_live_source(clips):
    gate = threading.Event()
    with watch(max_waiting=20) as many:
        live = many.add(
            clips["long"], BUDGET, QUERY, options("mrope"), pace="own",
            keep_pace=lambda *_: gate.wait(TIMEOUT),
        )  # fmt: skip
        feed = live.outputs(limit=3)
        gate.set()
        assert many.wait(TIMEOUT)
        assert live.stats().dropped == 0
    assert tokens_of(feed) == [words(n) for n in (7, 8, 9)]
    assert feed.dropped == 7


def test_async_readers(clips):
    """One reads all, one leaves early, one is cancelled while its source stalls: all independently."""
    gate = threading.Event()

    def keep_pace(stamp, began):
        if stamp >= 4_000_000:
            gate.wait(TIMEOUT)

    async def scene():
        async with watch() as many:
            stalls = many.add(
                clips["long"], BUDGET, QUERY, options("mrope"), pace="own", keep_pace=keep_pace
            )
            waits = stalls.outputs()

            read_turns = []

            async def read():
                async for turn in waits:
                    read_turns.append(turn)

            reading = asyncio.create_task(read())
            film = many.add(clips["medium"], BUDGET, QUERY, options("mrope"))
            left = film.outputs(limit=1)
            early = []
            async for turn in left:
                early.append(turn)
                if len(early) == 3:
                    break
            # It waits for its reader, so there is time to ask.
            later = film.outputs()
            film.ask("who?")
            left.close()
            rest = [t async for t in later]
            while len(read_turns) < 2:
                await asyncio.sleep(0.001)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            assert not waits.blocked_readers
            assert not stalls.over
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(waits), 0.01)
            gate.set()
            after = await asyncio.wait_for(anext(waits), TIMEOUT)
            return early, rest, film, after

    early, rest, film, after = asyncio.run(scene())
    assert film.stats().state == "finished"
    assert tokens_of(early) == [words(n) for n in range(3)]
    assert [t.question for t in rest if isinstance(t, Answer)] == ["who?"]
    assert after.start >= 4.0


def test_closing_in_the_middle(clips):
    """Closes a source, then the watch: files are closed, readers end, nothing hangs."""
    gate = threading.Event()

    def keep_pace(stamp, _):
        return stamp < 4_000_000 or gate.wait(TIMEOUT)

    many = watch()
    with many:
        one, other = (
            many.add(clips["long"], BUDGET, QUERY, options("mrope"), pace="own", keep_pace=keep_pace)
            for _ in range(2)
        )
        feeds = [one.outputs(), other.outputs()]
        first = next(feeds[0])
        one.close()
        assert tokens_of([first, *feeds[0]])[:1] == [words(0)]
        assert not other.over
    assert other.over
    assert one.stats().state == other.stats().state == "closed"
    assert len(list(feeds[1])) <= 2
    assert not many.running
    gate.set()


def test_a_source_that_closing_interrupts_has_not_finished(clips):
    """Neither one that was still being read, nor one whose turns still waited."""
    many, pause = watch(max_conversations=2), threading.Event()

    def until(condition):
        while not condition():
            pause.wait(0.001)

    def is_read(name):
        return all(thread.name != f"read {name}" for thread in threading.enumerate())

    def hold(_):
        """Prolongs the step during which the watch closes until the other reader has noticed it."""
        until(lambda: many.closing and is_read("long"))

    waits = many.add(clips["short"], BUDGET, QUERY, options("mrope"), name="short", on_output=hold)
    until(lambda: is_read("short"))
    read = many.add(clips["long"], BUDGET, QUERY, options("mrope"), name="long")
    many.close()
    assert waits.stats().turns == 1
    assert waits.stats().state == read.stats().state == "closed"


def test_all_readers_get_a_decoding_failure(clips):
    fault = RuntimeError("out of memory")

    def fail(rows):
        raise fault

    with Watch(fake_engine(fail)) as many:
        feed = many.add(clips["long"], BUDGET, QUERY, options("mrope")).outputs()
        with pytest.raises(RuntimeError, match="out of memory"):
            many.wait(TIMEOUT)
        with pytest.raises(RuntimeError, match="out of memory"):
            list(feed)
