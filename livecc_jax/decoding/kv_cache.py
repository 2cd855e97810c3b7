"""The contiguous KV cache, and running the decoder's layers over it.

A cache is a plain pytree that compiled calls take as a donated argument and return.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from livecc_jax.decoding.attention import (
    attend_cache,
    attend_causal,
    merge_attention,
    write_and_attend,
    write_and_attend_is_supported,
)
from livecc_jax.decoding.decoder import (
    DeepStack,
    decoder_layer,
    join_deepstack,
    select_token,
    split_qkv,
)
from livecc_jax.decoding.linear import resolve_residual
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.qwen2_vl import Params, Qwen2VL
from livecc_jax.model.rope import rotate
from livecc_jax.parallel.rules import constrain, partition_spec

LayerCache = tuple[jax.Array, jax.Array]  # keys (rotated) and values, each [B, C, K, D]
KVCache = list[LayerCache]  # one entry a layer
CACHE_AXES = ("batch", None, "kv_heads", None)  # logical axes of keys and of values
NewKV = list[jax.Array]  # one entry a layer: keys (not rotated) and values, [B, Q, K, 2, D]


def empty_cache(
    config: ModelConfig, batch: int, capacity: int, dtype: Any, mesh: Mesh | None = None
) -> KVCache:
    """Allocates zeros.

    Args:
        config: The architecture.
        batch: Number of sequences, B.
        capacity: Number of tokens that each sequence has room for, C.
        dtype: Dtype of keys and values.
        mesh: Mesh to split the cache over.
    """
    shape = (batch, capacity, config.text.kv_heads, config.text.head_dim)
    sharding = NamedSharding(mesh, partition_spec(CACHE_AXES)) if mesh else None
    zeros = functools.partial(jnp.zeros, shape, dtype, device=sharding)
    return [(zeros(), zeros()) for _ in range(config.text.layers)]


def grow_cache(cache: KVCache, capacity: int) -> KVCache:
    """Copies a cache into one with room for `capacity` tokens in each sequence."""
    return jax.tree.map(
        lambda x: jnp.pad(x, ((0, 0), (0, capacity - x.shape[1]), (0, 0), (0, 0))), cache
    )


def append(
    model: Qwen2VL,
    layers: list[Params],
    cache: KVCache,
    x: jax.Array,
    positions: jax.Array,
    start: jax.Array,
    last: jax.Array | None = None,
    deepstack: DeepStack | None = None,
) -> tuple[jax.Array, KVCache]:
    """As `append_returning_kv`, without the keys and values of the new tokens."""
    return append_returning_kv(model, layers, cache, x, positions, start, last, deepstack)[:2]


def append_returning_kv(
    model: Qwen2VL,
    layers: list[Params],
    cache: Iterable[LayerCache],
    x: jax.Array,
    positions: jax.Array,
    start: jax.Array,
    last: jax.Array | None = None,
    deepstack: DeepStack | None = None,
) -> tuple[jax.Array, KVCache, NewKV]:
    """Runs new tokens through every layer, and writes their keys and values to the cache.

    Slots past the last real token may be written too, by the padding of a bucket. They lie beyond the
    sequence's length, so nothing attends to them before they are overwritten.

    Args:
        model: The bound model. Only its final norm and rotary settings are used.
        layers: `DecodingWeights.layers`.
        cache: The KV cache, with room for start + Q tokens.
        x: [B, Q, D] embedded tokens.
        positions: int32 [B, 3, Q].
        start: int32 [B], the slot of each sequence's first new token.
        last: int32 [B], the new token of each sequence whose hidden state is wanted; None for all of
            them. The last layer then computes only the keys and values of the other tokens.
        deepstack: Features that join the first layers at the vision tokens among the new ones.

    Returns:
        Hidden states after the final norm, [B, Q, D], or [B, 1, D] with `last`; the cache; and the keys
        and values of the new tokens.
    """
    angles = model.text.angles(positions)
    new_cache: KVCache = []
    new_kv: NewKV = []
    is_prompt = x.shape[1] > 1
    for i, (weights, layer_cache) in enumerate(zip(layers, cache)):
        only = last if is_prompt and i + 1 == len(layers) else None

        def attend(
            qkv: jax.Array, layer_cache: LayerCache = layer_cache, only: jax.Array | None = only
        ) -> tuple[jax.Array, tuple[LayerCache, jax.Array]]:
            kv_BQK2D = qkv[..., -2:, :]
            if qkv.shape[1] > 1:
                # Sliced behind a barrier: else what holds keys and values holds the whole projection.
                kv_BQK2D = jax.lax.optimization_barrier(kv_BQK2D)
            if only is None:
                out, layer_cache = _write_and_attend(qkv, angles, layer_cache, start)
            else:
                # All tokens are written. One of them attends, and is written again to its own slot.
                _, *own_kv = _rotate_qkv(qkv, angles)
                token_qkv, token_angles = select_token(qkv, only), select_token(angles, only)
                out, layer_cache = _write_and_attend(
                    token_qkv, token_angles, _write(layer_cache, own_kv, start), start + only
                )
            return out, (layer_cache, kv_BQK2D)

        with jax.named_scope(f"layer_{i}"):
            x, (layer_cache, layer_kv) = decoder_layer(model.config.text, weights, x, attend, only)
            x = join_deepstack(x, deepstack, i)
        new_cache.append(layer_cache)
        new_kv.append(layer_kv)
    return model.text.final(resolve_residual(x)), new_cache, new_kv


def _rotate_qkv(qkv: jax.Array, angles: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Splits [B, Q, K, G + 2, D] into rotated queries, rotated keys, and values."""
    q, k, v = split_qkv(qkv)
    return rotate(q, angles), rotate(k, angles), v


