"""Attention of one new token a row to what its row remembers, in two kernels (GPU).

Keys lie where the cache has them and are read once, each key head's for all query heads that it
serves. The past is cut into chunks that are attended to side by side (Flash-Decoding) and put together
by a second kernel; what lies beyond a row's length is not read. Anything else that a GPU can run takes
several kernels for it, which for one token cost more than reading the keys.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

CHUNKS = (512, 256, 128, 64)  # keys that one block of the device reads
BLOCK = 64  # of them at a time
QUERIES = 16  # rows of the smallest matrix product there is; more query heads a key head are not served
COLUMNS = 32  # of an output that one block puts together, at most
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
    rows, _, heads, size = q.shape
    kv = k.shape[2]
    served = heads // kv
    queries = q.reshape(rows, kv, served, size)
    queries = jnp.pad(queries, ((0, 0), (0, 0), (0, QUERIES - served), (0, 0)))
    out, weight = _attend(queries, k, v, length, served, interpret)
    weight = jnp.where((length > 0)[:, None, None], weight, -jnp.inf)
    return out.reshape(q.shape), weight.reshape(rows, 1, heads)


def keep_and_attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    angles: jax.Array,
    kept: tuple[jax.Array, jax.Array],
    length: jax.Array,
    interpret: bool = False,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Rotate a token's queries and key, keep its key and value, and attend to all that is kept.

    Args:
        q: [B, 1, H, D], not rotated.
        k: [B, 1, K, D], not rotated.
        v: [B, 1, K, D].
        angles: float32 [B, 1, D / 2].
        kept: keys (rotated) and values, [B, C, K, D] each; written where they are if they are donated.
        length: int32 [B] of what is kept without the token.
        interpret: run the kernels' meaning instead, on any device.

    Returns:
        ([B, 1, H, D], what is kept with the token).
    """
    served = q.shape[2] // k.shape[2]
    queries, *kept = _keep(q, k, v, angles, *kept, length, interpret)
    out, _ = _attend(queries, *kept, length + 1, served, interpret)
    return out.reshape(q.shape), tuple(kept)


