"""The key/value cache, and running the decoder's layers over it.

A cache is a plain pytree, passed in and donated.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from livecc_jax.decoding.attention import (
    attend_causal,
    attend_past,
    keep_and_attend,
    takes,
    together,
)
from livecc_jax.decoding.decoder import decoder_layer, of_token, taken_apart
from livecc_jax.decoding.linear import whole
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.qwen2_vl import Params, Qwen2VL
from livecc_jax.model.rope import rotate
from livecc_jax.parallel.rules import constrain, partition_spec

# One entry a layer: keys (rotated) and values, each [B, C, K, D].
Cache = list[tuple[jax.Array, jax.Array]]
CACHE_AXES = ("batch", None, "kv_heads", None)
# One entry a layer: keys (not rotated) and values of new tokens, [B, Q, K, 2, D].
New = list[jax.Array]


def empty_cache(
    config: ModelConfig, batch: int, capacity: int, dtype: Any, mesh: Mesh | None = None
) -> Cache:
    """Zeros for `capacity` tokens in each of `batch` rows, split over a mesh if one is given."""
    shape = (batch, capacity, config.text.kv_heads, config.text.head_dim)
    place = NamedSharding(mesh, partition_spec(CACHE_AXES)) if mesh else None
    zeros = functools.partial(jnp.zeros, shape, dtype, device=place)
    return [(zeros(), zeros()) for _ in range(config.text.layers)]


def grow_cache(cache: Cache, capacity: int) -> Cache:
    """The same contents with room for `capacity` tokens."""
    return jax.tree.map(
        lambda x: jnp.pad(x, ((0, 0), (0, capacity - x.shape[1]), (0, 0), (0, 0))), cache
    )


def append(
    model: Qwen2VL,
    layers: list[Params],
    cache: Cache,
    x: jax.Array,
    positions: jax.Array,
    start: jax.Array,
    last: jax.Array | None = None,
) -> tuple[jax.Array, Cache]:
    """`append_new`, without what it tells of the new tokens."""
    return append_new(model, layers, cache, x, positions, start, last)[:2]


def append_new(
    model: Qwen2VL,
    layers: list[Params],
    cache: Iterable[tuple[jax.Array, jax.Array]],
    x: jax.Array,
    positions: jax.Array,
    start: jax.Array,
    last: jax.Array | None = None,
) -> tuple[jax.Array, Cache, New]:
    """Run new tokens through every layer, writing their keys and values to the cache.

    Slots past the last real token may be written too (padding of a bucket); they lie beyond the row's
    length, so nothing sees them before they are overwritten.

    Args:
        model: bound; only its norm and rotary settings are used.
        layers: from `inference.lay_out`.
        cache: with room for start + Q tokens.
        x: [B, Q, D] embedded tokens.
        positions: int32 [B, 3, Q].
        start: int32 [B], the slot of each row's first new token.
        last: int32 [B], the new token of each row whose hidden state is wanted; None for all of them.
            Nothing depends on what the last layer makes of the others but its keys and values.

    Returns:
        ([B, Q, D] hidden states after the final norm, or [B, 1, D] of `last`; the cache; keys and
        values of the new tokens).
    """
    angles = model.text.angles(positions)
    written: Cache = []
    told: New = []
    several = x.shape[1] > 1
    for i, (weights, old) in enumerate(zip(layers, cache)):
        only = last if several and i + 1 == len(layers) else None

        def attend(
            qkv: jax.Array, old: tuple[jax.Array, jax.Array] = old, only: jax.Array | None = only
        ) -> tuple[jax.Array, tuple[tuple[jax.Array, jax.Array], jax.Array]]:
            new = qkv[..., -2:, :]
            if qkv.shape[1] > 1:
                # Cut out now: else whoever keeps it keeps the whole projection.
                new = jax.lax.optimization_barrier(new)
            if only is None:
                out, kept = _kept_and_attended(qkv, angles, old, start)
            else:
                # All are kept; one attends, and is kept once more where it is.
                _, *own = _turned(qkv, angles)
                token, at = of_token(qkv, only), of_token(angles, only)
                out, kept = _kept_and_attended(token, at, _kept(old, own, start), start + only)
            return out, (kept, new)

        with jax.named_scope(f"layer_{i}"):
            x, (kept, new) = decoder_layer(model.config.text, weights, x, attend, only)
        written.append(kept)
        told.append(new)
    return model.text.final(whole(x)), written, told


def _turned(qkv: jax.Array, angles: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries and keys of [B, Q, K, G + 2, D] rotated, and values."""
    q, k, v = taken_apart(qkv)
    return rotate(q, angles), rotate(k, angles), v


def _kept(
    old: tuple[jax.Array, jax.Array], own: Sequence[jax.Array], start: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """A cache's layer with new tokens' own keys and values, [B, Q, K, D]."""

    def write(old: jax.Array, new: jax.Array) -> jax.Array:
        new = new.astype(old.dtype)
        if len(old) == 1:  # of several rows it is a scatter
            kept = jax.lax.dynamic_update_slice_in_dim(old, new, start[0], axis=1)
        else:
            place = functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=0)
            kept = jax.vmap(place)(old, new, start)
        return constrain(kept, *CACHE_AXES)

    return write(old[0], own[0]), write(old[1], own[1])


def _kept_and_attended(
    qkv: jax.Array, angles: jax.Array, old: tuple[jax.Array, jax.Array], start: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """([B, Q, K * G, D] what new tokens attend to, the cache's layer with them)."""
    if takes(qkv, old[0]):
        return keep_and_attend(qkv, angles, old, start)
    q, *own = _turned(qkv, angles)
    kept = _kept(old, own, start)
    if q.shape[1] == 1:
        return attend_past(q, *kept, start + 1).out, kept
    own = (new.astype(there.dtype) for new, there in zip(own, old))
    return together([attend_past(q, *kept, start), attend_causal(q, *own)]), kept


def start(
    model: Qwen2VL, layers: list[Params], x: jax.Array, positions: jax.Array, capacity: int
) -> tuple[jax.Array, Cache]:
    """`append` to a cache of nothing, which is made on the way.

    Args:
        model: bound; only its norm and rotary settings are used.
        layers: from `inference.lay_out`.
        x: [B, Q, D] embedded tokens.
        positions: int32 [B, 3, Q].
        capacity: tokens that the cache has room for, Q at least.

    Returns:
        ([B, Q, D] hidden states after the final norm, the cache).
    """
    angles = model.text.angles(positions)
    spare = ((0, 0), (0, capacity - x.shape[1]), (0, 0), (0, 0))

    def attend(qkv: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        q, k, v = _turned(qkv, angles)
        kept = tuple(constrain(jnp.pad(x, spare), *CACHE_AXES) for x in (k, v))
        return attend_causal(q, k, v).out, kept

    written: Cache = []
    for i, weights in enumerate(layers):
        with jax.named_scope(f"layer_{i}"):
            x, kept = decoder_layer(model.config.text, weights, x, attend)
        written.append(kept)
    return model.text.final(whole(x)), written
