"""Many conversations over one pool: each says what it would alone, and remembers what it should."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from livecc_jax.decoding.engine_step import take_turns
from livecc_jax.decoding.session_step import look
from livecc_jax.errors import ConfigError, LiveCCError, MediaError
from livecc_jax.media.pixels import patch_places, patchify
from livecc_jax.model.qwen2_vl import bind
from livecc_jax.stream import session as session_module
from livecc_jax.stream.engine import Engine, EngineOptions, SlotsFull
from livecc_jax.stream.history import FULL, Retention
from livecc_jax.stream.rolling import RollingSession
from livecc_jax.stream.session import ContextFull, Session, StreamModel
from livecc_jax.stream.slot_allocator import PoolFull
from livecc_jax.timeline.chat import Visual
from livecc_jax.timeline.positions import token_positions
from livecc_jax.timeline.turns import turn_label, turn_span
from tests.support import replay as oracle
from tests.support.streaming import (
    CONFIG,
    LIMIT,
    QUERY,
    SHORT,
    SPECIAL,
    TOKENIZER,
    engine,
    frames,
    model,
    options,
    params,
    picture,
)

PENALTY = 1.05


def alone(turns, mode="mrope", retention=FULL, start=0, **changes):
    """What one conversation says, turn by turn; its frames begin at `start`."""
    made = engine(retention)
    conversation = made.open(QUERY, options(mode, **changes))
    return [say(made, conversation, start + i) for i in range(turns)]


def say(made, conversation, turn):
    conversation.push(picture(conversation, turn))
    ((who, spoken),) = made.tick()
    assert who is conversation
    return spoken.tokens


@pytest.mark.parametrize("mode", ["mrope", "sequential", "hybrid", "drawn"])
def test_full_is_the_session(mode):
    """Also of what is drawn at random: that follows from the seed and the turn's number alone."""
    how = {"mode": "mrope", "temperature": 1.0, "seed": 7} if mode == "drawn" else {"mode": mode}
    session = Session(model(), options(**how), QUERY)
    expected = [session.push(frames(i)).tokens for i in range(9)]
    assert len({len(tokens) for tokens in expected}) > 1
    assert alone(9, **how) == expected


# --- the oracle: plain lists that only grow, and the decoder in numpy ---------------------------------


@functools.cache
def layers():
    return oracle.layers_of(params())


@jax.jit
def _embedded(tokens, index, patches, rows, cols):
    network = bind(CONFIG, params())
    merged = network.encode(patches[None], jnp.ones_like(rows)[None], rows[None], cols[None])
    return network.embed(tokens[None], merged, index[None])[0]


