"""Contexts against their definition: a replay with growing lists, and the decoder in numpy."""

import copy
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from livecc_jax.media.pixels import patch_coordinates, patchify
from livecc_jax.model.qwen2_vl import bind
from livecc_jax.stream.engine import Engine
from livecc_jax.stream.history import FULL, EvictionPolicy
from livecc_jax.stream.session import Session
from livecc_jax.timeline.chat import Visual
from livecc_jax.timeline.positions import token_positions
from livecc_jax.timeline.turns import turn_label, turn_span
from tests.support import reference_decoder as reference
from tests.support.streaming import (
    CONFIG,
    LIMIT,
    QUERY,
    SHORT,
    SPECIAL,
    engine,
    engine_options,
    frames,
    frames_for,
    model,
    options,
    params,
    run_all,
    run_alone,
    step_one,
)

PENALTY = 1.05


@functools.cache
def layers():
    return reference.unstack_layers(params())


@jax.jit
def embed(tokens, index, patches, rows, cols):
    network = bind(CONFIG, params())
    merged = network.encode_patches(patches[None], jnp.ones_like(rows)[None], rows[None], cols[None])
    return network.embed(tokens[None], merged, index[None])[0]


class Replay:
    """A conversation as the definition has it: growing lists, from which nothing is moved or dropped.

    Args:
        mode: Position mode.
        policy: Eviction policy.
        silence: Token id of the silence mark.
        store: Applied to each key and value before it is stored.
    """

    def __init__(self, mode, policy, silence, store=lambda x: x):
        self.mode, self.policy, self.silence, self.store = mode, policy, silence, store
        # (prompt, answer), each a list of (id, position in the segment, keys and values).
        self.turns = []
        self.spans = []
        self.pending = []
        self.shown = 0

    def context(self):
        """(id, position, keys and values) that the next turn attends to, and where that turn starts."""
        now, keep, out, at = len(self.turns), self.policy.turns or 10**9, [], 0
        first_recent = max(0, now - keep)

        def add(tokens, span):
            nonlocal at
            out.extend((i, position + at, kv) for i, position, kv in tokens)
            at += span

        old = self.turns[:first_recent]
        words = [t for _, answer in old for t in answer if t[0] != self.silence]
        sink, window = self.policy.sink, self.policy.window
        rest = words[sink:]
        words = words[:sink] + rest[max(0, len(rest) - window) :]
        for number, (prompt, answer) in enumerate(self.turns):
            if number == 0:
                add(prompt, self.spans[0])
                for word in words:
                    add([(word[0], np.zeros(3), word[2])], 1)
            elif number >= first_recent:
                add(prompt, self.spans[number])
            if number >= first_recent:
                for word in answer:
                    add([(word[0], np.zeros(3), word[2])], 1)
        return out, at

    def turn(self, turn_frames, question="", limit=LIMIT):
        """The tokens that are generated for frames, or for a question."""
        number, content = len(self.turns), (question,)
        if turn_frames is not None:
            patches, grid = patchify(turn_frames)
            label = turn_label(*turn_span(self.shown))
            content = (label, Visual("video", grid), *([] if number else [QUERY]))
            self.shown += 1
        template = model().template
        encoded = template.continuation(content) if number else template.opening(content)
        tokens = np.array([*self.pending, *encoded.tokens], np.int32)
        mode = self.mode
        if mode == "hybrid":
            mode = "sequential" if number else "mrope"
        positions, span = token_positions(tokens, encoded.grids, SPECIAL, mode)
        x = np.asarray(params()["text"]["embed"])[tokens]
        if turn_frames is not None:
            pairs, height, width = grid
            rows, cols = (
                np.tile(x, (pairs, 1)).astype(np.int32) for x in patch_coordinates(height, width)
            )
            vision = tokens == SPECIAL.video_pad
            index = np.where(vision, np.cumsum(vision) - 1, -1)
            x = embed(tokens, index, patches.reshape(pairs, height * width, -1), rows, cols)
        context, start = self.context()
        caches = [
            reference.ReferenceCache(
                [kv[n][0] for _, _, kv in context],
                [kv[n][1] for _, _, kv in context],
                [np.asarray(at, np.float64) for _, at, _ in context],
            )
            for n in range(len(layers()))
        ]
        generated, *new_kv = reference.generate(
            CONFIG.text, params(), layers(), x, positions.T + start, start + span,
            {*tokens.tolist(), *(i for i, _, _ in context)}, caches,
            limit=limit, penalty=PENALTY, ends=model().stop.end,
        )  # fmt: skip
        prompt_kv, answer_kv = ([[tuple(map(self.store, kv)) for kv in t] for t in x] for x in new_kv)
        prompt = list(zip(tokens.tolist(), positions.T, prompt_kv))
        answer = [(i, np.zeros(3), kv) for i, kv in zip(generated, answer_kv)]
        truncated = len(generated) == limit
        self.turns.append((prompt, answer))
        self.spans.append(span)
        self.pending = generated[-1:] if truncated and self.mode != "hybrid" else []
        return tuple(generated)


