"""A turn's context out of the pool, keys rotated to where they are now, in one kernel a layer (GPU).

Plain XLA looks up and rotates value by value; here a token's heads are read and written as they lie in
memory, and what only pads a context is not read.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from livecc_jax.kernels.devices import single_gpu
from livecc_jax.kernels.flash_decode import rotate_halves
from livecc_jax.kernels.gpu import triton_of_pallas
from livecc_jax.kernels.kv_quantize import Eight

TOKENS = 16  # at a time
WARPS = 8


def usable(pool: jax.Array | Eight) -> bool:
    """Whether the kernel serves a pool of [N, K, D] here, with this jax."""
    kept = pool.values if isinstance(pool, Eight) else pool
    return (
        single_gpu()
        and kept.size < 1 << 31  # places within it are int32
        and triton_of_pallas() is not None
    )


def gather_context(
    pool: tuple[jax.Array | Eight, jax.Array | Eight],
    places: jax.Array,
    angles: jax.Array,
    length: jax.Array,
    dtype: Any,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Keys and values of contexts.

    Args:
        pool: keys (not rotated) and values, [N, K, D] each.
        places: int32 [B, C], C a multiple of 16.
        angles: float32 [B, C, D / 2].
        length: int32 [B], how many of a row's places count.
        dtype: of the outcome.
        interpret: run the kernel's meaning instead, on any device.

    Returns:
        keys (rotated) and values, [B, C, K, D] each, zeros behind a row's length.
    """
    from jax.experimental import pallas as pl

    triton = triton_of_pallas()
    eight = isinstance(pool[0], Eight)
    _, kv, size = (pool[0].values if eight else pool[0]).shape
    batch, capacity = places.shape
    half, width = size // 2, kv * size
    of_pool = [x.reshape(-1) for x in jax.tree.leaves(pool)]

    def kernel(places_ref, cos_ref, sin_ref, length_ref, *refs) -> None:  # noqa: ANN001, ANN002
        number = jnp.arange(TOKENS)[:, None, None]
        head = jnp.arange(pl.next_power_of_2(kv))[None, :, None]
        at = jnp.arange(pl.next_power_of_2(half))[None, None]
        there = number + pl.program_id(1) * TOKENS < length_ref[...]
        real = (head < kv) & (at < half)
        place = triton.load(places_ref.at[number])
        cos, sin = (
            triton.load(ref.at[number, at], mask=at < half, other=0) for ref in (cos_ref, sin_ref)
        )
        kept, outs = refs[: len(of_pool)], refs[len(of_pool) :]
        each = len(of_pool) // 2
        for i, out_ref in enumerate(outs):
            values_ref, *scale_ref = kept[i * each : (i + 1) * each]
            begin = place * width + head * size + at
            pair = [
                triton.load(values_ref.at[begin + after], mask=real & there, other=0)
                for after in (0, half)
            ]
            for ref in scale_ref:
                scale = triton.load(ref.at[place * kv + head], mask=(head < kv) & there, other=0)
                pair = [(x.astype(jnp.float32) * scale).astype(dtype) for x in pair]
            if i == 0:
                pair = rotate_halves(*pair, cos, sin)
            begin = number * width + head * size + at
            for x, after in zip(pair, (0, half)):
                triton.store(out_ref.at[begin + after], x.astype(dtype), mask=real)

    of_angles = pl.BlockSpec((None, TOKENS, half), lambda b, t: (b, t, 0))
    of_out = pl.BlockSpec((None, TOKENS * width), lambda b, t: (b, t))
    out = pl.pallas_call(
        kernel,
        grid=(batch, capacity // TOKENS),
        in_specs=[
            pl.BlockSpec((None, TOKENS), lambda b, t: (b, t)),
            of_angles,
            of_angles,
            pl.BlockSpec((None,), lambda b, t: (b,)),
            *[pl.BlockSpec(x.shape, lambda b, t: (0,)) for x in of_pool],
        ],
        out_specs=[of_out] * 2,
        out_shape=[jax.ShapeDtypeStruct((batch, capacity * width), dtype)] * 2,
        compiler_params=triton.CompilerParams(num_warps=WARPS, num_stages=1),
        interpret=interpret,
        name="gather_context",
    )(places, jnp.cos(angles), jnp.sin(angles), length, *of_pool)
    return tuple(x.reshape(batch, capacity, kv, size) for x in out)
