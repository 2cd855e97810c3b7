"""Slots, queues and time labels of an engine, with the network left out; branches in any order."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livecc_jax.stream.engine import Engine, EngineFull
from livecc_jax.stream.history import FULL
from livecc_jax.stream.options import EngineOptions
from livecc_jax.stream.slot_allocator import PoolFull
from livecc_jax.timeline.turns import turn_label, turn_span
from tests.support.streaming import (
    LIMIT,
    QUERY,
    SHORT,
    engine,
    fake_engine,
    frames,
    frames_for,
    model,
    options,
    random_words,
)

POOL = 500


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("opcct")), min_size=5, max_size=60))
def test_opening_and_closing_leak_nothing(script):
    """In any order."""
    open_and_close(script)


def test_thousands_of_openings_and_closings_leak_nothing():
    rng = np.random.default_rng(0)
    script = [(rng.integers(4), rng.choice([*"oppct"])) for _ in range(3000)]
    assert open_and_close(script) > 250


def open_and_close(script):
    """Runs (name, action): open, push, close, take a step. Returns the number of conversations.

    No conversation ever has a slot of another.
    """
    fake = fake_engine(random_words(), SHORT, max_conversations=3, pool_tokens=POOL)
    streams, opened = {}, 0
    for name, action in script:
        is_open = name in streams
        if action == "o" and not is_open:
            if len(streams) == 3:
                with pytest.raises(EngineFull):
                    fake.open(QUERY)
            else:
                streams[name] = fake.open(QUERY, options("mrope"))
                opened += 1
        elif action == "p" and is_open:
            streams[name].push(frames(int(streams[name].pushed > 0)))
        elif action == "c" and is_open:
            fake.close(streams.pop(name))
        elif action == "t":
            for who, result in fake.step():
                if isinstance(result, PoolFull):
                    streams = {n: s for n, s in streams.items() if s is not who}
        in_use = [slot for s in streams.values() for slot in s.context.history.slots()]
        assert len({*in_use}) == len(in_use)
        assert fake.free == POOL - len(in_use)
    for stream in streams.values():
        fake.close(stream)
    assert fake.free == POOL
    assert not fake.conversations
    return opened


ACTIONS = st.tuples(st.integers(0, 3), st.sampled_from("opfctt"), st.integers(0, 3))


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([FULL, SHORT]), st.lists(ACTIONS, min_size=5, max_size=60))
def test_forking_leaks_nothing(policy, script):
    """In any order of opening, pushing, forking, closing and stepping."""
    fake = fake_engine(random_words(), policy, max_conversations=3, pool_tokens=POOL)
    streams = {}
    for name, action, other in script:
        if action in "of" and name not in streams and (action == "o" or other in streams):
            begin = fake.open if action == "o" else functools.partial(fake.fork, streams[other])
            if len(streams) == 3:
                with pytest.raises(EngineFull):
                    begin()
            else:
                streams[name] = begin()
        elif action == "p" and name in streams:
            streams[name].push(frames(int(streams[name].pushed > 0)))
        elif action == "c" and name in streams:
            fake.close(streams.pop(name))
        elif action == "t":
            for who, result in fake.step():
                if isinstance(result, PoolFull):
                    streams = {n: s for n, s in streams.items() if s is not who}
        fake.store.check_slots(streams.values())
    for stream in streams.values():
        fake.close(stream)
    assert fake.free == POOL


def test_labels_and_positions_are_exact_after_years():
    """Labels count whole microseconds; positions depend on what is in the context."""
    for number in (1, 86_400, 31_536_000, 10**9):
        assert turn_label(*turn_span(number)) == f"Time={number + 2}.0-{number + 3}.0s"
    shared = engine(SHORT)
    fresh, late = (shared.open(QUERY, options("mrope")) for _ in range(2))
    for turn in range(4):
        for stream in (fresh, late):
            if stream is late and turn == 1:
                late.skip_to(10**6)
            stream.push(frames_for(stream, turn))
        spoken = dict(shared.step())[late]
        start = 10**6 + turn + 1 if turn else 0
        assert (spoken.start, spoken.stop) == (start, 10**6 + turn + 2 if turn else 3)
    for stream in (fresh, late):
        _, _, positions = stream.context.history.gather()
        assert stream.context.next_position == positions.max() + 1 < 300


def test_a_stream_that_falls_behind_loses_its_oldest_turns():
    now = [0.0]
    capacity = EngineOptions(max_conversations=2, max_batch=1, pool_tokens=4000, max_new_tokens=LIMIT)
    shared = Engine(model(), capacity, lambda: now[0])
    late, early = (shared.open(QUERY, options("mrope")) for _ in range(2))
    late.push(frames(0), captured=3.0)
    early.push(frames(0), captured=2.5)
    now[0] = 3.25
    assert [who for who, _ in shared.step()] == [early]  # the more urgent one
    assert early.latency.latest == pytest.approx(0.75)
    shared.step()
    for second in range(5):
        late.push(frames(1), captured=4.0 + second)
    now[0] = 9.5
    spoken = [turn for _ in range(2) for _, turn in shared.step()]
    assert (late.latency.turns, late.latency.dropped) == (3, 3)
    # The labels stay correct.
    assert [(t.start, t.stop) for t in spoken] == [(6.0, 7.0), (7.0, 8.0)]
    assert late.latency.latest == pytest.approx(1.5)
    assert not shared.step()
