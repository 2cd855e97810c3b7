"""Many conversations in one engine: each gets what it would get alone, from few compiled programs."""

import itertools

import jax
import numpy as np
import pytest

from livecc_jax.decoding.engine_step import engine_step
from livecc_jax.decoding.session_step import encode_frames_step
from livecc_jax.errors import ConfigError, LiveCCError, MediaError
from livecc_jax.stream.capacity import rolling_capacity
from livecc_jax.stream.engine import Engine, EngineFull
from livecc_jax.stream.history import FULL, EvictionPolicy
from livecc_jax.stream.model import StreamModel
from livecc_jax.stream.options import EngineOptions
from livecc_jax.stream.session import Session
from livecc_jax.stream.turn import ContextFull
from tests.support.streaming import (
    CONFIG,
    LIMIT,
    QUERY,
    SHORT,
    TOKENIZER,
    CountingModel,
    engine,
    engine_options,
    fake_engine,
    frames,
    frames_for,
    model,
    options,
    params,
    run_all,
    run_alone,
    silence,
    step_one,
)


@pytest.mark.parametrize("mode", ["mrope", "sequential", "hybrid", "sampled"])
def test_full_is_the_session(mode):
    """Also what is drawn at random: it depends on the seed and the turn's number alone."""
    settings = {"mode": "mrope", "temperature": 1.0, "seed": 7} if mode == "sampled" else {"mode": mode}
    session = Session(model(), options(**settings), QUERY)
    expected = [session.push(frames(i)).tokens for i in range(9)]
    assert len({len(tokens) for tokens in expected}) > 1
    assert run_alone(9, **settings) == expected


def test_a_question_that_does_not_fit_ends_nothing():
    small = engine(pool_tokens=700)
    conversation = small.open(QUERY, options("mrope", context=400))
    for ask in (conversation.ask, Session(model(), options("mrope")).ask):
        with pytest.raises(LiveCCError, match="nothing was shown yet"):
            ask("?")
    first = step_one(small, conversation, 0)
    conversation.ask("a" * 400)
    ((_, full),) = small.step()
    assert isinstance(full, ContextFull)
    assert [first, step_one(small, conversation, 1)] == run_alone(2, context=400)
    with pytest.raises(ConfigError, match="at least 1, not 0"):
        conversation.ask("?", 0)
    with pytest.raises(ConfigError, match="more than the engine's 128"):
        conversation.ask("?", 129)


def test_a_question_that_does_not_fit_draws_nothing():
    """What is sampled after it is what would have been sampled without it."""
    settings = options("mrope", context=400, temperature=1.0, seed=7)
    generated = []
    for questions in (["a" * 400, "d"], ["d"]):
        small = engine(max_answer_tokens=LIMIT)
        conversation = small.open(QUERY, settings)
        session = Session(model(), settings, QUERY)
        tokens = [step_one(small, conversation, 0)]
        assert [session.push(frames(0)).tokens] == tokens
        for question in questions:
            conversation.ask(question)
            ((_, answer),) = small.step()
            if isinstance(answer, ContextFull):
                with pytest.raises(ContextFull):
                    session.ask(question, LIMIT)
            else:
                tokens.append(answer.tokens)
                assert session.ask(question, LIMIT).tokens == answer.tokens
        generated.append(tokens)
    assert generated[0] == generated[1]
    assert any(generated[0][1:])


def test_a_rolling_session_is_an_engine_of_fixed_size():
    """Its context never outgrows its size, and after the warm-up nothing is compiled any more."""
    before = engine_step._cache_size()
    session = Session(model(), options("mrope"), QUERY, eviction=SHORT)
    session.warm_up(frames(0).shape[1:3])
    warm = engine_step._cache_size(), encode_frames_step._cache_size()
    assert warm[0] - before <= 4
    generated = [session.push(frames(i)).tokens for i in range(8)]
    session.ask("d")
    assert warm == (engine_step._cache_size(), encode_frames_step._cache_size())
    assert generated == run_alone(8, eviction=SHORT)
    assert session.length <= session.engine.options.context_size
    with pytest.raises(LiveCCError, match="cannot fork"):
        session.fork()
    with pytest.raises(ConfigError, match="has no bound"):
        rolling_capacity(FULL, 6, 2, LIMIT)
    with pytest.raises(ConfigError, match="needs a rolling eviction policy"):
        Session(model(), options("mrope"), cache_precision="int8")