class Replay:
    """A conversation as the definition has it: growing lists, nothing ever moved or dropped."""

    def __init__(self, mode, retention, silence, keep=lambda x: x):
        self.mode, self.retention, self.silence, self.keep = mode, retention, silence, keep
        self.turns = []  # of (prompt, answer), each a list of (id, place within the piece, leftovers)
        self.spans = []
        self.unkept = []
        self.shown = 0

    def retained(self):
        """(id, position, leftovers) of what the next turn attends to, and where that turn starts."""
        now, keep, out, at = len(self.turns), self.retention.turns or 10**9, [], 0
        old = max(0, now - keep)

        def piece(tokens, span):
            nonlocal at
            out.extend((i, place + at, left) for i, place, left in tokens)
            at += span

        words = [t for _, answer in self.turns[:old] for t in answer if t[0] != self.silence]
        sink, window = self.retention.sink, self.retention.window
        rest = words[sink:]
        words = words[:sink] + rest[max(0, len(rest) - window) :]
        for number, (prompt, answer) in enumerate(self.turns):
            if number == 0:
                piece(prompt, self.spans[0])
                for word in words:
                    piece([(word[0], np.zeros(3), word[2])], 1)
            elif number >= old:
                piece(prompt, self.spans[number])
            if number >= old:
                for word in answer:
                    piece([(word[0], np.zeros(3), word[2])], 1)
        return out, at

    def turn(self, seen, question="", limit=LIMIT):
        """What is said of frames, or to a question."""
        number, content = len(self.turns), (question,)
        if seen is not None:
            patches, grid = patchify(seen)
            label = turn_label(*turn_span(self.shown))
            content = (label, Visual("video", grid), *([] if number else [QUERY]))
            self.shown += 1
        template = model().template
        encoded = template.continuation(content) if number else template.opening(content)
        tokens = np.array([*self.unkept, *encoded.tokens], np.int32)
        mode = self.mode
        if mode == "hybrid":
            mode = "sequential" if number else "mrope"
        places, span = token_positions(tokens, encoded.grids, SPECIAL, mode)
        x = np.asarray(params()["text"]["embed"])[tokens]
        if seen is not None:
            pairs, height, width = grid
            rows, cols = (np.tile(x, (pairs, 1)).astype(np.int32) for x in patch_places(height, width))
            vision = tokens == SPECIAL.video_pad
            index = np.where(vision, np.cumsum(vision) - 1, -1)
            x = _embedded(tokens, index, patches.reshape(pairs, height * width, -1), rows, cols)
        kept, start = self.retained()
        memories = [
            oracle.Memory(
                [left[n][0] for _, _, left in kept],
                [left[n][1] for _, _, left in kept],
                [np.asarray(at, np.float64) for _, at, _ in kept],
            )
            for n in range(len(layers()))
        ]
        said, left, leaves = oracle.answer(
            CONFIG.text, params(), layers(), x, places.T + start, start + span,
            {*tokens.tolist(), *(i for i, _, _ in kept)}, memories,
            limit=limit, penalty=PENALTY, ends=model().stop.end,
        )  # fmt: skip
        left, leaves = ([[tuple(map(self.keep, kv)) for kv in t] for t in x] for x in (left, leaves))
        prompt = list(zip(tokens.tolist(), places.T, left))
        answer = [(i, np.zeros(3), leaf) for i, leaf in zip(said, leaves)]
        cut = len(said) == limit
        self.turns.append((prompt, answer))
        self.spans.append(span)
        self.unkept = said[-1:] if cut and self.mode != "hybrid" else []
        return tuple(said)


@pytest.mark.parametrize(
    ("mode", "turns"),
    [
        ("mrope", 10),
        ("sequential", 10),
        ("hybrid", 10),
        pytest.param("mrope", 3000, marks=pytest.mark.slow),
    ],
)
def test_rolling_is_the_replay(mode, turns, monkeypatch):
    """With a mark of silence that is said often, so that forgetting it is seen."""
    often = max(range(CONFIG.text.vocab_size), key=[t for x in alone(12, mode) for t in x].count)
    stop = dataclasses.replace(model().stop, silence=often)
    monkeypatch.setattr(model(), "stop", stop)
    replay = Replay(mode, SHORT, often)
    made = engine(SHORT)
    conversation = made.open(QUERY, options(mode))
    for number in range(turns):
        expected = replay.turn(frames(number))
        assert say(made, conversation, number) == expected, number
        kept, start = replay.retained()
        conversation._places.release(conversation._memory.make_room())
        _, tokens, positions = conversation._memory.gather()
        assert tokens.tolist() == [i for i, _, _ in kept]
        np.testing.assert_array_equal(positions.T, [at for _, at, _ in kept])
        assert conversation._memory.next_position == start


def rounded(x):
    """[K, D] in 255 steps a head, by the definition."""
    step = abs(x).max(-1, keepdims=True) / 127
    return np.round(x / step) * step


def test_a_pool_of_eight_bits_is_the_replay_of_what_was_rounded():
    """A turn sees its own keys and values as they are, and older ones rounded."""
    replay = Replay("mrope", SHORT, model().stop.silence, rounded)
    made = engine(SHORT, cache_precision="int8")
    conversation = made.open(QUERY, options("mrope"))
    for number in range(8):
        assert say(made, conversation, number) == replay.turn(frames(number)), number
    held = sum(x.nbytes for x in jax.tree.leaves(made._pool))
    whole = sum(x.nbytes for x in jax.tree.leaves(engine(SHORT)._pool))
    per_head = CONFIG.text.head_dim
    assert held / whole == (per_head + 4) / (4 * per_head)  # the model is float32


