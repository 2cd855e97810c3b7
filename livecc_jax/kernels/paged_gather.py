"""Gathers the keys and values of a context out of a paged KV cache, and rotates the keys, by Triton.

Plain XLA gathers and rotates value by value. Here the heads of a token are read and written as they lie
in memory, and slots that only pad a context are not read. One kernel serves a layer.

`is_supported` says where the kernel serves; `paged_gather_reference` computes the same in plain XLA,
and `decoding.paged_cache.gather_reference` computes it over a mesh.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from livecc_jax.kernels.devices import single_gpu
from livecc_jax.kernels.disabled import enabled
from livecc_jax.kernels.gpu import has_triton, triton, triton_call
from livecc_jax.kernels.quantized import QuantizedArray, dequantize
from livecc_jax.kernels.rope import rotate_halves

BLOCK_TOKENS = 16  # tokens that a block gathers
WARPS = 8  # warps of a block

KeysOrValues = (
    jax.Array | QuantizedArray
)  # [N, K, D]: all slots of the cache, key heads, head dimension


def is_supported(cache: KeysOrValues) -> bool:
    """Whether the kernel serves on the device in scope, for keys (or values) [N, K, D] of a layer."""
    values = cache.values if isinstance(cache, QuantizedArray) else cache
    fits_int32 = values.size < 1 << 31  # offsets are int32
    return enabled("paged_gather") and single_gpu() and fits_int32 and has_triton()


def paged_gather_reference(
    cache: tuple[KeysOrValues, KeysOrValues],
    slots: jax.Array,
    angles: jax.Array,
    length: jax.Array,
    dtype: Any,
) -> tuple[jax.Array, jax.Array]:
    """What `paged_gather` computes, step by step."""

    def gather(cache: KeysOrValues) -> jax.Array:
        tokens = jax.tree.map(lambda x: x[slots], cache)
        return dequantize(tokens, dtype) if isinstance(cache, QuantizedArray) else tokens.astype(dtype)

    keys, values = map(gather, cache)
    cos, sin = jnp.cos(angles)[..., None, :], jnp.sin(angles)[..., None, :]
    keys = jnp.concatenate(rotate_halves(*jnp.split(keys, 2, axis=-1), cos, sin), axis=-1)
    in_context = (jnp.arange(slots.shape[1]) < length[:, None])[..., None, None]
    return jnp.where(in_context, keys, 0), jnp.where(in_context, values, 0)


def paged_gather(
    cache: tuple[KeysOrValues, KeysOrValues],
    slots: jax.Array,
    angles: jax.Array,
    length: jax.Array,
    dtype: Any,
) -> tuple[jax.Array, jax.Array]:
    """Gathers keys and values of a batch of contexts.

    Args:
        cache: Keys (not rotated) and values of a layer, [N, K, D] each.
        slots: int32 [B, C], the slot of each token of a context, C a multiple of 16.
        angles: float32 [B, C, D / 2], rotary angles of the tokens.
        length: int32 [B], number of tokens of each context; slots beyond it are padding.
        dtype: Data type of the results.

    Returns:
        Keys (rotated) and values, [B, C, K, D] each, zeros beyond a context's length.
    """
    from jax.experimental import pallas as pl

    quantized = isinstance(cache[0], QuantizedArray)
    _, kv_heads, size = (cache[0].values if quantized else cache[0]).shape
    batch, capacity = slots.shape
    half, width = size // 2, kv_heads * size
    arrays = [x.reshape(-1) for x in jax.tree.leaves(cache)]

    def kernel(slots_ref, cos_ref, sin_ref, length_ref, *refs) -> None:  # noqa: ANN001, ANN002
        # Arrays of [token, head, column of a half], heads and columns padded to powers of two.
        token = jnp.arange(BLOCK_TOKENS)[:, None, None]
        head = jnp.arange(pl.next_power_of_2(kv_heads))[None, :, None]
        column = jnp.arange(pl.next_power_of_2(half))[None, None]
        in_context = token + pl.program_id(1) * BLOCK_TOKENS < length_ref[...]
        mask = (head < kv_heads) & (column < half)
        slot = triton().load(slots_ref.at[token])
        cos, sin = (
            triton().load(ref.at[token, column], mask=column < half, other=0)
            for ref in (cos_ref, sin_ref)
        )
        cache_refs, out_refs = refs[: len(arrays)], refs[len(arrays) :]
        arrays_each = len(arrays) // 2
        for i, out_ref in enumerate(out_refs):
            values_ref, *scale_ref = cache_refs[i * arrays_each : (i + 1) * arrays_each]
            begin = slot * width + head * size + column
            halves = [
                triton().load(values_ref.at[begin + offset], mask=mask & in_context, other=0)
                for offset in (0, half)
            ]
            for ref in scale_ref:
                scale = triton().load(
                    ref.at[slot * kv_heads + head], mask=(head < kv_heads) & in_context, other=0
                )
                halves = [(x.astype(jnp.float32) * scale).astype(dtype) for x in halves]
            if i == 0:
                halves = rotate_halves(*halves, cos, sin)
            begin = token * width + head * size + column
            for x, offset in zip(halves, (0, half)):
                triton().store(out_ref.at[begin + offset], x.astype(dtype), mask=mask)

    angles_spec = pl.BlockSpec((None, BLOCK_TOKENS, half), lambda b, t: (b, t, 0))
    out_spec = pl.BlockSpec((None, BLOCK_TOKENS * width), lambda b, t: (b, t))
    out = triton_call(
        kernel,
        warps=WARPS,
        grid=(batch, capacity // BLOCK_TOKENS),
        in_specs=[
            pl.BlockSpec((None, BLOCK_TOKENS), lambda b, t: (b, t)),
            angles_spec,
            angles_spec,
            pl.BlockSpec((None,), lambda b, t: (b,)),
            *[pl.BlockSpec(x.shape, lambda b, t: (0,)) for x in arrays],
        ],
        out_specs=[out_spec] * 2,
        out_shape=[jax.ShapeDtypeStruct((batch, capacity * width), dtype)] * 2,
        name="paged_gather",
    )(slots, jnp.cos(angles), jnp.sin(angles), length, *arrays)
    return tuple(x.reshape(batch, capacity, kv_heads, size) for x in out)
