"""Attention of one new token a row to what its row remembers and to itself, in two kernels (GPU).

Keys lie where the cache has them and are read once, each key head's for all query heads that it
serves. However long the past is, it is cut into equal parts that are attended to side by side
(Flash-Decoding), so that of a short one too all of the device reads. A second kernel puts them together
with the token's own key and value, and writes those to the cache. Queries and key come as the
projection leaves them and are rotated on the way in. Anything else that a GPU can run takes several
kernels for it, which for one token cost more than reading the keys.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from livecc_jax.kernels.gpu import triton_of_pallas

BLOCK = 64  # keys at a time
BLOCKS = 256  # of the device, that read at once
FEWEST = 4  # parts of a row: some are longer than others
WARPS, STAGES = 2, 2  # of a block: its warps, and what it fetches ahead
QUERIES = 16  # rows of the smallest matrix product there is; more query heads a key head are not served
COLUMNS = 32  # of an output that one block puts together, at most
LEAST = -1e30  # a score that weighs nothing, and can be subtracted from itself


def usable(qkv: jax.Array, k: jax.Array) -> bool:
    """Whether the kernels serve qkv [B, 1, K, G + 2, D] and keys [B, C, K, D], with this jax."""
    served, size = qkv.shape[3] - 2, qkv.shape[4]
    return (
        qkv.shape[1] == 1
        and served <= QUERIES
        and size & (size - 1) == 0
        and size // 2 >= QUERIES  # the least that a matrix product takes of each half
        and k.shape[1] >= BLOCK
        and k.shape[1] % BLOCK == 0
        and triton_of_pallas() is not None
    )


def _parts(capacity: int, heads: int) -> int:
    """Of each row's past, with so many key heads in all: a power of two, as they are put together."""
    parts = max(BLOCKS // heads, FEWEST)
    return 1 << (min(parts, capacity // BLOCK).bit_length() - 1)


def keep_and_attend(
    qkv: jax.Array,
    angles: jax.Array,
    kept: tuple[jax.Array, jax.Array],
    length: jax.Array,
    interpret: bool = False,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Rotate a token's queries and key, keep its key and value, and attend to all that is kept.

    Args:
        qkv: [B, 1, K, G + 2, D], of each key head its queries, key and value; not rotated.
        angles: float32 [B, 1, D / 2].
        kept: keys (rotated) and values, [B, C, K, D] each, C a multiple of 64; written where they are
            if they are donated.
        length: int32 [B] of what is kept without the token.
        interpret: run the kernels' meaning instead, on any device.

    Returns:
        ([B, 1, K * G, D], what is kept with the token).
    """
    rows, _, kv, several, size = qkv.shape
    token = qkv[:, 0]
    turned = jnp.cos(angles[:, 0]), jnp.sin(angles[:, 0])
    parts = _attend(token, turned, *kept, length, interpret)
    out, *kept = _together_and_kept(*parts, token, turned, *kept, length, interpret)
    return out.reshape(rows, 1, kv * (several - 2), size), tuple(kept)


def rotate_halves(
    first: jax.Array, second: jax.Array, cos: jax.Array, sin: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Within a kernel, halves of heads [..., D / 2] as `model.rope.rotate`, rounded as it rounds."""
    first32, second32 = first.astype(jnp.float32), second.astype(jnp.float32)
    turned = first32 * cos - second32 * sin, second32 * cos + first32 * sin
    return tuple(x.astype(first.dtype) for x in turned)


def _attend(
    token: jax.Array,
    turned: tuple[jax.Array, jax.Array],
    k: jax.Array,
    v: jax.Array,
    length: jax.Array,
    interpret: bool,
) -> tuple[jax.Array, jax.Array]:
    """Attention to the first `length` keys, in P parts.

    token is [B, K, G + 2, D], turned cos and sin [B, D / 2]. Returns float32 [B, P, K, G, D], and
    [B, P, K, 16], of which G count, the logarithms of sums of exponentials: very small of no keys, of
    which the first is anything at all.
    """
    from jax.experimental import pallas as pl

    triton = triton_of_pallas()
    rows, kv, several, size = token.shape
    capacity, half = k.shape[1], size // 2
    parts = _parts(capacity, rows * kv)

    def kernel(token_ref, cos_ref, sin_ref, k_ref, v_ref, length_ref, out_ref, size_ref) -> None:  # noqa: ANN001
        length = length_ref[...]
        each = jax.lax.div(length + (parts * BLOCK - 1), jnp.int32(parts * BLOCK)) * BLOCK
        begin = pl.program_id(2) * each
        there = jnp.minimum(length - begin, each)

        @pl.when(there > 0)
        def _() -> None:
            shape = QUERIES, half
            row, column = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
            halves = (
                triton.load(token_ref.at[row, column + at], mask=row < several - 2, other=0)
                for at in (0, half)
            )
            mine = rotate_halves(*halves, cos_ref[...], sin_ref[...])

            def block(i: jax.Array, carry: tuple) -> tuple:
                out, most, total = carry
                keys = pl.ds(begin + i * BLOCK, BLOCK)
                scores = sum(
                    triton.dot(part, k_ref[keys, pl.ds(at, half)].astype(part.dtype).T)
                    for part, at in zip(mine, (0, half))
                )
                seen = i * BLOCK + jnp.arange(BLOCK) < there
                scores = jnp.where(seen[None], scores * size**-0.5, LEAST)
                higher = jnp.maximum(most, scores.max(axis=1))
                weights = jnp.exp(scores - higher[:, None])
                fade = jnp.exp(most - higher)
                value = v_ref[keys, :]
                values = triton.dot(weights.astype(value.dtype), value)
                return out * fade[:, None] + values, higher, total * fade + weights.sum(axis=1)

            nothing = (
                jnp.zeros((QUERIES, size), jnp.float32),
                jnp.full((QUERIES,), LEAST, jnp.float32),
                jnp.zeros((QUERIES,), jnp.float32),
            )
            blocks = jax.lax.div(there + (BLOCK - 1), jnp.int32(BLOCK))
            out, most, total = jax.lax.fori_loop(0, blocks, block, nothing)
            row, column = (
                jax.lax.broadcasted_iota(jnp.int32, (QUERIES, size), axis) for axis in (0, 1)
            )
            triton.store(out_ref.at[row, column], out / total[:, None], mask=row < several - 2)
            size_ref[...] = most + jnp.log(total)

        @pl.when(there <= 0)
        def _() -> None:
            size_ref[...] = jnp.full((QUERIES,), LEAST, jnp.float32)

    def of_keys() -> pl.BlockSpec:
        return pl.BlockSpec((None, capacity, None, size), lambda b, h, j: (b, 0, h, 0))

    def of_row(*shape: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, *shape), lambda b, h, j: (b, *[0] * len(shape)))

    return pl.pallas_call(
        kernel,
        grid=(rows, kv, parts),
        in_specs=[
            pl.BlockSpec((None, None, several, size), lambda b, h, j: (b, h, 0, 0)),
            of_row(half),
            of_row(half),
            of_keys(),
            of_keys(),
            of_row(),
        ],
        out_specs=[
            pl.BlockSpec((None, None, None, several - 2, size), lambda b, h, j: (b, j, h, 0, 0)),
            pl.BlockSpec((None, None, None, QUERIES), lambda b, h, j: (b, j, h, 0)),
        ],
        out_shape=[
            jax.ShapeDtypeStruct((rows, parts, kv, several - 2, size), jnp.float32),
            jax.ShapeDtypeStruct((rows, parts, kv, QUERIES), jnp.float32),
        ],
        compiler_params=triton.CompilerParams(num_warps=WARPS, num_stages=STAGES),
        interpret=interpret,
        name="attend_one",
    )(token, *turned, k, v, length)


def _together_and_kept(
    out: jax.Array,
    sizes: jax.Array,
    token: jax.Array,
    turned: tuple[jax.Array, jax.Array],
    kept_k: jax.Array,
    kept_v: jax.Array,
    place: jax.Array,
    interpret: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Parts from `_attend` and the token itself as one: [B, K, G, D]; keys and values with its own."""
    from jax.experimental import pallas as pl

    triton = triton_of_pallas()
    rows, parts, kv, _, size = out.shape
    capacity, served, half = kept_k.shape[1], token.shape[2] - 2, size // 2
    columns = min(COLUMNS, size)
    across = size // columns

    def kernel(out_ref, sizes_ref, token_ref, cos_ref, sin_ref, place_ref, *kept_and_new) -> None:  # noqa: ANN001, ANN002
        _, _, mixed_ref, keys_ref, values_ref = kept_and_new
        which, column = pl.program_id(2) // across, pl.program_id(2) % across

        def rotated(row: Any) -> tuple[jax.Array, jax.Array]:
            halves = (token_ref[row, pl.ds(at, half)] for at in (0, half))
            return rotate_halves(*halves, cos_ref[...], sin_ref[...])

        key = tuple(x.astype(keys_ref.dtype) for x in rotated(served))
        pairs = ((q.astype(jnp.float32), k.astype(jnp.float32)) for q, k in zip(rotated(which), key))
        own = sum((q * k).sum() for q, k in pairs) * size**-0.5
        each = sizes_ref[...]
        most = jnp.maximum(each.max(), own)
        share, of_own = jnp.exp(each - most), jnp.exp(own - most)
        value = token_ref[served + 1, pl.ds(column * columns, columns)].astype(values_ref.dtype)
        at = (jax.lax.broadcasted_iota(jnp.int32, (parts, columns), axis) for axis in (0, 1))
        there = jnp.broadcast_to(share[:, None] > 0, (parts, columns))
        part = triton.load(out_ref.at[tuple(at)], mask=there, other=0)
        mixed = (part * share[:, None]).sum(axis=0) + of_own * value.astype(jnp.float32)
        mixed_ref[...] = (mixed / (share.sum() + of_own)).astype(mixed_ref.dtype)

        # A place that is not there is not written.
        @pl.when((which == 0) & (place_ref[...] < capacity))
        def _() -> None:
            values_ref[place_ref[...], pl.ds(column * columns, columns)] = value

        @pl.when((pl.program_id(2) == 0) & (place_ref[...] < capacity))
        def _() -> None:
            for i, x in enumerate(key):
                keys_ref[place_ref[...], pl.ds(i * half, half)] = x

    def of_kept() -> pl.BlockSpec:
        return pl.BlockSpec((None, capacity, None, size), lambda b, h, i: (b, 0, h, 0))

    def of_row(*shape: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, *shape), lambda b, h, i: (b, *[0] * len(shape)))

    return pl.pallas_call(
        kernel,
        grid=(rows, kv, served * across),
        in_specs=[
            pl.BlockSpec(
                (None, parts, None, None, columns),
                lambda b, h, i: (b, 0, h, i // across, i % across),
            ),
            pl.BlockSpec((None, parts, None, None), lambda b, h, i: (b, 0, h, i // across)),
            pl.BlockSpec((None, None, served + 2, size), lambda b, h, i: (b, h, 0, 0)),
            of_row(half),
            of_row(half),
            of_row(),
            of_kept(),
            of_kept(),
        ],
        out_specs=[
            pl.BlockSpec((None, None, None, columns), lambda b, h, i: (b, h, i // across, i % across)),
            of_kept(),
            of_kept(),
        ],
        out_shape=[
            jax.ShapeDtypeStruct((rows, kv, served, size), token.dtype),
            jax.ShapeDtypeStruct(kept_k.shape, kept_k.dtype),
            jax.ShapeDtypeStruct(kept_v.shape, kept_v.dtype),
        ],
        input_output_aliases={6: 1, 7: 2},
        compiler_params=triton_of_pallas().CompilerParams(num_warps=2, num_stages=1),
        interpret=interpret,
        name="keep_one",
    )(out, sizes, token, *turned, place, kept_k, kept_v)
