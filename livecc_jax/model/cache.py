"""The key/value cache, and running the decoder's layers over it.

A cache is a plain pytree, passed in and donated. Layers are taken apart once, when weights are loaded:
indexing stacked weights inside a loop copies each slice before its matrix product, three times the
memory traffic of reading it in place.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from livecc_jax.model.cache_attention import attend_cache, attend_past, fused
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.decoder import DecoderLayer
from livecc_jax.model.qwen2_vl import Params, Qwen2VL
from livecc_jax.model.rope import rotate

# One entry a layer: keys (rotated) and values, each [B, C, K, D].
Cache = list[tuple[jax.Array, jax.Array]]


def empty_cache(config: ModelConfig, batch: int, capacity: int, dtype: Any) -> Cache:
    """Zeros for `capacity` tokens in each of `batch` rows."""
    shape = (batch, capacity, config.text.kv_heads, config.text.head_dim)
    return [(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in range(config.text.layers)]


def grow_cache(cache: Cache, capacity: int) -> Cache:
    """The same contents with room for `capacity` tokens."""
    return jax.tree.map(
        lambda x: jnp.pad(x, ((0, 0), (0, capacity - x.shape[1]), (0, 0), (0, 0))), cache
    )


def take_layers_apart(params: Params) -> tuple[Params, list[Params]]:
    """(everything but the decoder's layers, one tree of weights a layer)."""
    stacked = params["text"]["layers"]
    depth = jax.tree.leaves(stacked)[0].shape[0]
    rest = params | {"text": {k: v for k, v in params["text"].items() if k != "layers"}}
    return rest, [jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(depth)]


@functools.cache
def _abstract_layer(config: ModelConfig) -> tuple[nnx.GraphDef, nnx.State]:
    return nnx.split(nnx.eval_shape(lambda: DecoderLayer(config.text, nnx.Rngs(0))))


def bind_layer(config: ModelConfig, weights: Params) -> DecoderLayer:
    """One decoder layer with these weights."""
    graph, state = _abstract_layer(config)
    state = jax.tree.map(lambda x: x, state)
    nnx.replace_by_pure_dict(state, weights)
    return nnx.merge(graph, state)


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
        layers: from `take_layers_apart`.
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
        return jax.vmap(place)(old, new.astype(old.dtype), start)

    written: Cache = []
    for i, (weights, (old_k, old_v)) in enumerate(zip(layers, cache)):

        def attend(
            q: jax.Array, k: jax.Array, v: jax.Array, old_k: jax.Array = old_k, old_v: jax.Array = old_v
        ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            k = rotate(k, angles)
            kept = write(old_k, k), write(old_v, v)
            if fused(q, k):
                return attend_past(q, *kept, start, k, v), kept
            return attend_cache(q, *kept, start), kept

        with jax.named_scope(f"layer_{i}"):
            x, kept = bind_layer(model.config, weights)(x, angles, attend)
        written.append(kept)
    return model.text.final(x), written
