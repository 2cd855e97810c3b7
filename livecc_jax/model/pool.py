"""A pool of tokens' keys and values that any number of conversations share.

A conversation's context is a list of places in the pool, kept on the host; nothing in the pool moves
when it forgets, forks or ends. Keys are stored as they come out of their projection, before rotation:
a context that forgets a turn closes the gap, which gives what it keeps new positions. Each turn gathers
its context once, rotated to where it is now, into working memory that all tokens of the turn attend to.

Working memory of a turn, for each layer: C places of context, and Q of prompt with M of answer. Where
things lie is the same in every row, so that all writes are of static shape.

Over a mesh the pool is split as a batch is, and by key heads: a row's places are numbered within the
part of the devices that have the row.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from livecc_jax.model.cache_attention import attend_masked, attend_past, attend_turn, together
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.inference import decoder_layer
from livecc_jax.model.kept import Eight, narrow, widen
from livecc_jax.model.qwen2_vl import Params, Qwen2VL
from livecc_jax.model.rope import rotate
from livecc_jax.parallel.rules import on_own_part, partition_spec

# One entry a layer: keys (not rotated) and values, each [N, K, D].
Pool = list[tuple[jax.Array | Eight, jax.Array | Eight]]
POOL_AXES = ("batch", "kv_heads", None)
# One entry a layer: keys (rotated) and values of the context, each [B, C, K, D].
Past = list[tuple[jax.Array, jax.Array]]
# One entry a layer: keys (rotated) and values of the turn itself, each [B, Q + M, K, D].
Own = list[tuple[jax.Array, jax.Array]]
# One entry a layer: keys (not rotated) and values of the answer, each [B, M, K, D].
Fresh = list[tuple[jax.Array, jax.Array]]


class Context(NamedTuple):
    """What each row attends to beside its own turn, padded to C."""

    places: jax.Array  # int32 [B, C] in the pool
    tokens: jax.Array  # int32 [B, C]
    positions: jax.Array  # int32 [B, 3, C]
    length: jax.Array  # int32 [B]


def empty_pool(
    config: ModelConfig,
    tokens: int,
    dtype: Any,
    mesh: Mesh | None = None,
    precision: str = "weights",
) -> Pool:
    """Zeros for so many tokens, split over a mesh if one is given.

    Args:
        config: the architecture.
        tokens: N.
        dtype: of the weights.
        mesh: devices to split over.
        precision: `weights` to keep keys and values in `dtype`, `int8` in eight bits.
    """
    shape = (tokens, config.text.kv_heads, config.text.head_dim)
    place = NamedSharding(mesh, partition_spec(POOL_AXES)) if mesh else None
    zeros = functools.partial(jnp.zeros, device=place)

    def one() -> jax.Array | Eight:
        if precision == "int8":
            return Eight(zeros(shape, jnp.int8), zeros((*shape[:2], 1), jnp.float32))
        return zeros(shape, dtype)

    return [(one(), one()) for _ in range(config.text.layers)]


def _stored(pool: jax.Array | Eight, new: jax.Array, places: jax.Array) -> jax.Array | Eight:
    """[N, K, D] with new rows; that no two share a place is what makes this a plain copy."""
    if isinstance(pool, Eight):
        return Eight(*(_stored(old, part, places) for old, part in zip(pool, narrow(new))))

    def put(pool: jax.Array, new: jax.Array, places: jax.Array) -> jax.Array:
        return pool.at[places].set(new, mode="drop", unique_indices=True)

    rows = "batch", None, "kv_heads", None
    return on_own_part(put, (POOL_AXES, rows, ("batch", None)), POOL_AXES)(pool, new, places)


def _found(pool: jax.Array | Eight, places: jax.Array, dtype: Any) -> jax.Array:
    """[B, C, K, D] of the pool."""
    if isinstance(pool, Eight):
        return widen(Eight(*(_found(part, places, part.dtype) for part in pool)), dtype)
    find = on_own_part(
        lambda pool, places: pool[places],
        (POOL_AXES, ("batch", None)),
        ("batch", None, "kv_heads", None),
    )
    return find(pool, places)


def read_turn(
    model: Qwen2VL,
    layers: list[Params],
    pool: Pool,
    context: Context,
    x: jax.Array,
    positions: jax.Array,
    places: jax.Array,
    room: int,
) -> tuple[jax.Array, Pool, Past, Own]:
    """Run prompts through every layer, each over its context, and keep their keys and values.

    Args:
        model: bound; only its norm and rotary settings are used.
        layers: from `inference.lay_out`.
        pool: to be donated.
        context: of each row.
        x: [B, Q, D] embedded prompts, padded at their ends.
        positions: int32 [B, 3, Q].
        places: int32 [B, Q], where the pool keeps them, each another; N and beyond for padding.
        room: M, tokens that the answer may have.

    Returns:
        ([B, Q, D] hidden states after the final norm, the pool, context and turn to attend to).
    """
    batch, dtype = len(x), x.dtype
    old, new = model.text.angles(context.positions), model.text.angles(positions)
    kept: Pool = []
    pasts: Past = []
    owns: Own = []
    for i, (weights, (pool_k, pool_v)) in enumerate(zip(layers, pool)):

        def attend(
            q: jax.Array,
            k: jax.Array,
            v: jax.Array,
            pool_k: jax.Array | Eight = pool_k,
            pool_v: jax.Array | Eight = pool_v,
        ) -> tuple[jax.Array, Any]:
            k, v = k.astype(dtype), v.astype(dtype)
            q, here = rotate(q, new), rotate(k, new)
            # The context is written once, rotated on the way.
            past = (
                rotate(_found(pool_k, context.places, dtype), old),
                _found(pool_v, context.places, dtype),
            )
            out = attend_turn(q, here, v, past, context.length)
            unsaid = jnp.zeros((batch, room, *k.shape[2:]), k.dtype)
            own = (jnp.concatenate([x, unsaid], axis=1) for x in (here, v))
            return out, (
                (_stored(pool_k, k, places), _stored(pool_v, v, places)), past, tuple(own),
            )  # fmt: skip

        with jax.named_scope(f"layer_{i}"):
            x, (stored, past, own) = decoder_layer(model.config.text, weights, x, attend)
        kept.append(stored)
        pasts.append(past)
        owns.append(own)
    return model.text.final(x), kept, pasts, owns


def no_answer(own: Own, room: int) -> Fresh:
    """Zeros for the answers' keys and values."""

    def none(x: jax.Array) -> jax.Array:
        return jnp.zeros((len(x), room, *x.shape[2:]), x.dtype)

    return [(none(k), none(v)) for k, v in own]