def _write(layer_cache: LayerCache, own_kv: Sequence[jax.Array], start: jax.Array) -> LayerCache:
    """Writes the keys and values of new tokens, [B, Q, K, D] each, to slots from `start` int32 [B]."""

    def write(old: jax.Array, new: jax.Array) -> jax.Array:
        new = new.astype(old.dtype)
        if len(old) == 1:  # of several sequences it is a scatter
            updated = jax.lax.dynamic_update_slice_in_dim(old, new, start[0], axis=1)
        else:
            update_one = functools.partial(jax.lax.dynamic_update_slice_in_dim, axis=0)
            updated = jax.vmap(update_one)(old, new, start)
        return constrain(updated, *CACHE_AXES)

    return write(layer_cache[0], own_kv[0]), write(layer_cache[1], own_kv[1])


def _write_and_attend(
    qkv: jax.Array, angles: jax.Array, layer_cache: LayerCache, start: jax.Array
) -> tuple[jax.Array, LayerCache]:
    """Returns the attention output of new tokens, [B, Q, K * G, D], and the cache that holds them."""
    if write_and_attend_is_supported(qkv, layer_cache[0]):
        return write_and_attend(qkv, angles, layer_cache, start)
    q, *own_kv = _rotate_qkv(qkv, angles)
    updated = _write(layer_cache, own_kv, start)
    if q.shape[1] == 1:
        return attend_cache(q, *updated, start + 1).out, updated
    own_kv = (new.astype(old.dtype) for new, old in zip(own_kv, layer_cache))
    return merge_attention([attend_cache(q, *updated, start), attend_causal(q, *own_kv)]), updated


def prefill_empty_cache(
    model: Qwen2VL,
    layers: list[Params],
    x: jax.Array,
    positions: jax.Array,
    capacity: int,
) -> tuple[jax.Array, KVCache]:
    """As `append` to an empty cache, which is allocated on the way.

    Args:
        model: The bound model. Only its final norm and rotary settings are used.
        layers: `DecodingWeights.layers`.
        x: [B, Q, D] embedded tokens.
        positions: int32 [B, 3, Q].
        capacity: Number of tokens that each sequence of the cache has room for, at least Q.

    Returns:
        Hidden states after the final norm, [B, Q, D], and the cache.
    """
    angles = model.text.angles(positions)
    padding = ((0, 0), (0, capacity - x.shape[1]), (0, 0), (0, 0))

    def attend(qkv: jax.Array) -> tuple[jax.Array, LayerCache]:
        q, k, v = _rotate_qkv(qkv, angles)
        keys, values = (constrain(jnp.pad(x, padding), *CACHE_AXES) for x in (k, v))
        return attend_causal(q, k, v).out, (keys, values)

    cache: KVCache = []
    for i, weights in enumerate(layers):
        with jax.named_scope(f"layer_{i}"):
            x, layer_cache = decoder_layer(model.config.text, weights, x, attend)
        cache.append(layer_cache)
    return model.text.final(resolve_residual(x)), cache
