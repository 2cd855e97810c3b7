"""A product of many rows and what follows it, in one kernel (GPUs of Hopper's kind).

Of gate and up, or of the tower's first map, several hundred megabytes a tick are written only for the
next kernel to read them, take SiLU or GELU, and write again. Here that is done while they are in
registers. Two groups of warps multiply 64 rows each by 256 columns, a third fetches; two blocks of the
device, side by side in rows, fetch each other's half of the columns; each block goes on from tile to
tile, so that the next is fetched while one is written. After jax's own kernel for a product
(`jax.experimental.pallas.ops.gpu.hopper_matmul_mgpu`, Apache 2.0).
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from livecc_jax.kernels.activations import quick_gelu
from livecc_jax.kernels.devices import MULTIPROCESSORS, single_gpu
from livecc_jax.kernels.fused_norm import Between
from livecc_jax.kernels.gpu import (
    GROUP,
    mosaic,
    multiplies,
    tiled,
)

BLOCK = 2 * GROUP  # rows of a block of the device
CLUSTER = 2  # blocks that fetch columns together
WIDE = 256  # columns of a tile
HALF = WIDE // 2  # of which a gate has one and what it lets through the other
STEP = 64  # values of a row at a time
STAGES = 4  # of them fetched ahead
NEAR = 8  # tiles of rows that go through the columns together: what a round fetches is in the cache
LEAST_ROWS = 1024  # below, tiles of rows and rounds of them are too few to be full


def usable(rows: int, size: int, outputs: int, dtype: Any) -> bool:
    """Whether the kernel serves so many rows of so many values here, with this jax.

    `outputs` are columns in all, those of a gate as well.
    """
    return (
        single_gpu()
        and dtype in (jnp.bfloat16, jnp.float16)
        and rows >= LEAST_ROWS
        and rows % 8 == 0
        and size % STEP == 0
        and outputs % WIDE == 0
        and multiplies()
    )


# A function of its own in the program, the same for every layer: else each would be compiled.
@functools.partial(jax.jit, static_argnames=("between", "interpret"))
def times(
    x: jax.Array,
    weights: jax.Array,
    bias: jax.Array | None = None,
    *,
    between: Between,
    interpret: Any = None,
) -> jax.Array:
    """A linear map of rows, and what follows it, on sums in float32.

    Args:
        x: [M, K]; M a multiple of 8 (interpreted, of 256), K of 64.
        weights: `gate`: [2, F, K], F a multiple of 128; `gelu`: [K, F], F a multiple of 256.
        bias: [F], added to `gelu`'s product, or None.
        between: `gate`, the first of two goes through SiLU and multiplies the second; `gelu`, each
            value goes through `activations.quick_gelu`.
        interpret: run the kernel's meaning instead, on any device.

    Returns:
        [M, F] in x's dtype.
    """
    from jax.experimental import pallas as pl

    gpu = mosaic()
    gated = between == "gate"
    rows, size = x.shape
    outputs = weights.shape[1]
    each = HALF if gated else WIDE  # outputs of a tile
    beside = 1 if interpret else CLUSTER  # the interpreter has no barrier of a cluster
    steps, tall = size // STEP, beside * BLOCK
    down, over = -(-rows // tall), outputs // each

    def place(number: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Of a tile, its rows' and columns' numbers."""
        near = min(NEAR, down)
        band = lax.div(number, jnp.int32(near * over))
        within = number - band * (near * over)
        high = jnp.minimum(near, down - band * near)
        return band * near + lax.rem(within, high), lax.div(within, high)

    def kernel(x_ref, w_ref, *refs_and_scoped) -> None:  # noqa: ANN001, ANN002
        *bias_ref, out_ref, scoped = refs_and_scoped
        (x_smem, w_smem, out_smem, *interpreted), there, gone = scoped
        who, cluster, rank = (lax.axis_index(name) for name in ("who", "clusters", "cluster"))
        mine = lax.div(down * over - cluster + (clusters - 1), jnp.int32(clusters))  # tiles

        def tile(t: jax.Array) -> tuple[jax.Array, jax.Array]:
            row, column = place(cluster + t * clusters)
            return row * tall + rank * BLOCK, column * each

        @pl.when(who < 2)
        def _() -> None:
            gpu.set_max_registers(232, action="increase")
            for slot in range(STAGES):
                gpu.barrier_arrive(gone.at[slot])

            def multiply(acc_ref, slot) -> None:  # noqa: ANN001
                of_mine = x_smem.at[slot, pl.ds(who * GROUP, GROUP)]
                columns = w_smem.at[slot]
                if interpret:
                    of_columns = columns[...].T if gated else columns[...]
                    acc_ref[...] += jnp.dot(
                        of_mine[...], of_columns, preferred_element_type=jnp.float32
                    )
                else:
                    gpu.wgmma(acc_ref, of_mine, columns.transpose((1, 0)) if gated else columns)

            def sums(acc_ref, began) -> jax.Array:  # noqa: ANN001
                if interpret:
                    acc_ref[...] = jnp.zeros((GROUP, WIDE), jnp.float32)
                first = lax.rem(began, jnp.int32(STAGES))
                gpu.barrier_wait(there.at[first])
                multiply(acc_ref, first)

                @pl.loop(1, steps)
                def _(i: jax.Array) -> None:
                    slot, before = (lax.rem(began + n, jnp.int32(STAGES)) for n in (i, i - 1))
                    gpu.barrier_wait(there.at[slot])
                    multiply(acc_ref, slot)
                    if not interpret:
                        gpu.wgmma_wait(1)
                    gpu.barrier_arrive(gone.at[before])

                out = acc_ref[...]
                gpu.barrier_arrive(gone.at[lax.rem(began + steps - 1, jnp.int32(STAGES))])
                return out

            @pl.loop(0, mine)
            def _(t: jax.Array) -> None:
                row, column = tile(t)
                of_tile = functools.partial(sums, began=t * steps)
                if interpret:
                    acc = of_tile(interpreted[0].at[who])
                else:
                    acc = pl.run_scoped(of_tile, gpu.ACC((GROUP, WIDE), jnp.float32))
                parts = acc[:, :HALF], acc[:, HALF:]
                if gated:
                    parts = (parts[0] * (1 / (1 + jnp.exp(-parts[0]))) * parts[1],)
                for i, y in enumerate(parts):
                    at = column + i * HALF
                    if bias_ref:
                        added = _across_columns(bias_ref[0].at[pl.ds(at, HALF)], interpret)
                        y = y + lax.broadcast_in_dim(added.astype(jnp.float32), y.shape, [1])
                    if not gated:
                        y = quick_gelu(y)
                    gpu.wait_smem_to_gmem(0, wait_read_only=True)
                    out_smem[who] = y.astype(x.dtype)
                    gpu.commit_smem()
                    to = pl.ds(row + who * GROUP, GROUP), pl.ds(at, HALF)
                    gpu.copy_smem_to_gmem(out_smem.at[who], out_ref.at[to])

            gpu.wait_smem_to_gmem(0)

        @pl.when(who == 2)
        def _() -> None:
            gpu.set_max_registers(40, action="decrease")

            @pl.loop(0, mine)
            def _(t: jax.Array) -> None:
                row, column = tile(t)

                @pl.loop(0, steps)
                def _(i: jax.Array) -> None:
                    slot = lax.rem(t * steps + i, jnp.int32(STAGES))
                    along = pl.ds(i * STEP, STEP)
                    gpu.barrier_wait(gone.at[slot])
                    gpu.copy_gmem_to_smem(
                        x_ref.at[pl.ds(row, BLOCK), along], x_smem.at[slot], there.at[slot]
                    )
                    both = {"collective_axes": "cluster"} if beside > 1 else {}
                    if not gated:
                        columns = w_ref.at[along, pl.ds(column, WIDE)]
                        gpu.copy_gmem_to_smem(columns, w_smem.at[slot], there.at[slot], **both)
                        return
                    for part in range(2):
                        gpu.copy_gmem_to_smem(
                            w_ref.at[part, pl.ds(column, HALF), along],
                            w_smem.at[slot, pl.ds(part * HALF, HALF)],
                            there.at[slot],
                            **both,
                        )

            for slot in range(STAGES):  # a block ends when nobody has anything to do with it
                gpu.barrier_wait(gone.at[slot])

    def entry(*refs) -> None:  # noqa: ANN002
        of_rows = functools.partial(tiled, x.dtype)
        if beside > 1:
            gone = gpu.ClusterBarrier(collective_axes=("cluster",), num_arrivals=2, num_barriers=STAGES)
        else:
            gone = gpu.Barrier(num_arrivals=2, num_barriers=STAGES)
        columns = (WIDE, STEP) if gated else (STEP, WIDE)
        pl.run_scoped(
            lambda *scoped: kernel(*refs, scoped),
            [
                of_rows(STAGES, BLOCK, STEP),
                of_rows(STAGES, *columns),
                of_rows(2, GROUP, HALF),
                *([gpu.SMEM((2, GROUP, WIDE), jnp.float32)] if interpret else []),
            ],
            gpu.Barrier(num_arrivals=3 if gated else 2, num_barriers=STAGES),
            gone,
            collective_axes="who",
        )

    clusters = min(MULTIPROCESSORS // beside, down * over)
    return gpu.kernel(
        entry,
        out_type=jax.ShapeDtypeStruct((rows, outputs), x.dtype),
        grid=(clusters,),
        grid_names=("clusters",),
        cluster=(beside,),
        cluster_names=("cluster",),
        num_threads=3,
        thread_name="who",
        compiler_params=gpu.CompilerParams(approx_math=True),
        interpret=interpret,
    )(x, weights, *(() if bias is None else (bias,)))


def _across_columns(ref: Any, interpret: Any) -> jax.Array:
    """A vector in the device's memory, as the columns of products are in registers."""
    if interpret:
        return ref[...]
    gpu = mosaic()
    takes = inspect.signature(gpu.load).parameters["idx"]
    whole = ((),) if takes.default is inspect.Parameter.empty else ()  # jax 0.10 wants an index
    return gpu.load(ref, *whole, layout=gpu.Layout.WGMMA.reduce(0), optimized=False)