@pytest.mark.parametrize(
    ("mode", "turns"),
    [
        ("mrope", 10),
        ("sequential", 10),
        ("hybrid", 10),
        pytest.param("mrope", 3000, marks=pytest.mark.slow),
    ],
)
def test_rolling_is_the_replay(mode, turns):
    """With a silence token that is generated often, so that dropping it makes a difference."""
    tokens = [t for tokens in run_alone(12, mode) for t in tokens]
    frequent = max(range(CONFIG.text.vocab_size), key=tokens.count)
    silent = copy.copy(model())
    silent.stop = dataclasses.replace(model().stop, silence=frequent)
    replay = Replay(mode, SHORT, frequent)
    rolling = Engine(silent, engine_options(SHORT))
    conversation = rolling.open(QUERY, options(mode))
    for number in range(turns):
        expected = replay.turn(frames(number))
        assert step_one(rolling, conversation, number) == expected, number
        context, start = replay.context()
        conversation.context.evict()
        _, tokens, positions = conversation.context.history.gather()
        assert tokens.tolist() == [i for i, _, _ in context]
        np.testing.assert_array_equal(positions.T, [at for _, at, _ in context])
        assert conversation.context.next_position == start


def test_a_rolling_session_is_the_replay():
    """The same through `Session`, which has a store of its own size."""
    replay = Replay("mrope", SHORT, model().stop.silence)
    session = Session(model(), options("mrope"), QUERY, eviction=SHORT)
    script = [0, 1, 2, "?d", 3, 4, "d", 5]
    for item in script:
        if isinstance(item, str):
            assert session.ask(item, 4).tokens == replay.turn(None, item, 4)
        else:
            assert session.push(frames(item)).tokens == replay.turn(frames(item))


def round_to_int8(x):
    """[K, D] in 255 steps per head, by the definition."""
    step = abs(x).max(-1, keepdims=True) / 127
    return np.round(x / step) * step


def test_an_int8_pool_is_the_replay_of_rounded_keys_and_values():
    """A turn attends to its own keys and values unrounded, and to older ones rounded."""
    replay = Replay("mrope", SHORT, model().stop.silence, round_to_int8)
    rolling = engine(SHORT, cache_precision="int8")
    conversation = rolling.open(QUERY, options("mrope"))
    for number in range(8):
        assert step_one(rolling, conversation, number) == replay.turn(frames(number)), number
    int8_bytes = sum(x.nbytes for x in jax.tree.leaves(rolling.store.pool))
    float_bytes = sum(x.nbytes for x in jax.tree.leaves(engine(SHORT).store.pool))
    per_head = CONFIG.text.head_dim
    assert int8_bytes / float_bytes == (per_head + 4) / (4 * per_head)  # the model is float32


@pytest.mark.parametrize("mode", ["mrope", "sequential", "hybrid"])
def test_a_question_is_a_turn_like_any_other(mode):
    """By the replay, whether everything is kept or little, in a session and in an engine."""
    script = [0, 1, "?d", 2, 3, 4, "abc", "d", 5]
    full, short = Replay(mode, FULL, None), Replay(mode, SHORT, model().stop.silence)
    session, answers = Session(model(), options(mode), QUERY), []
    rolling = engine(SHORT, max_answer_tokens=4)
    conversation = rolling.open(QUERY, options(mode))
    neighbour = rolling.open(QUERY, options("mrope"))
    last = 0
    for number, item in enumerate(script):
        if isinstance(item, str):
            answer = session.ask(item, max_new_tokens=4)
            assert answer.tokens == full.turn(None, item, 4)
            assert (answer.at, answer.question) == (3 + last, item)
            conversation.ask(item)
            expected = short.turn(None, item, 4)
            answers.append(answer.tokens)
        else:
            last = item
            assert session.push(frames(item)).tokens == full.turn(frames(item))
            conversation.push(frames_for(conversation, item))
            expected = short.turn(frames(item))
        if number % 3 == 0:
            neighbour.push(frames_for(neighbour, number))
        assert dict(run_all(rolling))[conversation].tokens == expected
    assert any(answers)


def test_rolling_is_full_until_the_first_eviction():
    full = run_alone(8)
    policy = EvictionPolicy(turns=3, sink=0, window=0)
    assert run_alone(4, eviction=policy) == full[:4]
    assert run_alone(8, eviction=policy) != full
