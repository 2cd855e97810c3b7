"""Attention within the windows of the vision tower, not causal, by a Mosaic GPU kernel for Hopper.

The tower's heads have 80 values, which cuDNN multiplies as if they were 128; here products are as wide
as the heads are. After FlashAttention-3 (arXiv 2407.08608) like `flash_prefill`: warp groups take turns
at multiplying and at exponentials, while another one fetches keys and values. A block has three groups
of 64 queries, so that 1,536 patches of 16 heads are 128 blocks, which run at once on the 132
multiprocessors of an H100.

`is_supported` says where the kernel serves; `window_attention_reference` computes the same in plain
XLA.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from livecc_jax.kernels.devices import single_gpu
from livecc_jax.kernels.disabled import enabled
from livecc_jax.kernels.flash_prefill import LOG2_E
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
from livecc_jax.kernels.interpret import interpreting

GROUPS = 3  # warp groups that multiply
BLOCK_ROWS = GROUPS * GROUP  # queries of a block
BLOCK_KEYS = 96  # keys that a block multiplies at a time; divides BLOCK_ROWS
STAGES = 3  # blocks of keys in flight
MAX_HEAD_DIM = 96  # values of a head at most: what fits in the registers of a warp group


def is_supported(dtype: Any, head_dim: int) -> bool:
    """Whether the kernel serves on the device in scope.

    Args:
        dtype: Data type of queries, keys and values.
        head_dim: Number of values of a head.
    """
    return (
        enabled("flash_vision")
        and single_gpu()
        and (dtype in (jnp.bfloat16, jnp.float16) or (interpreting() and dtype == jnp.float32))
        and head_dim % 16 == 0
        and head_dim <= MAX_HEAD_DIM
        and has_mosaic()
    )


def window_attention_reference(qkv: jax.Array) -> jax.Array:
    """What `window_attention` computes, step by step in float32."""
    q, k, v = (qkv[:, :, i].astype(jnp.float32) for i in range(3))
    scores = jnp.einsum("wqhd,wkhd->whqk", q, k) * q.shape[-1] ** -0.5
    out = jnp.einsum("whqk,wkhd->wqhd", jax.nn.softmax(scores, axis=-1), v)
    return out.astype(qkv.dtype)


@jax.jit  # so that the program has one function for all layers, which is compiled once
def window_attention(qkv: jax.Array) -> jax.Array:
    """Attention of each patch of a window to all patches of the window.

    Args:
        qkv: [W, S, 3, H, D], queries and keys rotated.

    Returns:
        [W, S, H, D].
    """
    from jax.experimental import pallas as pl

    gpu = mosaic()
    windows, length, _, heads, size = qkv.shape
    dtype = qkv.dtype
    # On a GPU what is fetched beyond an array is 0 and what is written there is dropped, in whole
    # groups of eight rows. The interpreter needs whole blocks.
    rows = length + -length % (BLOCK_ROWS if interpreting() else 8)
    qkv = jnp.pad(qkv, ((0, 0), (0, rows - length), (0, 0), (0, 0), (0, 0)))
    steps = -(-length // BLOCK_KEYS)
    scale = size**-0.5 * LOG2_E
    layout_cast, broadcasted_iota = register_layout()

    def kernel(qkv_ref, out_ref, scratch):  # noqa: ANN001, ANN202
        window, head, tile = (lax.axis_index(name) for name in ("window", "head", "tile"))
        warp_group = lax.axis_index("warp_group")
        (q_smem, k_smem, v_smem), (k_ready, v_ready, q_ready), (k_free, v_free), turn = scratch

        @pl.when(warp_group < GROUPS)
        def _() -> None:
            gpu.set_max_registers(160, action="increase")
            own_q = q_smem.at[warp_group]
            own_rows = window, pl.ds(tile * BLOCK_ROWS + warp_group * GROUP, GROUP), head
            gpu.copy_gmem_to_smem(qkv_ref.at[own_rows], own_q, q_ready.at[warp_group])
            gpu.barrier_wait(q_ready.at[warp_group])
            vector = gpu.Layout.WGMMA.reduce(1)
            peak = layout_cast(jnp.full((GROUP,), MIN_SCORE, jnp.float32), vector)
            total = layout_cast(jnp.zeros((GROUP,), jnp.float32), vector)
            acc = layout_cast(jnp.zeros((GROUP, size), jnp.float32), gpu.Layout.WGMMA)

            def pass_turn() -> None:
                gpu.barrier_arrive(turn.at[lax.rem(warp_group + 1, jnp.int32(GROUPS))])

            def score(slot: jax.Array | int) -> jax.Array:
                """Products with a block of keys; the next group may begin once they are issued."""
                scores = wgmma_scores(own_q, k_smem, slot, pass_turn)
                gpu.barrier_arrive(k_free.at[slot])
                return scores

            def accumulate(p16: jax.Array, acc: jax.Array, slot: jax.Array | int) -> jax.Array:
                acc = wgmma_accumulate(acc, p16, v_smem, slot)
                gpu.barrier_arrive(v_free.at[slot])
                return acc

            def softmax_step(
                scores: jax.Array, acc: jax.Array, peak: jax.Array, total: jax.Array
            ) -> tuple:
                new_peak = jnp.maximum(peak, scores.max(axis=1) * scale)
                decay = jnp.exp2(peak - new_peak)
                p = jnp.exp2(scores * scale - lax.broadcast_in_dim(new_peak, scores.shape, [0]))
                acc *= lax.broadcast_in_dim(decay, acc.shape, [0])
                total = total * decay + p.sum(axis=1)
                return lax.optimization_barrier((p.astype(dtype), acc, new_peak, total))

            def step(i: jax.Array, carry: tuple) -> tuple:
                scores, *carry = carry
                slot, next_slot = (lax.rem(n, jnp.int32(STAGES)) for n in (i, i + 1))
                p16, acc, peak, total = softmax_step(scores, *carry)
                gpu.barrier_wait(v_ready.at[slot])
                gpu.barrier_wait(k_ready.at[next_slot])
                gpu.barrier_wait(turn.at[warp_group])
                acc = accumulate(p16, acc, slot)
                return score(next_slot), acc, peak, total

            # One group multiplies at a time, while others take exponentials.
            pl.when(warp_group == GROUPS - 1)(pass_turn)
            gpu.barrier_wait(k_ready.at[0])
            gpu.barrier_wait(turn.at[warp_group])
            carry = score(0), acc, peak, total
            scores, *carry = lax.fori_loop(0, steps - 1, step, carry)
            if length % BLOCK_KEYS:
                key = broadcasted_iota(jnp.int32, (GROUP, BLOCK_KEYS), 1)
                scores = jnp.where(key < length - (steps - 1) * BLOCK_KEYS, scores, -jnp.inf)
            p16, acc, _, total = softmax_step(scores, *carry)
            last_slot = (steps - 1) % STAGES
            gpu.barrier_wait(v_ready.at[last_slot])
            gpu.barrier_wait(turn.at[warp_group])
            acc = accumulate(p16, acc, last_slot)
            pl.when(warp_group < GROUPS - 1)(pass_turn)
            acc /= lax.broadcast_in_dim(total, acc.shape, [0])
            own_q[...] = acc.astype(dtype)
            gpu.commit_smem()
            gpu.copy_smem_to_gmem(own_q, out_ref.at[own_rows])
            gpu.wait_smem_to_gmem(0)

        @pl.when(warp_group == GROUPS)
        def _() -> None:
            gpu.set_max_registers(24, action="decrease")

            def fetch(i: jax.Array, slot: jax.Array, which: int, smem, ready) -> None:  # noqa: ANN001
                block = window, pl.ds(i * BLOCK_KEYS, BLOCK_KEYS), which * heads + head
                gpu.copy_gmem_to_smem(qkv_ref.at[block], smem.at[slot], ready.at[slot])

            @pl.loop(0, min(steps, STAGES))
            def _(i: jax.Array) -> None:
                fetch(i, i, 1, k_smem, k_ready)
                fetch(i, i, 2, v_smem, v_ready)

            @pl.loop(STAGES, max(steps, STAGES))
            def _(i: jax.Array) -> None:
                slot = lax.rem(i, jnp.int32(STAGES))
                gpu.barrier_wait(k_free.at[slot])
                fetch(i, slot, 1, k_smem, k_ready)
                gpu.barrier_wait(v_free.at[slot])
                fetch(i, slot, 2, v_smem, v_ready)

            if steps > STAGES:  # the block must not end before all that was fetched is used
                for slot in range(STAGES):
                    gpu.barrier_wait(k_free.at[slot])
                    gpu.barrier_wait(v_free.at[slot])

    def entry(*refs) -> None:  # noqa: ANN002
        # The widest swizzle that a head and a block of keys are multiples of.
        swizzle = next(
            n for n in (128, 64, 32) if all(m * dtype.itemsize % n == 0 for m in (size, BLOCK_KEYS))
        )
        smem = functools.partial(tiled_smem, dtype, swizzle=swizzle)
        pl.run_scoped(
            lambda *scratch: kernel(*refs, scratch),
            [smem(GROUPS, GROUP, size), *[smem(STAGES, BLOCK_KEYS, size)] * 2],
            (
                gpu.Barrier(num_barriers=STAGES),
                gpu.Barrier(num_barriers=STAGES),
                gpu.Barrier(num_barriers=GROUPS),
            ),
            (gpu.Barrier(num_arrivals=GROUPS, num_barriers=STAGES),) * 2,
            gpu.Barrier(num_barriers=GROUPS),
            collective_axes="warp_group",
        )

    out = mosaic_call(
        entry,
        # Blocks of one head, which read the same keys, run at the same time.
        grid={"window": windows, "head": heads, "tile": -(-length // BLOCK_ROWS)},
        warp_groups=GROUPS + 1,
        out_type=jax.ShapeDtypeStruct((windows, rows, heads, size), dtype),
    )(qkv.reshape(windows, rows, 3 * heads, size))
    return out[:, :length]
