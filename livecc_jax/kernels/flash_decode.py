"""Attention of one new token of each sequence to its KV cache and to itself, by two Triton kernels.

Flash-Decoding (https://pytorch.org/blog/flash-decoding): the cached keys of a sequence are divided into
equal parts that are attended to in parallel, so that a short context keeps the whole device reading as
well. Keys are read in place and once, each key head's for all the query heads that it serves. The
second kernel merges the parts with the token's own key and value and writes those to the cache. Queries
and the key come as the projection leaves them, and are rotated on the way in. Other ways take several
kernels, which for one token cost more than reading the keys.

`is_supported` says where the kernels serve; `attention_reference` computes the same in plain XLA, also
for the prompts of `flash_prefill`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from livecc_jax.kernels.devices import hopper_or_newer
from livecc_jax.kernels.disabled import enabled
from livecc_jax.kernels.gpu import MIN_SCORE, has_triton, triton, triton_call
from livecc_jax.kernels.interpret import interpreting
from livecc_jax.kernels.rope import rotate_and_write_reference, rotate_halves

BLOCK_KEYS = 64  # keys that a block multiplies at a time
DEVICE_BLOCKS = 256  # blocks that keep the device reading
MIN_PARTS = 4  # parts of a sequence at least, since some sequences are longer than others
WARPS, STAGES = 2, 2  # warps of a block, and loads that it has in flight
MIN_DOT = 16  # the smallest matrix product of Triton; more query heads for each key head are not served
MAX_COLUMNS = 32  # columns of an output that one block merges at most


def is_supported(qkv: jax.Array, keys: jax.Array) -> bool:
    """Whether the kernels serve on the device in scope, or on each of a mesh.

    Args:
        qkv: [B, 1, K, G + 2, D].
        keys: [B, C, K, D], the keys of the cache.
    """
    group, size = qkv.shape[3] - 2, qkv.shape[4]
    return (
        enabled("flash_decode")
        and hopper_or_newer()
        and is_supported_dtype(qkv, keys)
        and qkv.shape[1] == 1
        and group <= MIN_DOT
        and size & (size - 1) == 0
        and MIN_DOT <= size // 2 <= 128
        and keys.shape[1] >= BLOCK_KEYS
        and keys.shape[1] % BLOCK_KEYS == 0
        and has_triton()
    )


def is_supported_dtype(qkv: jax.Array, keys: jax.Array) -> bool:
    """Whether both have one half precision (or float32 in interpret mode), and offsets fit int32."""
    dtypes = (jnp.bfloat16, jnp.float16, *([jnp.float32] if interpreting() else []))
    return qkv.dtype in dtypes and qkv.dtype == keys.dtype and qkv.size < 1 << 31


def attention_reference(
    qkv: jax.Array, angles: jax.Array, cache: tuple[jax.Array, jax.Array], length: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """What `write_and_attend` computes here and in `flash_prefill`, step by step in plain XLA."""
    batch, count, kv_heads, heads_each, size = qkv.shape
    group, capacity = heads_each - 2, cache[0].shape[1]
    rows = count * group
    queries, cache = rotate_and_write_reference(qkv, angles, cache, length, rows)
    keys, values = (x.astype(jnp.float32) for x in cache)
    scores = jnp.einsum("bkrd,bckd->bkrc", queries.astype(jnp.float32), keys) * size**-0.5
    last_slot = length[:, None] + jnp.arange(rows) // group
    visible = jnp.arange(capacity) <= last_slot[..., None]
    weights = jax.nn.softmax(jnp.where(visible[:, None], scores, -jnp.inf), axis=-1)
    out = jnp.einsum("bkrc,bckd->bkrd", weights, values).astype(qkv.dtype)
    out = out.reshape(batch, kv_heads, count, group, size).swapaxes(1, 2)
    return out.reshape(batch, count, kv_heads * group, size), cache


def write_and_attend(
    qkv: jax.Array, angles: jax.Array, cache: tuple[jax.Array, jax.Array], length: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Rotates a token's queries and key, writes its key and value to the cache, and attends.

    Args:
        qkv: [B, 1, K, G + 2, D], for each key head its G queries, its key and its value; not rotated.
        angles: float32 [B, 1, D / 2].
        cache: Keys (rotated) and values, [B, C, K, D] each, C a multiple of 64; written in place if
            they are donated.
        length: int32 [B], number of tokens in the cache without the new one.

    Returns:
        The attention result [B, 1, K * G, D], and the cache with the token.
    """
    batch, _, kv_heads, heads_each, size = qkv.shape
    token = qkv[:, 0]
    rotation = jnp.cos(angles[:, 0]), jnp.sin(angles[:, 0])
    outs, log_sums = _attend_parts(token, rotation, *cache, length)
    out, *cache = _merge_and_write(outs, log_sums, token, rotation, *cache, length)
    return out.reshape(batch, 1, kv_heads * (heads_each - 2), size), tuple(cache)