@pytest.mark.parametrize("mode", ["mrope", "sequential", "hybrid"])
def test_a_question_is_a_turn_like_any_other(mode):
    """By the replay, whether everything is kept or little, in a session and in an engine."""
    script = [0, 1, "?d", 2, 3, 4, "abc", "d", 5]
    whole, short = Replay(mode, FULL, None), Replay(mode, SHORT, model().stop.silence)
    session, answers = Session(model(), options(mode), QUERY), []
    rolling = engine(SHORT, max_answer=4)
    conversation = rolling.open(QUERY, options(mode))
    neighbour = rolling.open(QUERY, options("mrope"))
    last = 0
    for number, item in enumerate(script):
        if isinstance(item, str):
            answer = session.ask(item, max_new_tokens=4)
            assert answer.tokens == whole.turn(None, item, 4)
            assert (answer.at, answer.question) == (3 + last, item)
            conversation.ask(item)
            expected = short.turn(None, item, 4)
            answers.append(answer.tokens)
        else:
            last = item
            assert session.push(frames(item)).tokens == whole.turn(frames(item))
            conversation.push(picture(conversation, item))
            expected = short.turn(frames(item))
        if number % 3 == 0:
            neighbour.push(picture(neighbour, number))
        spoken = {}
        while rolling.waiting():
            spoken |= dict(rolling.tick())
        assert spoken[conversation].tokens == expected
    assert any(answers)


def test_a_question_that_does_not_fit_ends_nothing():
    made = engine(pool=700)
    conversation = made.open(QUERY, options("mrope", context=400))
    for asks in (conversation.ask, Session(model(), options("mrope")).ask):
        with pytest.raises(LiveCCError, match="nothing has been seen yet"):
            asks("?")
    first = say(made, conversation, 0)
    conversation.ask("a" * 400)
    ((_, full),) = made.tick()
    assert isinstance(full, ContextFull)
    assert [first, say(made, conversation, 1)] == alone(2, context=400)


def test_a_question_that_does_not_fit_draws_nothing():
    """What is said at random after it is what would have been said without it."""
    how = options("mrope", context=400, temperature=1.0, seed=7)
    said = []
    for asked in (["a" * 400, "d"], ["d"]):
        made = engine(max_answer=LIMIT)
        conversation = made.open(QUERY, how)
        session = Session(model(), how, QUERY)
        told = [say(made, conversation, 0)]
        assert [session.push(frames(0)).tokens] == told
        for question in asked:
            conversation.ask(question)
            ((_, answer),) = made.tick()
            if isinstance(answer, ContextFull):
                with pytest.raises(ContextFull):
                    session.ask(question, LIMIT)
            else:
                told.append(answer.tokens)
                assert session.ask(question, LIMIT).tokens == answer.tokens
        said.append(told)
    assert said[0] == said[1]
    assert any(said[0][1:])


def test_rolling_is_full_until_it_forgets():
    full = alone(8, retention=FULL)
    assert alone(4, retention=Retention(turns=3, sink=0, window=0)) == full[:4]
    assert alone(8, retention=Retention(turns=3, sink=0, window=0)) != full


def test_one_stream_without_an_end():
    """It is the engine's, in a room that it never outgrows; and once warm it compiles no more."""
    before = take_turns._cache_size()
    stream = RollingSession(model(), options("mrope"), QUERY, retention=SHORT)
    stream.warm_up(frames(0).shape[1:3])
    warm = take_turns._cache_size(), look._cache_size()
    assert warm[0] - before <= 4
    said = [stream.push(frames(i)).tokens for i in range(8)]
    stream.ask("d")
    assert warm == (take_turns._cache_size(), look._cache_size())
    assert said == alone(8, retention=SHORT)
    assert stream._conversation.length <= stream._engine.options.room
    with pytest.raises(ConfigError, match="has no bound"):
        RollingSession(model(), options("mrope"), retention=FULL).push(frames(0))