def test_prefetch_changes_nothing():
    """The tower encodes each step's frames once, before the step where they are known."""
    counting = CountingModel()
    session = Session(counting, options("mrope"), QUERY, eviction=SHORT)
    turns = [frames(i) for i in range(8)]
    generated = [session.push(a, b).tokens for a, b in itertools.zip_longest(turns, turns[1:])]
    assert generated == run_alone(8, eviction=SHORT)
    assert counting.calls == 8

    expected = run_alone(3), run_alone(3, start=5)
    shared = Engine(counting, engine_options(max_batch=2, max_waiting=3))
    pair = [shared.open(QUERY, options("mrope")) for _ in range(2)]
    for stream, start in zip(pair, (0, 5)):
        for turn in range(3):
            stream.push(frames_for(stream, start + turn))
    counting.calls = 0
    for turn in range(2):
        results = {who: spoken.tokens for who, spoken in shared.step()}
        assert [results[stream] for stream in pair] == [tokens[turn] for tokens in expected]
    assert counting.calls == 3
    shared.close(pair[0])  # its frames were encoded in vain
    ((who, spoken),) = shared.step()
    assert (who, spoken.tokens) == (pair[1], expected[1][2])
    assert counting.calls == 4


def test_neighbours_change_nothing():
    """Conversations of different ages, modes, limits and penalties share steps, and come and go."""
    kinds = [
        {"mode": "mrope", "start": 0},
        {"mode": "hybrid", "start": 3, "max_new_tokens": 2},
        {"mode": "sequential", "start": 6, "repetition_penalty": 1.5},
        {"mode": "mrope", "start": 9, "temperature": 1.5, "seed": 4},
    ]
    expected = [run_alone(6, eviction=SHORT, **kind) for kind in kinds]
    shared = engine(SHORT)
    streams, generated = {}, [[] for _ in kinds]
    for step in range(9):
        for i, kind in enumerate(kinds):
            if step == i:  # one more in every step
                kind = {k: v for k, v in kind.items() if k != "start"}
                streams[i] = shared.open(QUERY, options(kind.pop("mode"), **kind))
            if i in streams and len(generated[i]) < 6:
                streams[i].push(frames_for(streams[i], kinds[i]["start"] + len(generated[i])))
        for who, turn in run_all(shared):
            generated[next(i for i, s in streams.items() if s is who)].append(turn.tokens)
    assert generated == expected


def test_in_eight_bits_neighbours_change_nothing():
    """A single row's activations are quantized as they are in a batch."""
    capacity = EngineOptions(
        max_conversations=3, max_batch=4, pool_tokens=4000, max_new_tokens=LIMIT, context_size=384
    )
    quantized = StreamModel(CONFIG, params(), TOKENIZER, "fp8")

    def run(neighbours):
        """What the first stream gets, and the last layer's keys of its context."""
        shared = Engine(quantized, capacity)
        streams = [shared.open(QUERY, options("mrope")) for _ in range(1 + neighbours)]
        generated = []
        for turn in range(4):
            for i, stream in enumerate(streams):
                stream.push(frames(1 + turn + 3 * i))  # the opening is of one pair too: fewer programs
            generated.append({who: spoken.tokens for who, spoken in shared.step()}[streams[0]])
        slots = streams[0].context.history.slots()
        return generated, np.asarray(shared.store.pool[-1][0])[slots]

    (alone, keys_alone), (among, keys_among) = run(0), run(2)
    assert alone == among
    # Sums in another order may round to the next e4m3 value now and then; unrounded activations would
    # differ by a hundredth everywhere.
    assert np.median(abs(keys_alone - keys_among)) < 1e-4 * keys_alone.std()
    words = slice(-len(alone[-1]) + 1, None)
    assert np.median(abs(keys_alone - keys_among)[words]) < 1e-4 * keys_alone.std()


