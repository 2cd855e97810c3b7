"""A pool of tokens' keys and values that any number of conversations share.

A conversation's context is a list of places in the pool, kept on the host; nothing in the pool moves
when it forgets, forks or ends. Keys are stored as they come out of their projection, before rotation:
a context that forgets a turn closes the gap, which gives what it keeps new positions. Each turn gathers
its context once, rotated to where it is now, into a cache of the turn's own, to which its prompt and
answer are appended as to any other (`decoding.kv_cache`).

Over a mesh the pool is split as a batch is, and by key heads: a row's places are numbered within the
part of the devices that have the row.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from livecc_jax.decoding.kv_cache import Cache, New, append_new
from livecc_jax.kernels.kv_quantize import Eight, narrow, widen
from livecc_jax.kernels.paged_gather import gather_context, usable
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.qwen2_vl import Params, Qwen2VL
from livecc_jax.model.rope import rotate
from livecc_jax.parallel.rules import on_own_part, partition_spec

# One entry a layer: keys (not rotated) and values, each [N, K, D].
Pool = list[tuple[jax.Array | Eight, jax.Array | Eight]]
POOL_AXES = ("batch", "kv_heads", None)


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
    room: int,
    last: jax.Array | None = None,
) -> tuple[jax.Array, Cache, New]:
    """Run prompts through every layer, each over its context.

    Args:
        model: bound; only its norm and rotary settings are used.
        layers: from `inference.lay_out`.
        pool: only read.
        context: of each row.
        x: [B, Q, D] embedded prompts, padded at their ends.
        positions: int32 [B, 3, Q].
        room: M, tokens that the answer may have.
        last: int32 [B], the token of each row whose hidden state is wanted; None for all of them.

    Returns:
        ([B, Q, D] hidden states after the final norm, or [B, 1, D] of `last`; a cache of context and
        prompt with room for the answer; the prompt's own for `keep`).
    """
    spare = working_room(context.places.shape[1] + x.shape[1] + room) - context.places.shape[1]
    where, at = (jnp.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, spare)]) for a in context[:3:2])
    angles = model.text.angles(at)

    def gathered() -> Iterator[tuple[jax.Array, jax.Array]]:
        for layer in pool:
            gather = gather_context if usable(layer[0]) else gather_plainly
            yield gather(layer, where, angles, context.length, x.dtype)

    return append_new(model, layers, gathered(), x, positions, context.length, last)


def gather_plainly(
    layer: tuple[jax.Array | Eight, jax.Array | Eight],
    places: jax.Array,
    angles: jax.Array,
    length: jax.Array,
    dtype: Any,
) -> tuple[jax.Array, jax.Array]:
    """What `gather_context` computes, on any devices; keys behind a row's length have no meaning."""
    keys, values = (_found(kept, places, dtype) for kept in layer)
    remembered = (jnp.arange(places.shape[1]) < length[:, None])[..., None, None]
    # What pads a context is somebody else's, of whose values nothing may come through: no weight times
    # what is not a number is not nothing. Keys are masked by whoever attends; masked here too, a TPU
    # moves a tenth more for a prompt.
    return rotate(keys, angles), jnp.where(remembered, values, 0)


def working_room(tokens: int) -> int:
    """Of a turn's own cache for so many tokens: multiples of what kernels take at a time."""
    step = 512 if tokens > 4096 else 128
    return -(-tokens // step) * step


def keep(pool: Pool, new: New, places: jax.Array) -> Pool:
    """The pool, to be donated, with new tokens.

    Args:
        pool: of N tokens.
        new: keys (not rotated) and values of [B, Q] tokens.
        places: int32 [B, Q], where the pool keeps them, each another; N and beyond for padding.
    """
    return [
        (_stored(keys, kv[..., 0, :], places), _stored(values, kv[..., 1, :], places))
        for (keys, values), kv in zip(pool, new)
    ]