def test_seeing_ahead_changes_nothing(monkeypatch):
    """The tower sees each tick's frames once, ahead of it where they are known, and in their seats."""
    seen = []
    see = session_module.look
    monkeypatch.setattr(session_module, "look", lambda *args: seen.append(args) or see(*args))
    stream = RollingSession(model(), options("mrope"), QUERY, retention=SHORT)
    shown = [frames(i) for i in range(8)]
    said = [stream.push(a, b).tokens for a, b in itertools.zip_longest(shown, shown[1:])]
    assert said == alone(8, retention=SHORT)
    assert len(seen) == 8 + 8

    expected = alone(3), alone(3, start=5)
    crowd = engine(batch=2, waiting=3)
    pair = [crowd.open(QUERY, options("mrope")) for _ in range(2)]
    for stream, start in zip(pair, (0, 5)):
        for turn in range(3):
            stream.push(picture(stream, start + turn))
    seen.clear()
    for turn in range(2):
        told = {who: spoken.tokens for who, spoken in crowd.tick()}
        assert [told[stream] for stream in pair] == [tokens[turn] for tokens in expected]
    assert len(seen) == 3
    pair[0].close()  # whose frames have been seen for nothing
    ((who, spoken),) = crowd.tick()
    assert (who, spoken.tokens) == (pair[1], expected[1][2])
    assert len(seen) == 4


def test_neighbours_change_nothing():
    """Conversations of different ages, modes, limits and penalties share ticks; and come and go."""
    kinds = [
        {"mode": "mrope", "start": 0},
        {"mode": "hybrid", "start": 3, "max_new_tokens": 2},
        {"mode": "sequential", "start": 6, "repetition_penalty": 1.5},
        {"mode": "mrope", "start": 9, "temperature": 1.5, "seed": 4},
    ]
    expected = [alone(6, retention=SHORT, **kind) for kind in kinds]
    made = engine(SHORT)
    streams, spoken = {}, [[] for _ in kinds]
    for tick in range(9):
        for i, kind in enumerate(kinds):
            if tick == i:  # one more every tick
                kind = {k: v for k, v in kind.items() if k != "start"}
                streams[i] = made.open(QUERY, options(kind.pop("mode"), **kind))
            if i in streams and len(spoken[i]) < 6:
                streams[i].push(picture(streams[i], kinds[i]["start"] + len(spoken[i])))
        while made.waiting():
            for who, turn in made.tick():
                spoken[next(i for i, s in streams.items() if s is who)].append(turn.tokens)
    assert spoken == expected


def test_in_eight_bits_company_changes_nothing():
    """Alone in a tick a stream's inputs are rounded as they are among others."""
    given_options = EngineOptions(slots=3, batch=4, pool=4000, max_new_tokens=LIMIT, room=384)
    narrow = StreamModel(CONFIG, params(), TOKENIZER, "fp8")

    def told(company):
        """What a stream says, and the keys of what it remembers, in its last layer."""
        made = Engine(narrow, given_options)
        streams = [made.open(QUERY, options("mrope")) for _ in range(1 + company)]
        said = []
        for turn in range(4):
            for i, stream in enumerate(streams):
                stream.push(frames(turn + 3 * i * bool(turn)))
            said.append({who: spoken.tokens for who, spoken in made.tick()}[streams[0]])
        return said, np.asarray(made._pool[-1][0])[streams[0]._memory.gather()[0]]

    (alone, here), (among, there) = told(0), told(2)
    assert alone == among
    # Sums in another order may round to the next of e4m3's values now and then; unrounded inputs would
    # be off by a hundredth everywhere.
    assert np.median(abs(here - there)) < 1e-4 * here.std()
    words = slice(-len(alone[-1]) + 1, None)
    assert np.median(abs(here - there)[words]) < 1e-4 * here.std()


def test_within_one_program_neighbours_change_no_bit():
    """Keys and values of a stream, in float32, whoever has the other rows and whichever row it has."""

    def kept(row, others):
        made = engine(SHORT, room=512)
        kinds = [options(mode, repetition_penalty=1.0 + 0.3 * i) for i, mode in enumerate(others)]
        kinds.insert(row, options("mrope", max_new_tokens=3))
        streams = [made.open(QUERY, kind) for kind in kinds]
        one = streams[row]
        said = []
        for turn in range(6):
            for i, stream in enumerate(streams):
                stream.push(picture(stream, turn if stream is one else 5 * (i + row) + turn))
            while made.waiting():
                spoken = made.tick()
                assert len(spoken) == len(streams)  # one program, in which every row is somebody
                said += [turn.tokens for who, turn in spoken if who is one]
        places = one._memory.places()
        assert len(places) > 20
        return said, [np.asarray(x)[places] for layer in made._pool for x in layer]

    modes = ["mrope", "hybrid", "sequential"]
    (said, one), (again, other) = kept(0, modes), kept(2, modes[::-1])
    assert said == again
    assert any(said)
    for x, y in zip(one, other, strict=True):
        np.testing.assert_array_equal(x, y)