def say_token(
    model: Qwen2VL,
    layers: list[Params],
    context: Context,
    past: Past,
    own: Own,
    fresh: Fresh,
    x: jax.Array,
    position: jax.Array,
    number: jax.Array,
    seen: jax.Array,
) -> tuple[jax.Array, Own, Fresh]:
    """Run one token of each answer through every layer.

    Args:
        model: bound.
        layers: from `inference.lay_out`.
        context: of each row.
        past: from `read_turn`.
        own: from `read_turn`; written at place Q + number.
        fresh: the answers' own keys, not rotated; written at `number`.
        x: [B, 1, D] embedded tokens.
        position: int32 [B].
        number: int32 [], which token of the answer this is.
        seen: bool [B, Q + M], what the row may attend to of its turn, itself included.

    Returns:
        ([B, D] hidden states after the final norm, own, fresh).
    """
    angles = model.text.angles(jnp.broadcast_to(position[:, None, None], (len(x), 3, 1)))
    at = own[0][0].shape[1] - fresh[0][0].shape[1] + number
    put = jax.lax.dynamic_update_slice_in_dim
    written: Own = []
    said: Fresh = []
    for i, (weights, old, turn, answer) in enumerate(zip(layers, past, own, fresh)):

        def attend(
            q: jax.Array,
            k: jax.Array,
            v: jax.Array,
            old: tuple = old,
            turn: tuple = turn,
            answer: tuple = answer,
        ) -> tuple[jax.Array, Any]:
            k, v = k.astype(turn[0].dtype), v.astype(turn[1].dtype)
            turn = put(turn[0], rotate(k, angles), at, axis=1), put(turn[1], v, at, axis=1)
            answer = put(answer[0], k, number, axis=1), put(answer[1], v, number, axis=1)
            q = rotate(q, angles)
            parts = [attend_masked(q, *turn, seen[:, None])]
            if old[0].shape[1]:
                parts.append(attend_past(q, *old, context.length))
            return together(parts), (turn, answer)

        with jax.named_scope(f"layer_{i}"):
            x, (turn, answer) = decoder_layer(model.config.text, weights, x, attend)
        written.append(turn)
        said.append(answer)
    return model.text.final(x)[:, 0], written, said


def keep_answers(pool: Pool, fresh: Fresh, places: jax.Array) -> Pool:
    """Store the answers' keys and values at `places`, int32 [B, M], as in `read_turn`."""
    return [
        (_stored(pool_k, k, places), _stored(pool_v, v, places))
        for (pool_k, pool_v), (k, v) in zip(pool, fresh)
    ]
