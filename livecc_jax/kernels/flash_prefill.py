"""Attention of a prompt to what is remembered and to itself, in one kernel (GPUs of Hopper's kind).

FlashAttention-3 (arXiv 2407.08608): two groups of warps multiply and take exponentials in turns, a
third one fetches keys and values. What is particular here: the query heads of a key head are its
queries, so that blocks are full and each key is fetched once for all of them; the prompt's own keys lie
behind the past's; and all are cut into parts that are attended to side by side, as a prompt alone has
too few blocks for the device. After jax's own kernel for whole sequences
(`jax.experimental.pallas.ops.gpu.attention_mgpu`, Apache 2.0), which knows neither lengths nor parts.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from livecc_jax.kernels.devices import MULTIPROCESSORS
from livecc_jax.kernels.flash_decode import LEAST
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
from livecc_jax.kernels.rope import mixed_prompt, placed_prompt

BLOCK = 2 * GROUP  # queries of a block of the device
KEYS = 128  # at a time
STAGES = 2  # of them fetched ahead
MOST_PARTS = 8  # of the keys
OVERHEAD = 4.4  # what starting and ending a part costs, in blocks of keys (measured: 7 us of 1.6)
LOG2_E = math.log2(math.e)


def usable(qkv: jax.Array, k: jax.Array) -> bool:
    """Whether the kernels serve these on one device of the kind there is.

    qkv is [B, Q, K, G + 2, D], k [B, C, K, D].
    """
    return (
        qkv.dtype == k.dtype
        and qkv.dtype in (jnp.bfloat16, jnp.float16)
        and qkv.shape[-1] in (64, 128)
        and qkv.shape[1] > 1
        and k.shape[1] % KEYS == 0
        and triton_of_pallas() is not None
        and multiplies()
    )


def parts_of(blocks: int, keys: int) -> int:
    """In how many parts keys are attended to, for so many blocks of queries."""

    def cost(parts: int) -> float:
        rounds = -(-blocks * parts // MULTIPROCESSORS)
        return rounds * (keys / KEYS / parts + OVERHEAD)

    return min(range(1, MOST_PARTS + 1), key=cost)


def keep_and_attend(
    qkv: jax.Array,
    angles: jax.Array,
    kept: tuple[jax.Array, jax.Array],
    length: jax.Array,
    interpret: Any = None,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Rotate a prompt's queries and keys, keep its keys and values, and attend.

    Each query attends to the past, and of the prompt's own keys to those up to its own.

    Args:
        qkv: [B, Q, K, G + 2, D], of each key head its queries, key and value; not rotated.
        angles: float32 [B, Q, D / 2].
        kept: keys (rotated) and values, [B, C, K, D] each, C a multiple of 128 and room for the prompt;
            written where they are if they are donated.
        length: int32 [B] of what is kept without the prompt.
        interpret: run the kernels' meaning instead, on any device.

    Returns:
        ([B, Q, K * G, D], what is kept with the prompt).
    """
    batch, queries, kv, several, _ = qkv.shape
    group = several - 2
    tiles = -(-queries * group // BLOCK)
    there = {"interpret": True} if interpret else {}
    folded, kept = placed_prompt(qkv, angles, kept, length, tiles * BLOCK, **there)
    parts = parts_of(tiles * kv * batch, (kept[0].shape[1] + queries) // 2)
    out, weight = _run(folded, *kept, length, queries * group, group, parts, interpret)
    return mixed_prompt(out, weight, queries, group, **there), kept


# A function of its own in the program, the same for every layer: else each would be compiled.
@functools.partial(jax.jit, static_argnames=("rows", "group", "parts", "interpret"))
def _run(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    length: jax.Array,
    rows: int,
    group: int,
    parts: int,
    interpret: Any,
) -> tuple[jax.Array, jax.Array]:
    """Parts of the attention of queries [B, K, R, D], R whole blocks, of which `rows` count.

    Returns [P, B, K, R, D], and float32 [P, B, K, R], the logarithms of the sums of exponentials, very
    small ones for a part of no keys.
    """
    from jax.experimental import pallas as pl

    gpu = mosaic()
    batch, kv, whole_rows, size = q.shape
    tiles = whole_rows // BLOCK
    scale = size**-0.5 * LOG2_E
    laid, number = in_registers(interpret)

    def kernel(q_ref, k_ref, v_ref, length_ref, out_ref, weight_ref, scoped):  # noqa: ANN001, ANN202
        row, head = lax.axis_index("row"), lax.axis_index("head")
        part, tile = lax.axis_index("part"), lax.axis_index("tile")
        who = lax.axis_index("who")
        (q_smem, k_smem, v_smem, weight_smem), (k_there, v_there, q_there), gone, turn = scoped
        k_gone, v_gone = gone
        # Blocks of keys up to the own of the tile's last query; this part's of them, and how many of
        # those are all of the past and need no mask.
        there = length_ref[row]
        last = lax.div(jnp.minimum((tile + 1) * BLOCK, rows) - 1, jnp.int32(group))
        blocks = lax.div(there + last, jnp.int32(KEYS)) + 1
        each = lax.div(blocks + parts - 1, jnp.int32(parts))
        first = part * each
        steps = jnp.clip(blocks - first, 0, each)
        whole = jnp.clip(lax.div(there, jnp.int32(KEYS)) - first, 0, steps)

        def pass_turn() -> None:
            gpu.barrier_arrive(turn)
            gpu.barrier_wait(turn)

        @pl.when(who < 2)
        def _() -> None:
            gpu.set_max_registers(232, action="increase")
            mine, my_weight = q_smem.at[who], weight_smem.at[who]
            begin = tile * BLOCK + who * GROUP
            gpu.copy_gmem_to_smem(q_ref.at[row, head, pl.ds(begin, GROUP)], mine, q_there.at[who])
            gpu.barrier_wait(q_there.at[who])
            vector = gpu.Layout.WGMMA.reduce(1)
            most = laid(jnp.full((GROUP,), LEAST, jnp.float32), vector)
            total = laid(jnp.zeros((GROUP,), jnp.float32), vector)
            acc = laid(jnp.zeros((GROUP, size), jnp.float32), gpu.Layout.WGMMA)

            @pl.when(steps > 0)
            def _() -> None:
                gpu.barrier_wait(k_there.at[0])

            pl.when(who == 1)(pass_turn)

            def step(i: jax.Array, carry: tuple, masked: bool) -> tuple:
                acc, most, total = carry
                slot = lax.rem(i, jnp.int32(STAGES))

                scores = scored(mine, k_smem, slot, interpret, pass_turn)
                gpu.barrier_arrive(k_gone.at[slot])
                if masked:
                    # A key's number times `group` against a query's own: no division.
                    query, key = (number(jnp.int32, (GROUP, KEYS), i) for i in (0, 1))
                    bound = there * group + begin + query
                    scores = jnp.where((key + (first + i) * KEYS) * group <= bound, scores, -jnp.inf)
                higher = jnp.maximum(most, scores.max(axis=1) * scale)
                fade = jnp.exp2(most - higher)
                p = jnp.exp2(scores * scale - lax.broadcast_in_dim(higher, scores.shape, [0]))
                acc *= lax.broadcast_in_dim(fade, acc.shape, [0])
                total *= fade
                p16 = p.astype(q.dtype)
                total += p.sum(axis=1)
                acc, total, higher, p16 = lax.optimization_barrier((acc, total, higher, p16))
                gpu.barrier_arrive(turn)
                gpu.barrier_wait(v_there.at[slot])
                gpu.barrier_wait(turn)

                def await_following() -> None:
                    following = i + 1

                    @pl.when(following < steps)
                    def _() -> None:
                        gpu.barrier_wait(k_there.at[lax.rem(following, jnp.int32(STAGES))])

                acc = mixed(acc, p16, v_smem, slot, interpret, await_following)
                gpu.barrier_arrive(v_gone.at[slot])
                return acc, higher, total

            carry = acc, most, total
            carry = lax.fori_loop(0, whole, functools.partial(step, masked=False), carry)
            carry = lax.fori_loop(whole, steps, functools.partial(step, masked=True), carry)
            acc, most, total = carry
            pl.when(who == 0)(pass_turn)
            some = jnp.maximum(total, 1e-37)  # of no keys: nothing, of very little weight
            acc /= lax.broadcast_in_dim(some, acc.shape, [0])
            mine[...] = acc.astype(q.dtype)
            my_weight[...] = most / LOG2_E + jnp.log(some)
            gpu.commit_smem()
            gpu.copy_smem_to_gmem(mine, out_ref.at[part, row, head, pl.ds(begin, GROUP)])
            gpu.copy_smem_to_gmem(my_weight, weight_ref.at[part, row, head, pl.ds(begin, GROUP)])
            gpu.wait_smem_to_gmem(0)

        @pl.when(who == 2)
        def _() -> None:
            gpu.set_max_registers(40, action="decrease")

            def fetch(i: jax.Array, what: str) -> None:
                keys = row, pl.ds((first + i) * KEYS, KEYS), head
                slot = lax.rem(i, jnp.int32(STAGES))
                to, there, kept = (k_smem, k_there, k_ref) if what == "k" else (v_smem, v_there, v_ref)
                gpu.copy_gmem_to_smem(kept.at[keys], to.at[slot], there.at[slot])

            @pl.loop(0, jnp.minimum(steps, STAGES))
            def _(i: jax.Array) -> None:
                fetch(i, "k")
                fetch(i, "v")

            @pl.loop(STAGES, jnp.maximum(steps, STAGES))
            def _(i: jax.Array) -> None:
                slot = lax.rem(i, jnp.int32(STAGES))
                gpu.barrier_wait(k_gone.at[slot])
                fetch(i, "k")
                gpu.barrier_wait(v_gone.at[slot])
                fetch(i, "v")

    def entry(*refs) -> None:  # noqa: ANN002
        of_heads = functools.partial(tiled, q.dtype)
        pl.run_scoped(
            lambda *scoped: kernel(*refs, scoped),
            [
                of_heads(2, GROUP, size),
                of_heads(STAGES, KEYS, size),
                of_heads(STAGES, KEYS, size),
                gpu.SMEM((2, GROUP), jnp.float32),
            ],
            (
                gpu.Barrier(num_barriers=STAGES),
                gpu.Barrier(num_barriers=STAGES),
                gpu.Barrier(num_barriers=2),
            ),
            (gpu.Barrier(num_arrivals=2, num_barriers=STAGES),) * 2,
            gpu.Barrier(num_arrivals=2),
            collective_axes="who",
        )

    return gpu.kernel(
        entry,
        out_type=[
            jax.ShapeDtypeStruct((parts, *q.shape), q.dtype),
            jax.ShapeDtypeStruct((parts, *q.shape[:-1]), jnp.float32),
        ],
        # Side by side run blocks of one part, which read the same keys.
        grid=(batch, kv, parts, tiles),
        grid_names=("row", "head", "part", "tile"),
        num_threads=3,
        thread_name="who",
        compiler_params=gpu.CompilerParams(approx_math=True),
        interpret=interpret,
    )(q, k, v, length)
