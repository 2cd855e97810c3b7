"""Forked conversations: each continues as one that was given its history from the beginning."""

import pytest

from livecc_jax.errors import LiveCCError
from livecc_jax.stream.engine import EngineFull
from livecc_jax.stream.history import FULL
from livecc_jax.stream.session import Session
from tests.support.streaming import (
    LIMIT,
    QUERY,
    SHORT,
    engine,
    frames,
    frames_for,
    model,
    options,
    run_all,
)

ANSWER_TOKENS = 4
PAST = [0, "d", 1, 3]  # frames, and a question
TRUNK, BRANCH, TWIG = [2, 4, "abc"], [5, "d", 6], [4, "abc"]


def play(session, script):
    """The tokens that a session generates for frames and questions."""
    return [
        (session.ask(x, ANSWER_TOKENS) if isinstance(x, str) else session.push(frames(x))).tokens
        for x in script
    ]


@pytest.mark.parametrize("mode", ["mrope", "hybrid"])
def test_a_sessions_branches_are_sessions(mode):
    """Also where the past ends with a truncated turn, and for a branch of a branch."""
    fresh = [
        play(Session(model(), options(mode), QUERY), PAST + rest)
        for rest in (TRUNK, BRANCH, BRANCH + TWIG)
    ]
    trunk = Session(model(), options(mode), QUERY)
    past = play(trunk, PAST)
    assert len(past[-1]) == LIMIT
    branch = trunk.fork()
    generated = [[*past], [*past]]
    for pair in zip(TRUNK, BRANCH):  # alternately, so that each could disturb the other
        for session, item, out in zip((trunk, branch), pair, generated):
            out += play(session, [item])
    twig = branch.fork()
    assert [*generated, generated[1] + play(twig, TWIG)] == fresh
    assert fresh[0][len(PAST) :] != fresh[1][len(PAST) :]


def test_a_fork_draws_by_its_seed():
    """As the conversation it comes from would, or by a seed of its own; also before the first turn."""
    trunk = Session(model(), options("mrope", temperature=1.0), QUERY)
    early = [trunk.fork(seed) for seed in (None, 5)]
    play(trunk, [0])
    same, one, other, another = (trunk.fork(seed) for seed in (None, 5, 5, 6))
    generated = [play(session, [1, 1]) for session in (trunk, same, one, other, another)]
    assert generated[0] == generated[1] != generated[2] == generated[3] != generated[4]
    assert [play(session, [0, 1, 1])[1:] == generated[0] for session in early] == [True, False]


def run(forks, scripts):
    """What each conversation gets; in each round all that have something left share steps."""
    generated = {conversation: [] for conversation in scripts}
    for number in range(max(map(len, scripts.values()))):
        for conversation, script in scripts.items():
            if number < len(script) and isinstance(script[number], str):
                conversation.ask(script[number])
            elif number < len(script):
                conversation.push(frames_for(conversation, script[number]))
        for who, result in run_all(forks):
            generated[who].append(result.tokens)
    return list(generated.values())


@pytest.mark.parametrize("policy", [FULL, SHORT])
def test_a_streams_branches_are_streams(policy):
    """In one pool and the same steps, whether everything is kept or little."""
    shared = engine(policy, max_answer_tokens=ANSWER_TOKENS)
    fresh = []
    for rest in (TRUNK, BRANCH):
        stream = shared.open(QUERY, options("mrope"))
        fresh += run(shared, {stream: PAST + rest})
        shared.close(stream)
    trunk = shared.open(QUERY, options("mrope"))
    (past,) = run(shared, {trunk: PAST})
    free = shared.free
    branch = shared.fork(trunk)
    assert shared.free == free  # the common past is in the pool once
    assert [past + tokens for tokens in run(shared, {trunk: TRUNK, branch: BRANCH})] == fresh
    shared.close(trunk)
    twig = shared.fork(branch)
    shared.close(branch)
    alone = Session(model(), options("mrope"), QUERY)
    if policy is FULL:
        play(alone, PAST + BRANCH)
        assert run(shared, {twig: TWIG}) == [play(alone, TWIG)]
    shared.close(twig)
    assert shared.free == shared.options.pool_tokens


def test_turns_that_wait_are_not_the_past():
    shared = engine(max_conversations=2, max_answer_tokens=ANSWER_TOKENS)
    stream = shared.open(QUERY, options("mrope"))
    run(shared, {stream: [0, 1]})
    stream.push(frames(2), captured=1e12)
    stream.ask("d")
    fork = shared.fork(stream)
    assert (stream.waiting, fork.waiting, fork.length) == (2, 0, stream.length)
    with pytest.raises(EngineFull, match="already has 2 conversations"):
        shared.fork(stream)
    fork.push(frames(3))  # of the same second, captured now
    results = {stream: [], fork: []}
    for who, result in run_all(shared):
        results[who].append(result)
    assert [r[0].start for r in results.values()] == [4.0, 4.0]
    for own, rest in zip(results.values(), ([2, "d"], [3])):
        alone = Session(model(), options("mrope"), QUERY)
        play(alone, [0, 1])
        assert [result.tokens for result in own] == play(alone, rest)
    shared.close(fork)
    with pytest.raises(LiveCCError, match="this conversation is closed"):
        shared.fork(fork)