def test_few_programs_serve_many_turns():
    before = take_turns._cache_size()
    made = engine(SHORT)
    streams = [made.open(QUERY, options("mrope")) for _ in range(3)]
    for turn in range(30):
        for stream in streams[: 1 + turn % 3]:
            stream.push(picture(stream, 0 if not stream._pushed else 1))
        while made.waiting():
            made.tick()
    # One row or two; opening or not; two prompt buckets and one of context.
    assert take_turns._cache_size() - before <= 6


def test_an_engine_warms_up_every_number_of_rows(monkeypatch):
    made, seen = engine(SHORT, slots=3), []

    def run(rows, *_):
        seen.append((len(rows), rows[0].turn.shape[:1]))
        return np.full((len(rows), LIMIT), -1), np.zeros(len(rows), bool)

    monkeypatch.setattr(made, "_run", run)
    monkeypatch.setattr(made, "_see", lambda chosen: None)
    made.warm_up((56, 84), QUERY, options("mrope"))
    assert made.free == 4000
    assert {*seen} == {(rows, kind) for rows in (1, 2, 3) for kind in ((6,), (2,), ())}
    made.open(QUERY)
    with pytest.raises(LiveCCError, match="before it has conversations"):
        made.warm_up((56, 84))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from("opcct")), min_size=5, max_size=60))
def test_opening_and_closing_leak_nothing(monkeypatch, script):
    """In any order; the network itself is left out, the bookkeeping is what it would be."""
    come_and_go(monkeypatch, script)


def test_thousands_of_openings_and_closings_leak_nothing(monkeypatch):
    rng = np.random.default_rng(0)
    made = come_and_go(monkeypatch, [(rng.integers(4), rng.choice([*"oppct"])) for _ in range(3000)])
    assert made._serial > 250
    assert not made._open


def come_and_go(monkeypatch, script):
    """Conversations by (name, action): open, push, close, tick. Nobody else's places are ever taken."""
    made = engine(SHORT, slots=3, pool=500)
    rng = np.random.default_rng(0)

    def run(rows, *_):
        said = np.full((len(rows), LIMIT), -1)
        for row in said:
            row[: rng.integers(0, LIMIT + 1)] = rng.integers(5, 20)
        return said, (said >= 0).all(axis=1)

    monkeypatch.setattr(made, "_run", run)
    monkeypatch.setattr(made, "_see", lambda chosen: None)
    streams = {}
    for name, action in script:
        held = name in streams
        if action == "o" and not held:
            if len(streams) == 3:
                with pytest.raises(SlotsFull):
                    made.open(QUERY)
            else:
                streams[name] = made.open(QUERY, options("mrope"))
        elif action == "p" and held:
            streams[name].push(frames(int(streams[name]._pushed > 0)))
        elif action == "c" and held:
            streams.pop(name).close()
        elif action == "t":
            for who, result in made.tick():
                if isinstance(result, PoolFull):
                    streams = {n: s for n, s in streams.items() if s is not who}
        used = sum(len(np.unique(s._memory.places())) for s in streams.values())
        assert made.free == 500 - used
        everywhere = np.concatenate([np.zeros(0), *(s._memory.places() for s in streams.values())])
        assert len(np.unique(everywhere)) == len(everywhere)
    for stream in streams.values():
        stream.close()
    assert made.free == 500
    return made


