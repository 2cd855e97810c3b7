"""A pool of tokens' keys and values that any number of conversations share.

A conversation's context is a list of places in the pool, kept on the host; nothing in the pool moves
when it forgets, forks or ends. Keys are stored as they come out of their projection, before rotation:
a context that forgets a turn closes the gap, which gives what it keeps new positions. Each turn gathers
its context once, rotated to where it is now, into working memory that all tokens of the turn attend to.

Working memory of a turn, for each layer: C places of context, Q of prompt, M of answer. Where things
lie is the same in every row, so that all writes are of static shape; masks say what is there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from livecc_jax.model.attention_xla import masked_attention
from livecc_jax.model.cache import bind_layer
from livecc_jax.model.cache_attention import attend_past, fused
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.qwen2_vl import Params, Qwen2VL
from livecc_jax.model.rope import rotate

# One entry a layer: keys (not rotated) and values, each [N, K, D].
Pool = list[tuple[jax.Array, jax.Array]]
# One entry a layer: keys (rotated) and values, each [B, C + Q + M, K, D].
Work = list[tuple[jax.Array, jax.Array]]
# One entry a layer: keys (not rotated) and values of the answer, each [B, M, K, D].
Fresh = list[tuple[jax.Array, jax.Array]]


class Context(NamedTuple):
    """What each row attends to beside its own turn, padded to C."""

    places: jax.Array  # int32 [B, C] in the pool
    tokens: jax.Array  # int32 [B, C]
    positions: jax.Array  # int32 [B, 3, C]
    length: jax.Array  # int32 [B]


def empty_pool(config: ModelConfig, tokens: int, dtype: Any) -> Pool:
    """Zeros for so many tokens."""
    shape = (tokens, config.text.kv_heads, config.text.head_dim)
    return [(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in range(config.text.layers)]


def _stored(pool: jax.Array, new: jax.Array, places: jax.Array) -> jax.Array:
    """[N, K, D] with new rows; that no two share a place is what makes this a plain copy."""
    return pool.at[places].set(new, mode="drop", unique_indices=True)


def read_turn(
    model: Qwen2VL,
    layers: list[Params],
    pool: Pool,
    context: Context,
    x: jax.Array,
    positions: jax.Array,
    places: jax.Array,
    room: int,
) -> tuple[jax.Array, Pool, Work]:
    """Run prompts through every layer, each over its context, and keep their keys and values.

    Args:
        model: bound; only its norm and rotary settings are used.
        layers: from `take_layers_apart`.
        pool: to be donated.
        context: of each row.
        x: [B, Q, D] embedded prompts, padded at their ends.
        positions: int32 [B, 3, Q].
        places: int32 [B, Q], where the pool keeps them, each another; N and beyond for padding.
        room: M, tokens that the answer may have.

    Returns:
        ([B, Q, D] hidden states after the final norm, the pool, the working memory).
    """
    batch, queries = x.shape[:2]
    old, new = model.text.angles(context.positions), model.text.angles(positions)
    there = jnp.arange(context.places.shape[1]) < context.length[:, None]
    causal = jnp.tril(jnp.ones((queries, queries), bool))
    seen = jnp.concatenate(
        [
            jnp.broadcast_to(there[:, None], (batch, queries, there.shape[1])),
            jnp.broadcast_to(causal, (batch, queries, queries)),
            jnp.zeros((batch, queries, room), bool),
        ],
        axis=2,
    )
    kept: Pool = []
    work: Work = []
    for i, (weights, (pool_k, pool_v)) in enumerate(zip(layers, pool)):

        def attend(
            q: jax.Array,
            k: jax.Array,
            v: jax.Array,
            pool_k: jax.Array = pool_k,
            pool_v: jax.Array = pool_v,
        ) -> tuple[jax.Array, Any]:
            k, v = k.astype(pool_k.dtype), v.astype(pool_v.dtype)
            here = rotate(k, new)
            unsaid = jnp.zeros((batch, room, *k.shape[2:]), k.dtype)
            # One array each from the start: the context is written once, rotated on the way.
            all_k = jnp.concatenate([rotate(pool_k[context.places], old), here, unsaid], axis=1)
            all_v = jnp.concatenate([pool_v[context.places], v, unsaid], axis=1)
            if fused(q, here):
                out = attend_past(q, all_k, all_v, context.length, here, v)
            else:
                out = masked_attention(q, all_k, all_v, seen)
            return out, (_stored(pool_k, k, places), _stored(pool_v, v, places), all_k, all_v)

        with jax.named_scope(f"layer_{i}"):
            x, (kept_k, kept_v, all_k, all_v) = bind_layer(model.config, weights)(x, new, attend)
        kept.append((kept_k, kept_v))
        work.append((all_k, all_v))
    return model.text.final(x), kept, work


def no_answer(pool: Pool, batch: int, room: int) -> Fresh:
    """Zeros for the answers' keys and values."""
    return [tuple(jnp.zeros((batch, room, *a.shape[1:]), a.dtype) for a in pair) for pair in pool]


def say_token(
    model: Qwen2VL,
    layers: list[Params],
    work: Work,
    fresh: Fresh,
    x: jax.Array,
    position: jax.Array,
    number: jax.Array,
    seen: jax.Array,
) -> tuple[jax.Array, Work, Fresh]:
    """Run one token of each answer through every layer.

    Args:
        model: bound.
        layers: from `take_layers_apart`.
        work: from `read_turn`; written at place C + Q + number.
        fresh: the answers' own keys, not rotated; written at `number`.
        x: [B, 1, D] embedded tokens.
        position: int32 [B].
        number: int32 [], which token of the answer this is.
        seen: bool [B, C + Q + M], what the row may attend to, itself included.

    Returns:
        ([B, D] hidden states after the final norm, work, fresh).
    """
    angles = model.text.angles(jnp.broadcast_to(position[:, None, None], (len(x), 3, 1)))
    at = work[0][0].shape[1] - fresh[0][0].shape[1] + number
    put = jax.lax.dynamic_update_slice_in_dim
    written: Work = []
    said: Fresh = []
    for i, (weights, (work_k, work_v), (own_k, own_v)) in enumerate(zip(layers, work, fresh)):

        def attend(
            q: jax.Array,
            k: jax.Array,
            v: jax.Array,
            work_k: jax.Array = work_k,
            work_v: jax.Array = work_v,
            own_k: jax.Array = own_k,
            own_v: jax.Array = own_v,
        ) -> tuple[jax.Array, Any]:
            k, v = k.astype(work_k.dtype), v.astype(work_v.dtype)
            work_k = put(work_k, rotate(k, angles), at, axis=1)
            work_v = put(work_v, v, at, axis=1)
            out = masked_attention(q, work_k, work_v, seen[:, None])
            own = put(own_k, k, number, axis=1), put(own_v, v, number, axis=1)
            return out, ((work_k, work_v), own)

        with jax.named_scope(f"layer_{i}"):
            x, (whole, own) = bind_layer(model.config, weights)(x, angles, attend)
        written.append(whole)
        said.append(own)
    return model.text.final(x)[:, 0], written, said


def keep_answers(pool: Pool, fresh: Fresh, places: jax.Array) -> Pool:
    """Store the answers' keys and values at `places`, int32 [B, M], as in `read_turn`."""
    return [
        (_stored(pool_k, k, places), _stored(pool_v, v, places))
        for (pool_k, pool_v), (k, v) in zip(pool, fresh)
    ]
