"""Teacher forcing: the cost of a clip's reference commentary, turn by turn, in one pass over the clip.

The conversation is the one that training makes of the clip, with the silent turns at its end. It goes
through the layers in chunks with a cache, and the head is applied to the supervised positions only,
some at a time, so the logits of a full clip never exist.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from livecc_jax.decoding.decoder import logits
from livecc_jax.decoding.kv_cache import KVCache, append, empty_cache, grow_cache
from livecc_jax.decoding.weights import DecodingWeights
from livecc_jax.errors import ConfigError
from livecc_jax.evaluate.metrics.commentary import Reference, word_spans_by_turn
from livecc_jax.evaluate.metrics.perplexity import TeacherForcedClip, TeacherForcedTurn
from livecc_jax.evaluate.run.buckets import bucket_size, pad_last_axis
from livecc_jax.evaluate.run.choice_steps import embed_tokens, scatter_patches
from livecc_jax.families import DEFAULT as DEFAULT_FAMILY
from livecc_jax.families.qwen2_vl import PATCH
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.qwen2_vl import bind
from livecc_jax.stream.model import StreamModel
from livecc_jax.text.tokenizer import Tokenizer
from livecc_jax.timeline.chat import stream_conversation
from livecc_jax.timeline.positions import token_positions
from livecc_jax.timeline.turns import OPENING_FRAMES, TURN_FRAMES, Turn, turn_first_frames, turn_span
from livecc_jax.train.loss import target_losses

CHUNK = 1024  # tokens that go through the layers at a time
HEAD_CHUNK = 128  # targets whose logits exist at a time
MIN_TARGETS = 32  # smallest bucket of the targets of a chunk; larger ones are powers of two


def reference_turns(reference: Reference, frames: int) -> tuple[list[Turn], int]:
    """Divides a reference into turns over frames at 2 a second.

    Args:
        reference: Transcript of the clip.
        frames: Number of frames of the clip, an even number.

    Returns:
        The turns, with times relative to the clip's start; the number of words that are in no turn.
    """
    first_frames = turn_first_frames(frames)
    spans = word_spans_by_turn(reference)
    turns, words_in_turns = [], 0
    for number, first_frame in enumerate(first_frames):
        start, stop = spans[number] if number < len(spans) else (0, 0)
        words = [w.text.strip() for w in reference.words if start < w.end_us <= stop]
        words_in_turns += len(words)
        count = min(OPENING_FRAMES, frames) if number == 0 else TURN_FRAMES
        text = " ".join(filter(None, words))
        turns.append(Turn(*turn_span(number), first_frame, count, text))
    return turns, len(reference.words) - words_in_turns


def count_word_tokens(tokenizer: Tokenizer, turn: Turn) -> int:
    """Returns how many of the first tokens of a turn's answer belong to its words: those that are the
    same without the silence mark."""
    with_mark, without_mark = tokenizer.encode(turn.answer), tokenizer.encode(turn.text)
    equal = [a == b for a, b in zip(with_mark, without_mark)]
    return equal.index(False) if False in equal else len(equal)


def teacher_force(
    model: StreamModel,
    frames: np.ndarray,
    reference: Reference,
    prompt: str,
    positions: str,
    context: int,
    chunk: int = CHUNK,
) -> TeacherForcedClip:
    """Computes the negative log-likelihood of a clip's reference commentary.

    Args:
        model: The model.
        frames: uint8 [F, H, W, 3], F even, H and W multiples of 28.
        reference: Transcript of the clip.
        prompt: Text of the first turn.
        positions: Rotary position mode.
        context: Maximum number of tokens; turns that end beyond it are left out.
        chunk: Tokens that go through the layers at a time.
    """
    if model.config.family is not DEFAULT_FAMILY:
        raise ConfigError(
            f"the words of references are not scored by {model.config.family.name} models yet"
        )
    turns, words_left_out = reference_turns(reference, len(frames))
    rows_cols = (frames.shape[1] // PATCH, frames.shape[2] // PATCH)
    chat = stream_conversation(turns, rows_cols, prompt)
    encoded = model.template.conversation(chat)
    # The system message comes first, so the answer of turn i is message 2 i + 2. Its end-of-turn token
    # is supervised too.
    ends = [int(np.flatnonzero(encoded.turns == 2 * i + 2)[-1]) for i in range(len(turns))]
    turns_in_context = sum(end < context for end in ends)
    words_left_out += sum(len(t.text.split()) for t in turns[turns_in_context:])
    targets = np.flatnonzero(encoded.supervised & (encoded.turns <= 2 * turns_in_context))
    if not len(targets):
        return TeacherForcedClip((), words_left_out)
    special = model.tokenizer.special
    rotary, _ = token_positions(encoded.tokens, encoded.grids, special, positions)
    stop = int(targets[-1]) + 1
    nats = _compute_nats(model, frames, encoded.tokens[:stop], rotary[:, :stop], targets, chunk)
    forced_turns = []
    for i, turn in enumerate(turns[:turns_in_context]):
        turn_nats = nats[encoded.turns[targets] == 2 * i + 2]
        words = count_word_tokens(model.tokenizer, turn)
        forced_turns.append(
            TeacherForcedTurn(
                turn.start_us + reference.start_us,
                turn.stop_us + reference.start_us,
                words,
                float(turn_nats[:words].sum()),
                len(turn_nats),
                float(turn_nats.sum()),
            )
        )
    return TeacherForcedClip(tuple(forced_turns), words_left_out)


def _compute_nats(
    model: StreamModel,
    frames: np.ndarray,
    tokens: np.ndarray,
    positions: np.ndarray,
    targets: np.ndarray,
    chunk: int,
) -> np.ndarray:
    """Returns float64 [targets]: the negative log-likelihood in nats of each target token.

    Args:
        model: The model.
        frames: uint8 [F, H, W, 3].
        tokens: int32 [T].
        positions: int32 [3, T], rotary positions.
        targets: int64 [targets], indices in T of the supervised tokens, ascending.
        chunk: Tokens that go through the layers at a time.
    """
    vision_embeds = _encode_frames(model, frames, chunk)
    is_vision = tokens == model.tokenizer.special.video_pad
    vision_index = np.where(is_vision, np.cumsum(is_vision) - 1, -1).astype(np.int32)
    cache = empty_cache(model.config, 1, bucket_size(chunk, chunk), model.dtype)
    nats_of_chunks = []
    for first in range(0, len(tokens) - 1, chunk):
        span = slice(first, min(first + chunk, len(tokens)))
        capacity = bucket_size(first + chunk, chunk)
        if cache[0][0].shape[1] < capacity:
            cache = grow_cache(cache, capacity)
        x = embed_tokens(
            model.config,
            model.weights,
            pad_last_axis(tokens[span], chunk, 0),
            pad_last_axis(vision_index[span], chunk, -1),
            vision_embeds,
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
        slot_bucket = MIN_TARGETS
        while slot_bucket < len(slots):
            slot_bucket *= 2
        chunk_tokens = pad_last_axis(tokens[first : first + chunk + 1], chunk + 1, 0)
        nats = target_nats(
            model.config, model.weights, hidden, chunk_tokens, pad_last_axis(slots, slot_bucket, 0)
        )
        nats_of_chunks.append((nats, len(slots)))
    return np.concatenate([np.asarray(nats, np.float64)[0, :n] for nats, n in nats_of_chunks])


def _encode_frames(model: StreamModel, frames: np.ndarray, chunk: int) -> jax.Array:
    """Returns [1, M, D]: every merged patch in order; M is a bucket.

    The frames are encoded as many at a time as a stream has in its first turn, so that both share one
    compiled program.
    """
    patches_per_pair = frames.shape[1] // PATCH * (frames.shape[2] // PATCH) // 4
    total = len(frames) // 2 * patches_per_pair
    length = bucket_size(total, chunk)
    vision_embeds = jnp.zeros((1, length, model.config.text.width), model.dtype)
    for first in range(0, len(frames), OPENING_FRAMES):
        group = frames[first : first + OPENING_FRAMES]
        missing = OPENING_FRAMES - len(group)
        group = np.concatenate([group, np.repeat(group[-1:], missing, axis=0)])
        merged = model.encode_frames((group,))
        targets = first // 2 * patches_per_pair + np.arange(merged.shape[1], dtype=np.int32)
        # Patches of repeated frames are scattered past the end, where they are dropped.
        targets = np.where(targets < total, targets, length)[None]
        vision_embeds = scatter_patches(vision_embeds, merged, targets)
    return vision_embeds


@functools.partial(jax.jit, static_argnames="config", donate_argnames="cache")
def forward_chunk(
    config: ModelConfig,
    weights: DecodingWeights,
    cache: KVCache,
    length: jax.Array,
    x: jax.Array,
    positions: jax.Array,
) -> tuple[jax.Array, KVCache]:
    """Runs the layers over a chunk and appends it to the cache.

    Args:
        config: Architecture of the model.
        weights: Weights prepared for decoding.
        cache: Keys and values of earlier chunks, donated.
        length: int32 [1], number of tokens in the cache.
        x: [1, Q, D], embeddings of the chunk.
        positions: int32 [1, 3, Q], rotary positions.

    Returns:
        [1, Q, D], the final hidden states; the cache.
    """
    return append(bind(config, weights.other), weights.layers, cache, x, positions, length)


@functools.partial(jax.jit, static_argnames="config")
def target_nats(
    config: ModelConfig,
    weights: DecodingWeights,
    hidden: jax.Array,
    tokens: jax.Array,
    slots: jax.Array,
) -> jax.Array:
    """Computes the negative log-likelihood of target tokens.

    Args:
        config: Architecture of the model.
        weights: Weights prepared for decoding.
        hidden: [1, Q, D], final hidden states.
        tokens: int32 [1, Q + 1], tokens of the chunk and the one after it.
        slots: int32 [1, N], positions in Q whose next token is a target.

    Returns:
        float32 [1, N], nats.
    """
    head = functools.partial(logits, bind(config, weights.other), weights)
    return target_losses(head, hidden, tokens, slots, HEAD_CHUNK)
