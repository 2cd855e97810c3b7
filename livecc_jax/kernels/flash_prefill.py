"""Attention of a prompt to its KV cache and to itself, by a Mosaic GPU kernel for Hopper.

FlashAttention-3 (arXiv 2407.08608): two warp groups take turns at multiplying and at exponentials,
while a third fetches keys and values. Three things are particular here. The query heads of a key head
become its queries, so that blocks are full and each key is fetched once for all of them. The prompt's
own keys follow the cached ones in the cache. And the keys are divided into parts that are attended to
in parallel (`merge_partials` merges them), because a prompt alone has too few blocks for the device.
After JAX's own kernel for whole sequences (`jax.experimental.pallas.ops.gpu.attention_mgpu`, Apache
2.0), which knows neither lengths nor parts.

`is_supported` says where the kernels serve; `flash_decode.attention_reference` computes the same in
plain XLA.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from livecc_jax.kernels import merge_partials, rope
from livecc_jax.kernels.devices import hopper_or_newer, multiprocessors
from livecc_jax.kernels.disabled import enabled
from livecc_jax.kernels.flash_decode import is_supported_dtype
from livecc_jax.kernels.gpu import (
    GROUP,
    MIN_SCORE,
    has_mosaic,
    mosaic,
    mosaic_call,
    register_layout,
    tiled_smem,
    wgmma_accumulate,
    wgmma_scores,
)

BLOCK_ROWS = 2 * GROUP  # queries of a block, each query head being one
BLOCK_KEYS = 128  # keys that a block multiplies at a time
STAGES = 2  # blocks of keys in flight
MAX_PARTS = 8  # parts that keys are divided into, at most
PART_OVERHEAD = (
    4.4  # time to start and end a part, in blocks of keys (measured: 7 us at 1.6 us a block)
)
LOG2_E = math.log2(math.e)


class Tuning(NamedTuple):
    """How the kernel divides keys."""

    block_keys: int = BLOCK_KEYS  # keys that a block multiplies at a time
    parts: int | None = None  # parts that keys are divided into; None for `default_parts`


DEFAULT_TUNING = Tuning()


def is_supported(qkv: jax.Array, keys: jax.Array) -> bool:
    """Whether the kernels serve on the device in scope, or on each of a mesh.

    Args:
        qkv: [B, Q, K, G + 2, D].
        keys: [B, C, K, D], the keys of the cache.
    """
    return (
        enabled("flash_prefill")
        and hopper_or_newer()
        and is_supported_dtype(qkv, keys)
        and qkv.shape[-1] in (64, 128)
        and qkv.shape[1] > 1
        and keys.shape[1] % BLOCK_KEYS == 0
        and has_mosaic()
    )


def default_parts(blocks: int, keys: int) -> int:
    """The number of parts with the shortest estimated time, for `blocks` blocks of queries."""

    def cost(parts: int) -> float:
        rounds = -(-blocks * parts // multiprocessors())
        return rounds * (keys / BLOCK_KEYS / parts + PART_OVERHEAD)

    return min(range(1, MAX_PARTS + 1), key=cost)


def write_and_attend(
    qkv: jax.Array,
    angles: jax.Array,
    cache: tuple[jax.Array, jax.Array],
    length: jax.Array,
    tuning: Tuning = DEFAULT_TUNING,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Rotates a prompt's queries and keys, writes its keys and values to the cache, and attends.

    Each query attends to all that was in the cache, and to the prompt's tokens up to its own.

    Args:
        qkv: [B, Q, K, G + 2, D], for each key head its G queries, its key and its value; not rotated.
        angles: float32 [B, Q, D / 2].
        cache: Keys (rotated) and values, [B, C, K, D] each, C a multiple of 128, with room for the
            prompt; written in place if they are donated.
        length: int32 [B], number of tokens in the cache without the prompt.
        tuning: How the kernel divides keys.

    Returns:
        The attention result [B, Q, K * G, D], and the cache with the prompt.
    """
    batch, count, kv_heads, heads_each, _ = qkv.shape
    group = heads_each - 2
    tiles = -(-count * group // BLOCK_ROWS)
    rotate_and_write, merge = (
        rope.rotate_and_write_reference,
        merge_partials.merge_prefill_partials_reference,
    )
    if rope.is_supported():
        rotate_and_write = rope.rotate_and_write
    if merge_partials.is_supported():
        merge = merge_partials.merge_prefill_partials
    queries, cache = rotate_and_write(qkv, angles, cache, length, tiles * BLOCK_ROWS)
    typical_keys = (cache[0].shape[1] + count) // 2
    parts = tuning.parts or default_parts(tiles * kv_heads * batch, typical_keys)
    outs, log_sums = flash_prefill_parts(
        queries, *cache, length, count * group, group, parts, tuning.block_keys
    )
    return merge(outs, log_sums, count, group), cache


# Jitted, so that the program has one function for all layers, which is compiled once.
@functools.partial(jax.jit, static_argnames=("rows", "group", "parts", "block_keys"))
def flash_prefill_parts(
    queries: jax.Array,
    keys: jax.Array,
    values: jax.Array,
    length: jax.Array,
    rows: int,
    group: int,
    parts: int,
    block_keys: int,
) -> tuple[jax.Array, jax.Array]:
    """Attention in parts of the keys.

    Args:
        queries: [B, K, R, D], as `rope.rotate_and_write` orders them, R a multiple of 128.
        keys: [B, C, K, D].
        values: [B, C, K, D].
        length: int32 [B], number of keys before the first query's own.
        rows: How many of the R rows count.
        group: Number of query heads for each key head.
        parts: Number of parts P.
        block_keys: Keys that a block multiplies at a time.

    Returns:
        The result of each part [P, B, K, R, D], and its log-sum-exp, float32 [P, B, K, R], which is
        very small for a part of no keys.
    """
    from jax.experimental import pallas as pl

    gpu = mosaic()
    batch, kv_heads, padded_rows, size = queries.shape
    tiles = padded_rows // BLOCK_ROWS
    dtype = queries.dtype
    scale = size**-0.5 * LOG2_E
    layout_cast, broadcasted_iota = register_layout()

    def kernel(q_ref, k_ref, v_ref, length_ref, out_ref, log_sum_ref, scratch):  # noqa: ANN001, ANN202
        sequence, head = lax.axis_index("sequence"), lax.axis_index("head")
        part, tile = lax.axis_index("part"), lax.axis_index("tile")
        warp_group = lax.axis_index("warp_group")
        (q_smem, k_smem, v_smem, log_sum_smem), ready, (k_free, v_free), turn = scratch
        k_ready, v_ready, q_ready = ready
        # All blocks of keys up to that of the tile's last query; those of this part; and how many of
        # them lie entirely in the cache before the prompt and need no mask.
        past = length_ref[sequence]
        last_token = lax.div(jnp.minimum((tile + 1) * BLOCK_ROWS, rows) - 1, jnp.int32(group))
        blocks = lax.div(past + last_token, jnp.int32(block_keys)) + 1
        blocks_each = lax.div(blocks + parts - 1, jnp.int32(parts))
        first_block = part * blocks_each
        steps = jnp.clip(blocks - first_block, 0, blocks_each)
        unmasked = jnp.clip(lax.div(past, jnp.int32(block_keys)) - first_block, 0, steps)

        def pass_turn() -> None:
            gpu.barrier_arrive(turn)
            gpu.barrier_wait(turn)

        @pl.when(warp_group < 2)
        def _() -> None:
            gpu.set_max_registers(232, action="increase")
            own_q, own_log_sum = q_smem.at[warp_group], log_sum_smem.at[warp_group]
            begin = tile * BLOCK_ROWS + warp_group * GROUP
            own_rows = pl.ds(begin, GROUP)
            gpu.copy_gmem_to_smem(q_ref.at[sequence, head, own_rows], own_q, q_ready.at[warp_group])
            gpu.barrier_wait(q_ready.at[warp_group])
            vector = gpu.Layout.WGMMA.reduce(1)
            peak = layout_cast(jnp.full((GROUP,), MIN_SCORE, jnp.float32), vector)
            total = layout_cast(jnp.zeros((GROUP,), jnp.float32), vector)
            acc = layout_cast(jnp.zeros((GROUP, size), jnp.float32), gpu.Layout.WGMMA)

            @pl.when(steps > 0)
            def _() -> None:
                gpu.barrier_wait(k_ready.at[0])

            pl.when(warp_group == 1)(pass_turn)

            def step(i: jax.Array, carry: tuple, masked: bool) -> tuple:
                acc, peak, total = carry
                slot = lax.rem(i, jnp.int32(STAGES))

                scores = wgmma_scores(own_q, k_smem, slot, pass_turn)
                gpu.barrier_arrive(k_free.at[slot])
                if masked:
                    # Compares a key's number times `group` with a row's: no division.
                    row, key = (
                        broadcasted_iota(jnp.int32, (GROUP, block_keys), axis) for axis in (0, 1)
                    )
                    last_visible = past * group + begin + row
                    key = key + (first_block + i) * block_keys
                    scores = jnp.where(key * group <= last_visible, scores, -jnp.inf)
                new_peak = jnp.maximum(peak, scores.max(axis=1) * scale)
                decay = jnp.exp2(peak - new_peak)
                p = jnp.exp2(scores * scale - lax.broadcast_in_dim(new_peak, scores.shape, [0]))
                acc *= lax.broadcast_in_dim(decay, acc.shape, [0])
                total *= decay
                p16 = p.astype(dtype)
                total += p.sum(axis=1)
                acc, total, new_peak, p16 = lax.optimization_barrier((acc, total, new_peak, p16))
                gpu.barrier_arrive(turn)
                gpu.barrier_wait(v_ready.at[slot])
                gpu.barrier_wait(turn)

                def wait_for_next_keys() -> None:
                    next_step = i + 1

                    @pl.when(next_step < steps)
                    def _() -> None:
                        gpu.barrier_wait(k_ready.at[lax.rem(next_step, jnp.int32(STAGES))])

                acc = wgmma_accumulate(acc, p16, v_smem, slot, wait_for_next_keys)
                gpu.barrier_arrive(v_free.at[slot])
                return acc, new_peak, total

            carry = acc, peak, total
            carry = lax.fori_loop(0, unmasked, functools.partial(step, masked=False), carry)
            carry = lax.fori_loop(unmasked, steps, functools.partial(step, masked=True), carry)
            acc, peak, total = carry
            pl.when(warp_group == 0)(pass_turn)
            total = jnp.maximum(total, 1e-37)  # a part of no keys gives zeros of very small weight
            acc /= lax.broadcast_in_dim(total, acc.shape, [0])
            own_q[...] = acc.astype(dtype)
            own_log_sum[...] = peak / LOG2_E + jnp.log(total)
            gpu.commit_smem()
            gpu.copy_smem_to_gmem(own_q, out_ref.at[part, sequence, head, own_rows])
            gpu.copy_smem_to_gmem(own_log_sum, log_sum_ref.at[part, sequence, head, own_rows])
            gpu.wait_smem_to_gmem(0)

        @pl.when(warp_group == 2)
        def _() -> None:
            gpu.set_max_registers(40, action="decrease")

            def fetch(i: jax.Array, ref: Any, smem: Any, ready: Any) -> None:
                block = sequence, pl.ds((first_block + i) * block_keys, block_keys), head
                slot = lax.rem(i, jnp.int32(STAGES))
                gpu.copy_gmem_to_smem(ref.at[block], smem.at[slot], ready.at[slot])

            @pl.loop(0, jnp.minimum(steps, STAGES))
            def _(i: jax.Array) -> None:
                fetch(i, k_ref, k_smem, k_ready)
                fetch(i, v_ref, v_smem, v_ready)

            @pl.loop(STAGES, jnp.maximum(steps, STAGES))
            def _(i: jax.Array) -> None:
                slot = lax.rem(i, jnp.int32(STAGES))
                gpu.barrier_wait(k_free.at[slot])
                fetch(i, k_ref, k_smem, k_ready)
                gpu.barrier_wait(v_free.at[slot])
                fetch(i, v_ref, v_smem, v_ready)

    def entry(*refs) -> None:  # noqa: ANN002
        smem = functools.partial(tiled_smem, dtype)
        pl.run_scoped(
            lambda *scratch: kernel(*refs, scratch),
            [
                smem(2, GROUP, size),
                smem(STAGES, block_keys, size),
                smem(STAGES, block_keys, size),
                gpu.SMEM((2, GROUP), jnp.float32),
            ],
            (
                gpu.Barrier(num_barriers=STAGES),
                gpu.Barrier(num_barriers=STAGES),
                gpu.Barrier(num_barriers=2),
            ),
            (gpu.Barrier(num_arrivals=2, num_barriers=STAGES),) * 2,
            gpu.Barrier(num_arrivals=2),
            collective_axes="warp_group",
        )

    return mosaic_call(
        entry,
        # Blocks of one part, which read the same keys, run at the same time.
        grid={"sequence": batch, "head": kv_heads, "part": parts, "tile": tiles},
        warp_groups=3,
        out_type=[
            jax.ShapeDtypeStruct((parts, *queries.shape), dtype),
            jax.ShapeDtypeStruct((parts, *queries.shape[:-1]), jnp.float32),
        ],
    )(queries, keys, values, length)