def test_labels_and_positions_are_exact_after_years():
    """What a turn is called is counted in whole microseconds; positions are of what is remembered."""
    for number in (1, 86_400, 31_536_000, 10**9):
        assert turn_label(*turn_span(number)) == f"Time={number + 2}.0-{number + 3}.0s"
    made = engine(SHORT)
    fresh, late = (made.open(QUERY, options("mrope")) for _ in range(2))
    for turn in range(4):
        for stream in (fresh, late):
            if stream is late and turn == 1:
                late._pushed = late._taken = 10**6  # nothing was said in between
            stream.push(picture(stream, turn))
        results = dict(made.tick())
        spoken = results[late]
        start = 10**6 + turn + 1 if turn else 0
        assert (spoken.start, spoken.stop) == (start, 10**6 + turn + 2 if turn else 3)
    for stream in (fresh, late):
        _, _, positions = stream._memory.gather()
        assert stream._memory.next_position == positions.max() + 1 < 300


def test_who_falls_behind_loses_the_oldest():
    now = [0.0]
    made = Engine(
        model(), EngineOptions(slots=2, batch=1, pool=4000, max_new_tokens=LIMIT), lambda: now[0]
    )
    late, early = (made.open(QUERY, options("mrope")) for _ in range(2))
    late.push(frames(0), captured=3.0)
    early.push(frames(0), captured=2.5)
    now[0] = 3.25
    assert [who for who, _ in made.tick()] == [early]  # due first
    assert early.lateness.last == pytest.approx(-0.25)
    made.tick()
    for second in range(5):
        late.push(frames(1), captured=4.0 + second)
    now[0] = 9.5
    spoken = [turn for _ in range(2) for _, turn in made.tick()]
    assert (late.lateness.taken, late.lateness.dropped) == (3, 3)
    # The labels go on telling the time.
    assert [(t.start, t.stop) for t in spoken] == [(6.0, 7.0), (7.0, 8.0)]
    assert late.lateness.last == pytest.approx(0.5)
    assert not made.tick()


def test_a_tick_takes_what_fills_it_and_the_most_urgent_first(monkeypatch):
    """What is left comes next; questions, of whom padding costs little, all go together."""
    made = engine(slots=6, batch=8)
    monkeypatch.setattr(made, "_see", lambda chosen: None)

    def run(rows, *_):
        return np.full((len(rows), LIMIT), -1), np.zeros(len(rows), bool)

    monkeypatch.setattr(made, "_run", run)
    streams = [made.open(QUERY, options("mrope")) for _ in range(6)]
    for i, stream in enumerate(streams[:5]):
        stream.push(frames(0), captured=9.0 - i)
    first, second = ([who for who, _ in made.tick()] for _ in range(2))
    assert first == streams[4:0:-1]
    assert second == streams[:1]
    streams[5].push(frames(0))
    for stream in streams[:5]:
        stream.push(frames(1))
    assert [len(made.tick()) for _ in range(3)] == [1, 4, 1]  # an opening is another program
    for stream in streams[:5]:
        stream.ask("?")
    assert len(made.tick()) == 5


def test_what_an_engine_refuses():
    made = engine(slots=1)
    stream = made.open(QUERY, options("mrope", context=300))
    with pytest.raises(SlotsFull, match="all 1 slots"):
        made.open()
    with pytest.raises(MediaError, match="even number"):
        stream.push(frames(0)[:3])
    stream.push(frames(0), captured=5.0)
    with pytest.raises(MediaError, match="changed size within a stream"):
        stream.push(frames(1)[:, :28])
    with pytest.raises(MediaError, match="older than those of the turn before"):
        stream.push(frames(1), captured=4.0)
    results = []
    while not results or not isinstance(results[-1], ContextFull):
        results += [result for _, result in made.tick()]
        if not isinstance(results[-1], ContextFull):
            stream.push(frames(1))
    assert "300 tokens is full" in str(results[-1])
    with pytest.raises(LiveCCError, match="is closed"):
        stream.push(frames(1))
    with pytest.raises(ConfigError, match="does not fit a context"):
        made.open("x" * 500, options("mrope", context=300))
    with pytest.raises(ConfigError, match="more than the engine's"):
        made.open(QUERY, options("mrope", max_new_tokens=LIMIT + 1))
    with pytest.raises(ConfigError, match="at least 1 turn"):
        Retention(turns=0)
