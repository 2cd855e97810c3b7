"""The key/value cache, and running the decoder's layers over it.

A cache is a plain pytree, passed in and donated.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from livecc_jax.model.attention_one import keep_and_attend
from livecc_jax.model.cache_attention import attend_causal, attend_past, attend_turn, served_alone
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.inference import decoder_layer
from livecc_jax.model.qwen2_vl import Params, Qwen2VL
from livecc_jax.model.rope import rotate
from livecc_jax.parallel.rules import constrain, partition_spec

# One entry a layer: keys (rotated) and values, each [B, C, K, D].
Cache = list[tuple[jax.Array, jax.Array]]
CACHE_AXES = ("batch", None, "kv_heads", None)


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
) -> tuple[jax.Array, Cache]:
    """Run new tokens through every layer, writing their keys and values to the cache.

    Slots past the last real token may be written too (padding of a bucket); they lie beyond the row's
    length, so nothing sees them before they are overwritten.

    Args:
        model: bound; only its norm and rotary settings are used.
        layers: from `inference.lay_out`.
        cache: with room for start + Q tokens (a write past the end would be moved back onto old ones).
        x: [B, Q, D] embedded tokens.
        positions: int32 [B, 3, Q].
        start: int32 [B], the slot of each row's first new token.

    Returns:
        ([B, Q, D] hidden states after the final norm, the cache).
    """
    angles = model.text.angles(positions)

    def write(old: jax.Array, new: jax.Array) -> jax.Array:
        place = functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=0)
        kept = jax.vmap(place)(old, new.astype(old.dtype), start)
        return constrain(kept, *CACHE_AXES)

    written: Cache = []
    for i, (weights, (old_k, old_v)) in enumerate(zip(layers, cache)):

        def attend(
            q: jax.Array, k: jax.Array, v: jax.Array, old_k: jax.Array = old_k, old_v: jax.Array = old_v
        ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            if served_alone(q, old_k):
                return keep_and_attend(q, k, v, angles, (old_k, old_v), start)
            q, k = rotate(q, angles), rotate(k, angles).astype(old_k.dtype)
            v = v.astype(old_v.dtype)
            kept = write(old_k, k), write(old_v, v)
            if q.shape[1] == 1:
                return attend_past(q, *kept, start + 1).out, kept
            return attend_turn(q, k, v, kept, start), kept

        with jax.named_scope(f"layer_{i}"):
            x, kept = decoder_layer(model.config.text, weights, x, attend)
        written.append(kept)
    return model.text.final(x), written


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

    def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        q, k = rotate(q, angles), rotate(k, angles)
        kept = tuple(constrain(jnp.pad(x, spare), *CACHE_AXES) for x in (k, v))
        return attend_causal(q, k, v).out, kept

    written: Cache = []
    for i, weights in enumerate(layers):
        with jax.named_scope(f"layer_{i}"):
            x, kept = decoder_layer(model.config.text, weights, x, attend)
        written.append(kept)
    return model.text.final(x), written
