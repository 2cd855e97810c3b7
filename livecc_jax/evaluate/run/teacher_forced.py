"""Teacher forcing: what the reference commentary costs a model, turn by turn, in one pass over a clip.

The conversation is the one that training would make of the clip, silent turns at its end included. It
goes through the layers in chunks behind a cache, and the head sees supervised positions only, some at a
time, so there are never logits of a whole clip.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from livecc_jax.decoding.decoder import logits
from livecc_jax.decoding.kv_cache import Cache, append, empty_cache, grow_cache
from livecc_jax.decoding.weights import Weights
from livecc_jax.evaluate.metrics.commentary import Reference, word_spans_by_turn
from livecc_jax.evaluate.metrics.perplexity import TeacherForcedClip, TeacherForcedTurn
from livecc_jax.evaluate.run.choice import bucket_size, pad_last_axis
from livecc_jax.evaluate.run.choice_steps import embed_tokens, scatter_patches
from livecc_jax.media.pixels import PATCH
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.qwen2_vl import bind
from livecc_jax.stream.session import StreamModel
from livecc_jax.text.tokenizer import Tokenizer
from livecc_jax.timeline.chat import stream_conversation
from livecc_jax.timeline.positions import token_positions
from livecc_jax.timeline.turns import OPENING_FRAMES, TURN_FRAMES, Turn, turn_span
from livecc_jax.train.loss import target_losses

CHUNK = 1024  # tokens through the layers at a time
HEAD_CHUNK = 128  # targets with logits at a time
MIN_TARGETS = 32  # of a chunk; more come in powers of two, so that few programs are compiled


def reference_turns(reference: Reference, frames: int) -> tuple[list[Turn], int]:
    """The reference as turns over frames shown 2 a second.

    Args:
        reference: of the clip.
        frames: how many are shown of it, even.

    Returns:
        (turns, times relative to the clip's start; how many words are in none of them).
    """
    firsts = [0, *range(OPENING_FRAMES, frames - 1, TURN_FRAMES)]
    spans = word_spans_by_turn(reference)
    turns, scored = [], 0
    for number, first in enumerate(firsts):
        start, stop = spans[number] if number < len(spans) else (0, 0)
        said = [w.text.strip() for w in reference.words if start < w.end_us <= stop]
        scored += len(said)
        count = min(OPENING_FRAMES, frames) if number == 0 else TURN_FRAMES
        turns.append(Turn(*turn_span(number), first, count, " ".join(filter(None, said))))
    return turns, len(reference.words) - scored


def word_tokens(tokenizer: Tokenizer, turn: Turn) -> int:
    """How many of an answer's first tokens are its words': those it has without its silence mark."""
    with_mark, alone = tokenizer.encode(turn.answer), tokenizer.encode(turn.text)
    same = [a == b for a, b in zip(with_mark, alone)]
    return same.index(False) if False in same else len(same)


def teacher_force(
    model: StreamModel,
    frames: np.ndarray,
    reference: Reference,
    prompt: str,
    positions: str,
    context: int,
    chunk: int = CHUNK,
) -> TeacherForcedClip:
    """Cost of a clip's reference commentary.

    Args:
        model: shared weights.
        frames: uint8 [F, H, W, 3], F even, sides multiples of 28.
        reference: what was said.
        prompt: the first turn's text.
        positions: rotary position mode.
        context: most tokens; turns that end beyond it are left out.
        chunk: tokens through the layers at a time.
    """
    turns, left_out = reference_turns(reference, len(frames))
    rows_cols = (frames.shape[1] // PATCH, frames.shape[2] // PATCH)
    chat = stream_conversation(turns, rows_cols, prompt)
    encoded = model.template.conversation(chat)
    # Turn i is answered by message 2 i + 2: the system's comes first. Its end is supervised too.
    ends = [int(np.flatnonzero(encoded.turns == 2 * i + 2)[-1]) for i in range(len(turns))]
    kept = sum(end < context for end in ends)
    left_out += sum(len(t.text.split()) for t in turns[kept:])
    targets = np.flatnonzero(encoded.supervised & (encoded.turns <= 2 * kept))
    if not len(targets):
        return TeacherForcedClip((), left_out)
    special = model.tokenizer.special
    places, _ = token_positions(encoded.tokens, encoded.grids, special, positions)
    stop = int(targets[-1]) + 1
    nats = _costs(model, frames, encoded.tokens[:stop], places[:, :stop], targets, chunk)
    found = []
    for i, turn in enumerate(turns[:kept]):
        own = nats[encoded.turns[targets] == 2 * i + 2]
        words = word_tokens(model.tokenizer, turn)
        start, end = turn.start_us + reference.start_us, turn.stop_us + reference.start_us
        found.append(
            TeacherForcedTurn(start, end, words, float(own[:words].sum()), len(own), float(own.sum()))
        )
    return TeacherForcedClip(tuple(found), left_out)


def _costs(
    model: StreamModel,
    frames: np.ndarray,
    tokens: np.ndarray,
    positions: np.ndarray,
    targets: np.ndarray,
    chunk: int,
) -> np.ndarray:
    """float64 [targets], nats of each target token."""
    seen = _pictures(model, frames, chunk)
    is_vision = tokens == model.tokenizer.special.video_pad
    index = np.where(is_vision, np.cumsum(is_vision) - 1, -1).astype(np.int32)
    cache = empty_cache(model.config, 1, bucket_size(chunk, chunk), model.dtype)
    costs = []
    for first in range(0, len(tokens) - 1, chunk):
        span = slice(first, min(first + chunk, len(tokens)))
        need = bucket_size(first + chunk, chunk)
        if cache[0][0].shape[1] < need:
            cache = grow_cache(cache, need)
        x = embed_tokens(
            model.config,
            model.weights,
            pad_last_axis(tokens[span], chunk, 0),
            pad_last_axis(index[span], chunk, -1),
            seen,
        )
        hidden, cache = forward_chunk(
            model.config,
            model.weights,
            cache,
            np.array([first], np.int32),
            x,
            pad_last_axis(positions[:, span], chunk, 0),
        )
        slots = targets[(targets > first) & (targets <= first + chunk)] - 1 - first
        if not len(slots):
            continue
        room = MIN_TARGETS
        while room < len(slots):
            room *= 2
        following = pad_last_axis(tokens[first : first + chunk + 1], chunk + 1, 0)
        found = target_nats(
            model.config, model.weights, hidden, following, pad_last_axis(slots, room, 0)
        )
        costs.append((found, len(slots)))
    return np.concatenate([np.asarray(found, np.float64)[0, :n] for found, n in costs])


def _pictures(model: StreamModel, frames: np.ndarray, chunk: int) -> jax.Array:
    """Every merged patch in order, [1, M, D], M on the ladder; as many frames at a time as a stream
    opens with, so that its program serves here too."""
    pair = frames.shape[1] // PATCH * (frames.shape[2] // PATCH) // 4
    total = len(frames) // 2 * pair
    most = bucket_size(total, chunk)
    seen = jnp.zeros((1, most, model.config.text.width), model.dtype)
    for first in range(0, len(frames), OPENING_FRAMES):
        group = frames[first : first + OPENING_FRAMES]
        short = OPENING_FRAMES - len(group)
        group = np.concatenate([group, np.repeat(group[-1:], short, axis=0)])
        merged = model.look((group,))
        to = first // 2 * pair + np.arange(merged.shape[1], dtype=np.int32)
        seen = scatter_patches(seen, merged, np.where(to < total, to, most)[None])
    return seen


@functools.partial(jax.jit, static_argnames="config", donate_argnames="cache")
def forward_chunk(
    config: ModelConfig,
    weights: Weights,
    cache: Cache,
    length: jax.Array,
    x: jax.Array,
    positions: jax.Array,
) -> tuple[jax.Array, Cache]:
    """Append a chunk x [1, Q, D] at positions int32 [1, 3, Q]: ([1, Q, D] final states, cache)."""
    return append(bind(config, weights.rest), weights.layers, cache, x, positions, length)


@functools.partial(jax.jit, static_argnames="config")
def target_nats(
    config: ModelConfig, weights: Weights, hidden: jax.Array, tokens: jax.Array, slots: jax.Array
) -> jax.Array:
    """Nats float32 [1, N] of the tokens after slots int32 [1, N]; tokens int32 [1, Q + 1]."""
    head = functools.partial(logits, bind(config, weights.rest), weights)
    return target_losses(head, hidden, tokens, slots, HEAD_CHUNK)