def test_within_one_program_neighbours_change_no_bit():
    """A stream's keys and values in float32, whatever is in the other rows, in whichever row it is."""

    def run(row, others):
        shared = engine(SHORT, context_size=512)
        kinds = [options(mode, repetition_penalty=1.0 + 0.3 * i) for i, mode in enumerate(others)]
        kinds.insert(row, options("mrope", max_new_tokens=3))
        streams = [shared.open(QUERY, kind) for kind in kinds]
        stream = streams[row]
        generated = []
        for turn in range(6):
            for i, other in enumerate(streams):
                other.push(frames_for(other, turn if other is stream else 5 * (i + row) + turn))
            while shared.waiting():
                results = shared.step()
                assert len(results) == len(streams)  # one program without padding rows
                generated += [turn.tokens for who, turn in results if who is stream]
        slots = stream.context.history.slots()
        assert len(slots) > 20
        return generated, [np.asarray(x)[slots] for layer in shared.store.pool for x in layer]

    modes = ["mrope", "hybrid", "sequential"]
    (tokens, kv), (other_tokens, other_kv) = run(0, modes), run(2, modes[::-1])
    assert tokens == other_tokens
    assert any(tokens)
    for x, y in zip(kv, other_kv, strict=True):
        np.testing.assert_array_equal(x, y)


def test_few_programs_serve_many_turns():
    before = engine_step._cache_size()
    shared = engine(SHORT)
    streams = [shared.open(QUERY, options("mrope")) for _ in range(3)]
    for turn in range(30):
        for stream in streams[: 1 + turn % 3]:
            stream.push(frames_for(stream, 0 if not stream.pushed else 1))
        run_all(shared)
    # One row or two; opening or not; two prompt buckets and one of context.
    assert engine_step._cache_size() - before <= 6


def test_an_engine_warms_up_every_number_of_rows():
    steps = []

    def record(rows):
        vision_tokens = int((rows[0].prompt.vision_index >= 0).sum())
        steps.append((len(rows), vision_tokens, rows[0].is_question))
        return silence(rows)

    fake = fake_engine(record, SHORT, max_conversations=3)
    fake.warm_up((56, 84), QUERY, options("mrope"))
    assert fake.free == 4000
    kinds = (18, False), (6, False), (0, True)  # three frame pairs, one, and a question
    assert {*steps} == {(rows, *kind) for rows in (1, 2, 3) for kind in kinds}
    fake.open(QUERY)
    with pytest.raises(LiveCCError, match="before it has conversations"):
        fake.warm_up((56, 84))


def test_what_an_engine_refuses():
    small = engine(max_conversations=1)
    stream = small.open(QUERY, options("mrope", context=300))
    with pytest.raises(EngineFull, match="already has 1 conversations"):
        small.open()
    with pytest.raises(MediaError, match="even number"):
        stream.push(frames(0)[:3])
    stream.push(frames(0), captured=5.0)
    with pytest.raises(MediaError, match="changed size within a stream"):
        stream.push(frames(1)[:, :28])
    with pytest.raises(MediaError, match="older than those of the turn before"):
        stream.push(frames(1), captured=4.0)
    results = []
    while not results or not isinstance(results[-1], ContextFull):
        results += [result for _, result in small.step()]
        if not isinstance(results[-1], ContextFull):
            stream.push(frames(1))
    assert "300 tokens is full" in str(results[-1])
    with pytest.raises(LiveCCError, match="is closed"):
        stream.push(frames(1))
    with pytest.raises(ConfigError, match="does not fit a context"):
        small.open("x" * 500, options("mrope", context=300))
    with pytest.raises(ConfigError, match="more than the engine's"):
        small.open(QUERY, options("mrope", max_new_tokens=LIMIT + 1))
    with pytest.raises(ConfigError, match="at least 1 turn"):
        EvictionPolicy(turns=0)


def test_a_step_that_fails_leaves_its_session_as_it_was():
    """The turn can be pushed again."""
    failing = CountingModel(fail_at=1)
    session = Session(failing, options("mrope"), QUERY)
    first = session.push(frames(0)).tokens
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        session.push(frames(1))
    assert session.turns == 1
    assert [first, session.push(frames(1)).tokens] == run_alone(2)
