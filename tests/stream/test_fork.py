"""Forked conversations: each goes on as one that was fed its history from the beginning."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from livecc_jax.errors import LiveCCError
from livecc_jax.stream.engine import SlotsFull
from livecc_jax.stream.history import FULL
from livecc_jax.stream.session import Session
from livecc_jax.stream.slot_allocator import PoolFull
from tests.support.streaming import LIMIT, QUERY, SHORT, engine, frames, model, options, picture

ANSWER = 4  # tokens
PAST = [0, "d", 1, 3]  # frames, and a question
TRUNK, BRANCH, TWIG = [2, 4, "abc"], [5, "d", 6], [4, "abc"]


def told(session, script):
    """What a session says of frames and to questions."""
    return [
        (session.ask(x, ANSWER) if isinstance(x, str) else session.push(frames(x))).tokens
        for x in script
    ]


@pytest.mark.parametrize("mode", ["mrope", "hybrid"])
def test_a_sessions_branches_are_sessions(mode):
    """Also where the past ends with a turn cut short, and of a branch of a branch."""
    fresh = [
        told(Session(model(), options(mode), QUERY), PAST + rest)
        for rest in (TRUNK, BRANCH, BRANCH + TWIG)
    ]
    trunk = Session(model(), options(mode), QUERY)
    past = told(trunk, PAST)
    assert len(past[-1]) == LIMIT
    branch = trunk.fork()
    said = [[*past], [*past]]
    for pair in zip(TRUNK, BRANCH):  # in turns, so that each could disturb the other
        for session, item, out in zip((trunk, branch), pair, said):
            out += told(session, [item])
    twig = branch.fork()
    assert [*said, said[1] + told(twig, TWIG)] == fresh
    assert fresh[0][len(PAST) :] != fresh[1][len(PAST) :]


def test_a_branch_draws_as_it_is_told():
    """As the conversation it comes from would, or by a seed of its own."""
    trunk = Session(model(), options("mrope", temperature=1.0), QUERY)
    told(trunk, [0])
    same, one, other, another = (trunk.fork(seed) for seed in (None, 5, 5, 6))
    said = [told(session, [1, 1]) for session in (trunk, same, one, other, another)]
    assert said[0] == said[1] != said[2] == said[3] != said[4]


def run(made, scripts):
    """What each conversation says; every round, all that have something left share ticks."""
    said = {conversation: [] for conversation in scripts}
    for step in range(max(map(len, scripts.values()))):
        for conversation, script in scripts.items():
            if step < len(script) and isinstance(script[step], str):
                conversation.ask(script[step])
            elif step < len(script):
                conversation.push(picture(conversation, script[step]))
        while made.waiting():
            for who, spoken in made.tick():
                said[who].append(spoken.tokens)
    return list(said.values())


@pytest.mark.parametrize("retention", [FULL, SHORT])
def test_a_streams_branches_are_streams(retention):
    """In one pool and the same ticks, whether everything is remembered or little."""
    made = engine(retention, max_answer=ANSWER)
    fresh = []
    for rest in (TRUNK, BRANCH):
        stream = made.open(QUERY, options("mrope"))
        fresh += run(made, {stream: PAST + rest})
        stream.close()
    trunk = made.open(QUERY, options("mrope"))
    (past,) = run(made, {trunk: PAST})
    held = made.free
    branch = trunk.fork()
    assert made.free == held  # what both remember is there once
    assert [past + said for said in run(made, {trunk: TRUNK, branch: BRANCH})] == fresh
    trunk.close()
    twig = branch.fork()
    branch.close()
    alone = Session(model(), options("mrope"), QUERY)
    if retention is FULL:
        told(alone, PAST + BRANCH)
        assert run(made, {twig: TWIG}) == [told(alone, TWIG)]
    twig.close()
    assert made.free == made.options.pool


def test_what_waits_is_not_the_past():
    made = engine(slots=2, max_answer=ANSWER)
    stream = made.open(QUERY, options("mrope"))
    run(made, {stream: [0, 1]})
    stream.push(frames(2), captured=1e12)
    stream.ask("d")
    fork = stream.fork()
    assert (stream.waiting, fork.waiting, fork.length) == (2, 0, stream.length)
    with pytest.raises(SlotsFull, match="all 2 slots have a conversation"):
        stream.fork()
    fork.push(frames(3))  # of the same second, at the time it is
    spoken = {stream: [], fork: []}
    while made.waiting():
        for who, turn in made.tick():
            spoken[who].append(turn)
    assert [s[0].start for s in spoken.values()] == [4.0, 4.0]
    for said, rest in zip(spoken.values(), ([2, "d"], [3])):
        alone = Session(model(), options("mrope"), QUERY)
        told(alone, [0, 1])
        assert [turn.tokens for turn in said] == told(alone, rest)
    fork.close()
    with pytest.raises(LiveCCError, match="this conversation is closed"):
        fork.fork()


ACTIONS = st.tuples(st.integers(0, 3), st.sampled_from("opfctt"), st.integers(0, 3))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([FULL, SHORT]), st.lists(ACTIONS, min_size=5, max_size=60))
def test_forking_leaks_nothing(monkeypatch, retention, script):
    """In any order; the network itself is left out, the bookkeeping is what it would be."""
    made = engine(retention, slots=3, pool=500)
    rng = np.random.default_rng(0)

    def speak(rows, *_):
        said = np.full((len(rows), LIMIT), -1)
        for row in said:
            row[: rng.integers(0, LIMIT + 1)] = rng.integers(5, 20)
        return said, (said >= 0).all(axis=1)

    monkeypatch.setattr(made, "_run", speak)
    monkeypatch.setattr(made, "_see", lambda chosen: None)
    streams = {}
    for name, action, other in script:
        if action in "of" and name not in streams and (action == "o" or other in streams):
            begin = made.open if action == "o" else streams[other].fork
            if len(streams) == 3:
                with pytest.raises(SlotsFull):
                    begin()
            else:
                streams[name] = begin()
        elif action == "p" and name in streams:
            streams[name].push(frames(int(streams[name]._pushed > 0)))
        elif action == "c" and name in streams:
            streams.pop(name).close()
        elif action == "t":
            for who, result in made.tick():
                if isinstance(result, PoolFull):
                    streams = {n: s for n, s in streams.items() if s is not who}
        # As many owners as conversations that remember it, and a place is free when there are none.
        owners = Counter(int(p) for s in streams.values() for p in s._memory.places())
        held = np.array([owners[p] for p in range(500)])
        np.testing.assert_array_equal(made._places[0]._owners, held)
        free = made._places[0]._free[: made.free]
        assert sorted(free) == np.flatnonzero(held == 0).tolist()
    for stream in streams.values():
        stream.close()
    assert made.free == 500