def _keep(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    angles: jax.Array,
    kept_k: jax.Array,
    kept_v: jax.Array,
    place: jax.Array,
    interpret: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(rotated queries [B, K, 16, D], of which H / K count; keys and values with the token's)."""
    from jax.experimental import pallas as pl

    rows, _, heads, size = q.shape
    capacity, kv = kept_k.shape[1:3]
    served, half = heads // kv, size // 2

    def kernel(q_ref, k_ref, v_ref, angles_ref, place_ref, _k, _v, out_ref, keys_ref, values_ref):  # noqa: ANN001, ANN202
        cos, sin = jnp.cos(angles_ref[...]), jnp.sin(angles_ref[...])
        place = place_ref[...]

        def rotated(ref, *at) -> tuple[jax.Array, jax.Array]:  # noqa: ANN001, ANN002
            first = ref[(*at, pl.ds(0, half))].astype(jnp.float32)
            second = ref[(*at, pl.ds(half, half))].astype(jnp.float32)
            return first * cos - second * sin, second * cos + first * sin

        def put(ref, at, halves: tuple[jax.Array, jax.Array]) -> None:  # noqa: ANN001
            for i, x in enumerate(halves):
                ref[at, pl.ds(i * half, half)] = x.astype(ref.dtype)

        for i in range(served):
            put(out_ref, i, rotated(q_ref, i))
        put(keys_ref, place, rotated(k_ref))
        values_ref[place, :] = v_ref[...].astype(values_ref.dtype)

    def of_kept() -> pl.BlockSpec:
        return pl.BlockSpec((None, capacity, None, size), lambda b, h: (b, 0, h, 0))

    def of_token() -> pl.BlockSpec:
        return pl.BlockSpec((None, None, size), lambda b, h: (b, h, 0))

    return pl.pallas_call(
        kernel,
        grid=(rows, kv),
        in_specs=[
            pl.BlockSpec((None, None, served, size), lambda b, h: (b, h, 0, 0)),
            of_token(),
            of_token(),
            pl.BlockSpec((None, half), lambda b, h: (b, 0)),
            pl.BlockSpec((None,), lambda b, h: (b,)),
            of_kept(),
            of_kept(),
        ],
        out_specs=[
            pl.BlockSpec((None, None, QUERIES, size), lambda b, h: (b, h, 0, 0)),
            of_kept(),
            of_kept(),
        ],
        out_shape=[
            jax.ShapeDtypeStruct((rows, kv, QUERIES, size), q.dtype),
            jax.ShapeDtypeStruct(kept_k.shape, kept_k.dtype),
            jax.ShapeDtypeStruct(kept_v.shape, kept_v.dtype),
        ],
        input_output_aliases={5: 1, 6: 2},
        compiler_params=triton_of_pallas().CompilerParams(num_warps=1, num_stages=1),
        interpret=interpret,
        name="keep_one",
    )(
        q.reshape(rows, kv, served, size), k[:, 0], v[:, 0], angles[:, 0], place, kept_k, kept_v
    )  # fmt: skip


def _attend(
    queries: jax.Array,
    k: jax.Array,
    v: jax.Array,
    length: jax.Array,
    served: int,
    interpret: bool,
) -> tuple[jax.Array, jax.Array]:
    """`attend_one` of queries [B, K, 16, D]: ([B, K, H / K, D], [B, K, H / K]).

    The weight of no keys is any number.
    """
    from jax.experimental import pallas as pl

    triton = triton_of_pallas()
    rows, kv, _, size = queries.shape
    capacity = k.shape[1]
    chunk = _chunk(capacity)

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

    # A power of two, as the second kernel takes all parts at once; beyond the capacity none has keys.
    parts = 1 << (capacity // chunk - 1).bit_length()
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
        name="attend_one",
    )(queries, k, v, length)
    return _together(out, sizes, served, queries.dtype, interpret)


def _together(
    out: jax.Array, sizes: jax.Array, served: int, dtype: jnp.dtype, interpret: bool
) -> tuple[jax.Array, jax.Array]:
    """Parts [B, P, K, 16, D] of weights [B, P, K, 16] as one: [B, K, H / K, D] and [B, K, H / K]."""
    from jax.experimental import pallas as pl

    rows, parts, kv, _, size = out.shape
    columns = min(COLUMNS, size)
    across = size // columns

    def kernel(out_ref, sizes_ref, mixed_ref, weight_ref) -> None:  # noqa: ANN001
        each = sizes_ref[...]
        most = each.max()
        share = jnp.exp(each - most)
        total = share.sum()
        mixed = (out_ref[...] * share[:, None]).sum(axis=0) / total
        mixed_ref[...] = mixed.astype(mixed_ref.dtype)
        weight_ref[...] = most + jnp.log(total)

    return pl.pallas_call(
        kernel,
        grid=(rows, kv, served * across),
        in_specs=[
            pl.BlockSpec(
                (None, parts, None, None, columns),
                lambda b, h, i: (b, 0, h, i // across, i % across),
            ),
            pl.BlockSpec((None, parts, None, None), lambda b, h, i: (b, 0, h, i // across)),
        ],
        out_specs=[
            pl.BlockSpec((None, None, None, columns), lambda b, h, i: (b, h, i // across, i % across)),
            pl.BlockSpec((None, None, None), lambda b, h, i: (b, h, i // across)),
        ],
        out_shape=[
            jax.ShapeDtypeStruct((rows, kv, served, size), dtype),
            jax.ShapeDtypeStruct((rows, kv, served), jnp.float32),
        ],
        compiler_params=triton_of_pallas().CompilerParams(num_warps=2, num_stages=1),
        interpret=interpret,
        name="attend_one_together",
    )(out, sizes)
