"""Attention of one new token a row to what its row remembers, in one kernel (GPU).

Keys lie where the cache has them and are read once, each key head's for all query heads that it
serves. The past is cut into chunks that are attended to side by side (Flash-Decoding) and put together
afterwards; what lies beyond a row's length is not read. Anything else that a GPU can run takes several
kernels for it, which for one token cost more than reading the keys.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

CHUNKS = (512, 256, 128, 64)  # keys that one block of the device reads
BLOCK = 64  # of them at a time
QUERIES = 16  # rows of the smallest matrix product there is; more query heads a key head are not served
LEAST = -1e30  # a score that weighs nothing, and can be subtracted from itself


def usable(q: jax.Array, k: jax.Array) -> bool:
    """Whether the kernel serves these shapes, q [B, 1, H, D] and k [B, C, K, D], with this jax."""
    heads, size = q.shape[2:]
    return (
        q.shape[1] == 1
        and heads // k.shape[2] <= QUERIES
        and size & (size - 1) == 0
        and size >= BLOCK // 4
        and _chunk(k.shape[1]) > 0
        and triton_of_pallas() is not None
    )


def _chunk(capacity: int) -> int:
    return next((n for n in CHUNKS if capacity % n == 0), 0)


@functools.cache
def triton_of_pallas() -> Any:
    """Pallas for Triton, or None: later versions of jax may leave it out."""
    try:
        from jax.experimental.pallas import triton
    except ImportError:
        return None
    return triton


def attend_one(
    q: jax.Array, k: jax.Array, v: jax.Array, length: jax.Array, interpret: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Softmax attention to the first `length` keys.

    Args:
        q: [B, 1, H, D].
        k: [B, C, K, D], C a multiple of 64.
        v: [B, C, K, D].
        length: int32 [B]; a row of none gives zeros of no weight.
        interpret: run the kernel's meaning instead, on any device.

    Returns:
        ([B, 1, H, D] in q's dtype, float32 [B, 1, H] logarithm of the sum of exponentials).
    """
    from jax.experimental import pallas as pl

    triton = triton_of_pallas()
    rows, _, heads, size = q.shape
    capacity, kv = k.shape[1:3]
    served, chunk = heads // kv, _chunk(capacity)
    queries = q.reshape(rows, kv, served, size)
    queries = jnp.pad(queries, ((0, 0), (0, 0), (0, QUERIES - served), (0, 0)))

    def kernel(q_ref, k_ref, v_ref, length_ref, out_ref, size_ref) -> None:  # noqa: ANN001
        there = length_ref[...] - pl.program_id(2) * chunk

        @pl.when(there > 0)
        def _() -> None:
            mine = q_ref[...]

            def block(i: jax.Array, carry: tuple) -> tuple:
                out, most, total = carry
                keys = pl.ds(i * BLOCK, BLOCK)
                scores = triton.dot(mine, k_ref[keys, :].astype(mine.dtype).T)
                seen = i * BLOCK + jnp.arange(BLOCK) < there
                scores = jnp.where(seen[None], scores * size**-0.5, LEAST)
                higher = jnp.maximum(most, scores.max(axis=1))
                weights = jnp.exp(scores - higher[:, None])
                fade = jnp.exp(most - higher)
                values = triton.dot(weights.astype(mine.dtype), v_ref[keys, :].astype(mine.dtype))
                return out * fade[:, None] + values, higher, total * fade + weights.sum(axis=1)

            nothing = (
                jnp.zeros((QUERIES, size), jnp.float32),
                jnp.full((QUERIES,), LEAST, jnp.float32),
                jnp.zeros((QUERIES,), jnp.float32),
            )
            blocks = (jnp.minimum(there, chunk) + BLOCK - 1) // BLOCK
            out, most, total = jax.lax.fori_loop(0, blocks, block, nothing)
            out_ref[...] = out / total[:, None]
            size_ref[...] = most + jnp.log(total)

        @pl.when(there <= 0)
        def _() -> None:
            out_ref[...] = jnp.zeros((QUERIES, size), jnp.float32)
            size_ref[...] = jnp.full((QUERIES,), LEAST, jnp.float32)

    def of_keys() -> pl.BlockSpec:
        return pl.BlockSpec((None, chunk, None, size), lambda b, h, j: (b, j, h, 0))

    parts = capacity // chunk
    out, sizes = pl.pallas_call(
        kernel,
        grid=(rows, kv, parts),
        in_specs=[
            pl.BlockSpec((None, None, QUERIES, size), lambda b, h, j: (b, h, 0, 0)),
            of_keys(),
            of_keys(),
            pl.BlockSpec((None,), lambda b, h, j: (b,)),
        ],
        out_specs=[
            pl.BlockSpec((None, None, None, QUERIES, size), lambda b, h, j: (b, j, h, 0, 0)),
            pl.BlockSpec((None, None, None, QUERIES), lambda b, h, j: (b, j, h, 0)),
        ],
        out_shape=[
            jax.ShapeDtypeStruct((rows, parts, kv, QUERIES, size), jnp.float32),
            jax.ShapeDtypeStruct((rows, parts, kv, QUERIES), jnp.float32),
        ],
        compiler_params=triton.CompilerParams(num_warps=2, num_stages=3),
        interpret=interpret,
    )(queries, k, v, length)
    out, sizes = out[:, :, :, :served], sizes[:, :, :, :served]
    most = sizes.max(axis=1)
    share = jnp.exp(sizes - most[:, None])
    total = share.sum(axis=1)
    mixed = (out * share[..., None]).sum(axis=1) / total[..., None]
    weight = jnp.where((length > 0)[:, None, None], most + jnp.log(total), -jnp.inf)
    return mixed.reshape(q.shape).astype(q.dtype), weight.reshape(rows, 1, heads)