def _parts(capacity: int, heads: int) -> int:
    """Number of parts of each sequence, a power of two, for `heads` key heads over all sequences."""
    parts = max(DEVICE_BLOCKS // heads, MIN_PARTS)
    return 1 << (min(parts, capacity // BLOCK_KEYS).bit_length() - 1)


def _attend_parts(
    token: jax.Array,
    rotation: tuple[jax.Array, jax.Array],
    keys: jax.Array,
    values: jax.Array,
    length: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Attention to the first `length` keys, in P parts.

    token is [B, K, G + 2, D], rotation cosines and sines [B, D / 2]. Returns the result of each part,
    float32 [B, P, K, G, D], and its log-sum-exp, [B, P, K, 16], of which the first G count. A part of
    no keys has a log-sum-exp of `MIN_SCORE` and an undefined result.
    """
    from jax.experimental import pallas as pl

    batch, kv_heads, heads_each, size = token.shape
    capacity, half, group = keys.shape[1], size // 2, heads_each - 2
    parts = _parts(capacity, batch * kv_heads)

    def kernel(*refs) -> None:  # noqa: ANN002
        token_ref, cos_ref, sin_ref, keys_ref, values_ref, length_ref, out_ref, log_sum_ref = refs
        length = length_ref[...]
        part_size = jax.lax.div(length + (parts * BLOCK_KEYS - 1), jnp.int32(parts * BLOCK_KEYS))
        part_size *= BLOCK_KEYS
        begin = pl.program_id(2) * part_size
        count = jnp.minimum(length - begin, part_size)

        @pl.when(count > 0)
        def _() -> None:
            shape = MIN_DOT, half
            row, column = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
            halves = (
                triton().load(token_ref.at[row, column + offset], mask=row < group, other=0)
                for offset in (0, half)
            )
            queries = rotate_halves(*halves, cos_ref[...], sin_ref[...])

            def attend_block(i: jax.Array, carry: tuple) -> tuple:
                out, peak, total = carry
                block = pl.ds(begin + i * BLOCK_KEYS, BLOCK_KEYS)
                scores = sum(
                    triton().dot(q, keys_ref[block, pl.ds(offset, half)].astype(q.dtype).T)
                    for q, offset in zip(queries, (0, half))
                )
                exists = i * BLOCK_KEYS + jnp.arange(BLOCK_KEYS) < count
                scores = jnp.where(exists[None], scores * size**-0.5, MIN_SCORE)
                new_peak = jnp.maximum(peak, scores.max(axis=1))
                weights = jnp.exp(scores - new_peak[:, None])
                decay = jnp.exp(peak - new_peak)
                value = values_ref[block, :]
                weighted = triton().dot(weights.astype(value.dtype), value)
                return out * decay[:, None] + weighted, new_peak, total * decay + weights.sum(axis=1)

            initial = (
                jnp.zeros((MIN_DOT, size), jnp.float32),
                jnp.full((MIN_DOT,), MIN_SCORE, jnp.float32),
                jnp.zeros((MIN_DOT,), jnp.float32),
            )
            blocks = jax.lax.div(count + (BLOCK_KEYS - 1), jnp.int32(BLOCK_KEYS))
            out, peak, total = jax.lax.fori_loop(0, blocks, attend_block, initial)
            shape = MIN_DOT, size
            row, column = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
            triton().store(out_ref.at[row, column], out / total[:, None], mask=row < group)
            log_sum_ref[...] = peak + jnp.log(total)

        @pl.when(count <= 0)
        def _() -> None:
            log_sum_ref[...] = jnp.full((MIN_DOT,), MIN_SCORE, jnp.float32)

    cache_spec = pl.BlockSpec((None, capacity, None, size), lambda b, h, j: (b, 0, h, 0))

    def sequence_spec(*shape: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, *shape), lambda b, h, j: (b, *[0] * len(shape)))

    return triton_call(
        kernel,
        warps=WARPS,
        stages=STAGES,
        grid=(batch, kv_heads, parts),
        in_specs=[
            pl.BlockSpec((None, None, heads_each, size), lambda b, h, j: (b, h, 0, 0)),
            sequence_spec(half),
            sequence_spec(half),
            cache_spec,
            cache_spec,
            sequence_spec(),
        ],
        out_specs=[
            pl.BlockSpec((None, None, None, group, size), lambda b, h, j: (b, j, h, 0, 0)),
            pl.BlockSpec((None, None, None, MIN_DOT), lambda b, h, j: (b, j, h, 0)),
        ],
        out_shape=[
            jax.ShapeDtypeStruct((batch, parts, kv_heads, group, size), jnp.float32),
            jax.ShapeDtypeStruct((batch, parts, kv_heads, MIN_DOT), jnp.float32),
        ],
        name="flash_decode_parts",
    )(token, *rotation, keys, values, length)


def _merge_and_write(
    outs: jax.Array,
    log_sums: jax.Array,
    token: jax.Array,
    rotation: tuple[jax.Array, jax.Array],
    keys: jax.Array,
    values: jax.Array,
    slot: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Merges the parts of `_attend_parts` with the token itself, and writes it to slots int32 [B].

    Returns the attention result [B, K, G, D], keys and values.
    """
    from jax.experimental import pallas as pl

    batch, parts, kv_heads, group, size = outs.shape
    capacity, half = keys.shape[1], size // 2
    columns = min(MAX_COLUMNS, size)
    column_blocks = size // columns

    def kernel(outs_ref, log_sums_ref, token_ref, cos_ref, sin_ref, slot_ref, *refs) -> None:  # noqa: ANN001, ANN002
        _, _, merged_ref, keys_ref, values_ref = refs
        member, column = pl.program_id(2) // column_blocks, pl.program_id(2) % column_blocks

        def rotated(row: Any) -> tuple[jax.Array, jax.Array]:
            halves = (token_ref[row, pl.ds(offset, half)] for offset in (0, half))
            return rotate_halves(*halves, cos_ref[...], sin_ref[...])

        key = tuple(x.astype(keys_ref.dtype) for x in rotated(group))
        products = (q.astype(jnp.float32) * k.astype(jnp.float32) for q, k in zip(rotated(member), key))
        own_score = sum(product.sum() for product in products) * size**-0.5
        log_sums = log_sums_ref[...]
        peak = jnp.maximum(log_sums.max(), own_score)
        shares, own_share = jnp.exp(log_sums - peak), jnp.exp(own_score - peak)
        value = token_ref[group + 1, pl.ds(column * columns, columns)].astype(values_ref.dtype)
        at = (jax.lax.broadcasted_iota(jnp.int32, (parts, columns), axis) for axis in (0, 1))
        # The result of a part of no keys is undefined.
        mask = jnp.broadcast_to(shares[:, None] > 0, (parts, columns))
        outs = triton().load(outs_ref.at[tuple(at)], mask=mask, other=0)
        merged = (outs * shares[:, None]).sum(axis=0) + own_share * value.astype(jnp.float32)
        merged_ref[...] = (merged / (shares.sum() + own_share)).astype(merged_ref.dtype)

        # A slot beyond the cache is not written.
        @pl.when((member == 0) & (slot_ref[...] < capacity))
        def _() -> None:
            values_ref[slot_ref[...], pl.ds(column * columns, columns)] = value

        @pl.when((pl.program_id(2) == 0) & (slot_ref[...] < capacity))
        def _() -> None:
            for i, x in enumerate(key):
                keys_ref[slot_ref[...], pl.ds(i * half, half)] = x

    cache_spec = pl.BlockSpec((None, capacity, None, size), lambda b, h, i: (b, 0, h, 0))

    def sequence_spec(*shape: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, *shape), lambda b, h, i: (b, *[0] * len(shape)))

    def head_and_columns(i: jax.Array) -> tuple[jax.Array, jax.Array]:
        return i // column_blocks, i % column_blocks

    return triton_call(
        kernel,
        warps=2,
        grid=(batch, kv_heads, group * column_blocks),
        in_specs=[
            pl.BlockSpec(
                (None, parts, None, None, columns), lambda b, h, i: (b, 0, h, *head_and_columns(i))
            ),
            pl.BlockSpec((None, parts, None, None), lambda b, h, i: (b, 0, h, i // column_blocks)),
            pl.BlockSpec((None, None, group + 2, size), lambda b, h, i: (b, h, 0, 0)),
            sequence_spec(half),
            sequence_spec(half),
            sequence_spec(),
            cache_spec,
            cache_spec,
        ],
        out_specs=[
            pl.BlockSpec((None, None, None, columns), lambda b, h, i: (b, h, *head_and_columns(i))),
            cache_spec,
            cache_spec,
        ],
        out_shape=[
            jax.ShapeDtypeStruct((batch, kv_heads, group, size), token.dtype),
            jax.ShapeDtypeStruct(keys.shape, keys.dtype),
            jax.ShapeDtypeStruct(values.shape, values.dtype),
        ],
        input_output_aliases={6: 1, 7: 2},
        name="flash_decode_merge",
    )(outs, log_sums, token, *rotation, slot, keys, values)
