"""Attention of everything in a window to everything in it, in one kernel (GPUs of Hopper's kind).

The vision tower's heads have 80 values. cuDNN multiplies such as if they were 128; here products are as
wide as the heads are. After FlashAttention-3 (arXiv 2407.08608), as `attention_prompt`: groups of warps
multiply and take exponentials in turns, another one fetches keys and values. Three groups of 64 queries
to a block: 1,536 patches of 16 heads are then 128 blocks, at once on the 132 processors of an H100.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from livecc_jax.kernels.devices import single_gpu
from livecc_jax.kernels.flash_decode import LEAST
from livecc_jax.kernels.flash_prefill import LOG2_E
from livecc_jax.kernels.gpu import (
    GROUP,
    in_registers,
    mixed,
    mosaic,
    multiplies,
    scored,
    tiled,
    triton_of_pallas,
)

GROUPS = 3  # of warps that multiply
BLOCK = GROUPS * GROUP  # queries of a block of the device
KEYS = 96  # at a time; divides BLOCK
STAGES = 3  # of them fetched ahead
WIDEST = 96  # values of a head: what fits in the registers of a group


def usable(dtype: Any, size: int) -> bool:
    """Whether the kernel serves heads of so many values here, with this jax."""
    return (
        single_gpu()
        and dtype in (jnp.bfloat16, jnp.float16)
        and size % 16 == 0
        and size <= WIDEST
        and triton_of_pallas() is not None  # for `rotate_rows`
        and multiplies()
    )


@functools.partial(jax.jit, static_argnames="interpret")
def attend(qkv: jax.Array, interpret: Any = None) -> jax.Array:
    """Attention within windows.

    Args:
        qkv: [W, S, 3, H, D], queries and keys rotated.
        interpret: run the kernel's meaning instead, on any device.

    Returns:
        [W, S, H, D].
    """
    from jax.experimental import pallas as pl

    gpu = mosaic()
    windows, length, _, heads, size = qkv.shape
    # What is fetched beyond an array is 0, and what is put there is dropped; but rows are fetched by
    # eights, and the interpreter has no beyond.
    rows = length + -length % (BLOCK if interpret else 8)
    qkv = jnp.pad(qkv, ((0, 0), (0, rows - length), (0, 0), (0, 0), (0, 0)))
    steps = -(-length // KEYS)
    scale = size**-0.5 * LOG2_E
    laid, number = in_registers(interpret)

    def kernel(qkv_ref, out_ref, scoped):  # noqa: ANN001, ANN202
        window, head, tile = (lax.axis_index(name) for name in ("window", "head", "tile"))
        who = lax.axis_index("who")
        (q_smem, k_smem, v_smem), (k_there, v_there, q_there), (k_gone, v_gone), turn = scoped

        @pl.when(who < GROUPS)
        def _() -> None:
            gpu.set_max_registers(160, action="increase")
            mine = q_smem.at[who]
            queries = window, pl.ds(tile * BLOCK + who * GROUP, GROUP), head
            gpu.copy_gmem_to_smem(qkv_ref.at[queries], mine, q_there.at[who])
            gpu.barrier_wait(q_there.at[who])
            vector = gpu.Layout.WGMMA.reduce(1)
            most = laid(jnp.full((GROUP,), LEAST, jnp.float32), vector)
            total = laid(jnp.zeros((GROUP,), jnp.float32), vector)
            acc = laid(jnp.zeros((GROUP, size), jnp.float32), gpu.Layout.WGMMA)

            def give_turn() -> None:
                gpu.barrier_arrive(turn.at[lax.rem(who + 1, jnp.int32(GROUPS))])

            def score(slot: jax.Array | int) -> jax.Array:
                """Products with a block of keys; the next group may begin once they are under way."""

                scores = scored(mine, k_smem, slot, interpret, give_turn)
                gpu.barrier_arrive(k_gone.at[slot])
                return scores

            def mix(p16: jax.Array, acc: jax.Array, slot: jax.Array | int) -> jax.Array:
                acc = mixed(acc, p16, v_smem, slot, interpret)
                gpu.barrier_arrive(v_gone.at[slot])
                return acc

            def weigh(scores: jax.Array, acc: jax.Array, most: jax.Array, total: jax.Array) -> tuple:
                higher = jnp.maximum(most, scores.max(axis=1) * scale)
                fade = jnp.exp2(most - higher)
                p = jnp.exp2(scores * scale - lax.broadcast_in_dim(higher, scores.shape, [0]))
                acc *= lax.broadcast_in_dim(fade, acc.shape, [0])
                total = total * fade + p.sum(axis=1)
                return lax.optimization_barrier((p.astype(qkv.dtype), acc, higher, total))

            def step(i: jax.Array, carry: tuple) -> tuple:
                scores, *carry = carry
                slot, following = (lax.rem(n, jnp.int32(STAGES)) for n in (i, i + 1))
                p16, acc, most, total = weigh(scores, *carry)
                gpu.barrier_wait(v_there.at[slot])
                gpu.barrier_wait(k_there.at[following])
                gpu.barrier_wait(turn.at[who])
                acc = mix(p16, acc, slot)
                return score(following), acc, most, total

            # One group multiplies at a time, while others take exponentials.
            pl.when(who == GROUPS - 1)(give_turn)
            gpu.barrier_wait(k_there.at[0])
            gpu.barrier_wait(turn.at[who])
            carry = score(0), acc, most, total
            scores, *carry = lax.fori_loop(0, steps - 1, step, carry)
            if length % KEYS:
                key = number(jnp.int32, (GROUP, KEYS), 1)
                scores = jnp.where(key < length - (steps - 1) * KEYS, scores, -jnp.inf)
            p16, acc, _, total = weigh(scores, *carry)
            last = (steps - 1) % STAGES
            gpu.barrier_wait(v_there.at[last])
            gpu.barrier_wait(turn.at[who])
            acc = mix(p16, acc, last)
            pl.when(who < GROUPS - 1)(give_turn)
            acc /= lax.broadcast_in_dim(total, acc.shape, [0])
            mine[...] = acc.astype(qkv.dtype)
            gpu.commit_smem()
            gpu.copy_smem_to_gmem(mine, out_ref.at[queries])
            gpu.wait_smem_to_gmem(0)

        @pl.when(who == GROUPS)
        def _() -> None:
            gpu.set_max_registers(24, action="decrease")

            def fetch(i: jax.Array, slot: jax.Array, what: int, to, there) -> None:  # noqa: ANN001
                keys = window, pl.ds(i * KEYS, KEYS), what * heads + head
                gpu.copy_gmem_to_smem(qkv_ref.at[keys], to.at[slot], there.at[slot])

            @pl.loop(0, min(steps, STAGES))
            def _(i: jax.Array) -> None:
                fetch(i, i, 1, k_smem, k_there)
                fetch(i, i, 2, v_smem, v_there)

            @pl.loop(STAGES, max(steps, STAGES))
            def _(i: jax.Array) -> None:
                slot = lax.rem(i, jnp.int32(STAGES))
                gpu.barrier_wait(k_gone.at[slot])
                fetch(i, slot, 1, k_smem, k_there)
                gpu.barrier_wait(v_gone.at[slot])
                fetch(i, slot, 2, v_smem, v_there)

            if steps > STAGES:  # all that was fetched is used before the block ends
                for slot in range(STAGES):
                    gpu.barrier_wait(k_gone.at[slot])
                    gpu.barrier_wait(v_gone.at[slot])

    def entry(*refs) -> None:  # noqa: ANN002
        # The widest swizzle that a head and a block of keys are multiples of.
        swizzle = next(
            n for n in (128, 64, 32) if all(m * qkv.dtype.itemsize % n == 0 for m in (size, KEYS))
        )
        of_heads = functools.partial(tiled, qkv.dtype, swizzle=swizzle)
        pl.run_scoped(
            lambda *scoped: kernel(*refs, scoped),
            [of_heads(GROUPS, GROUP, size), *[of_heads(STAGES, KEYS, size)] * 2],
            (
                gpu.Barrier(num_barriers=STAGES),
                gpu.Barrier(num_barriers=STAGES),
                gpu.Barrier(num_barriers=GROUPS),
            ),
            (gpu.Barrier(num_arrivals=GROUPS, num_barriers=STAGES),) * 2,
            gpu.Barrier(num_barriers=GROUPS),
            collective_axes="who",
        )

    out = gpu.kernel(
        entry,
        out_type=jax.ShapeDtypeStruct((windows, rows, heads, size), qkv.dtype),
        # Side by side run blocks of one head, which read the same keys.
        grid=(windows, heads, -(-length // BLOCK)),
        grid_names=("window", "head", "tile"),
        num_threads=GROUPS + 1,
        thread_name="who",
        compiler_params=gpu.CompilerParams(approx_math=True),
        interpret=interpret,
    )(qkv.reshape(windows, rows, 3 * heads, size))
    return out[:, :length]
