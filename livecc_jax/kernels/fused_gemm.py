"""A matrix product of many rows (GEMM) fused with its gate or GELU, by a Mosaic GPU kernel for Hopper.

The products of gate and up, and of the tower's first linear map, are several hundred megabytes for each
engine step, which would be written only for the next kernel to read them, apply SiLU or GELU, and write
the result. Here that is done while they are in registers.

Two warp groups multiply 64 rows each by 256 columns, while a third fetches. Two blocks that are
neighbours in rows form a cluster, and fetch half of the columns for each other. Blocks are persistent:
each goes from tile to tile, so that the next one is fetched while one is written. After JAX's own
kernel for a product (`jax.experimental.pallas.ops.gpu.hopper_matmul_mgpu`, Apache 2.0).

`is_supported` says where the kernel serves; `fused_gemm_reference` computes the same in plain XLA.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from livecc_jax.kernels.activations import quick_gelu
from livecc_jax.kernels.devices import multiprocessors, single_gpu
from livecc_jax.kernels.disabled import enabled
from livecc_jax.kernels.fused_norm import Epilogue
from livecc_jax.kernels.gpu import GROUP, has_mosaic, load_columns, mosaic, mosaic_call, tiled_smem
from livecc_jax.kernels.interpret import interpreting

BLOCK_ROWS = 2 * GROUP  # rows of a block
CLUSTER = 2  # blocks that fetch columns together
TILE_COLUMNS = 256  # columns of a tile
HALF = TILE_COLUMNS // 2  # columns of the gate, and of what it multiplies, in a tile
STEP = 64  # values of a row that a block multiplies at a time
STAGES = 4  # steps in flight
MIN_ROWS = 1024  # with fewer, too many multiprocessors are idle, and cuBLAS is faster


class Tuning(NamedTuple):
    """How tiles are assigned to blocks."""

    blocks: int | None = None  # blocks that run at once; None for `devices.multiprocessors`
    # Row tiles that go through the columns together, so that what they share stays in the cache.
    band: int = 8


DEFAULT_TUNING = Tuning()


def is_supported(rows: int, size: int, outputs: int, dtype: Any) -> bool:
    """Whether the kernel serves, and pays, on the device in scope.

    Args:
        rows: Number of rows of the input.
        size: Number of values of a row.
        outputs: Number of columns of the product, a gate's included.
        dtype: Data type of the input and the weights.
    """
    return (
        enabled("fused_gemm")
        and single_gpu()
        and (dtype in (jnp.bfloat16, jnp.float16) or (interpreting() and dtype == jnp.float32))
        and (rows >= MIN_ROWS or interpreting())
        and rows % 8 == 0
        and size % STEP == 0
        and outputs % TILE_COLUMNS == 0
        and has_mosaic()
    )


def fused_gemm_reference(
    x: jax.Array, weights: jax.Array, bias: jax.Array | None = None, *, epilogue: Epilogue
) -> jax.Array:
    """What `fused_gemm` computes, step by step in float32."""
    x32, weights = x.astype(jnp.float32), weights.astype(jnp.float32)
    if epilogue == "gate":
        gate, up = jnp.einsum("mk,gfk->gmf", x32, weights)
        return (jax.nn.silu(gate) * up).astype(x.dtype)
    y = x32 @ weights
    return quick_gelu(y if bias is None else y + bias.astype(jnp.float32)).astype(x.dtype)


# Jitted, so that the program has one function for all layers, which is compiled once.
@functools.partial(jax.jit, static_argnames=("epilogue", "tuning"))
def fused_gemm(
    x: jax.Array,
    weights: jax.Array,
    bias: jax.Array | None = None,
    *,
    epilogue: Epilogue,
    tuning: Tuning = DEFAULT_TUNING,
) -> jax.Array:
    """A matrix product and its epilogue; sums in float32.

    Args:
        x: [M, K], M a multiple of 8 and K of 64.
        weights: [2, F, K] for `gate`, F a multiple of 128; [K, F] for `gelu`, F a multiple of 256.
        bias: [F], added to the product of `gelu`, or None.
        epilogue: `gate`, where the first of two products goes through SiLU and multiplies the second;
            or `gelu`, where each value goes through `activations.quick_gelu`.
        tuning: How tiles are assigned to blocks.

    Returns:
        [M, F] in x's dtype.
    """
    from jax.experimental import pallas as pl

    gpu = mosaic()
    interpret = interpreting()
    gated = epilogue == "gate"
    count = len(x)
    if interpret:  # the interpreter reads and writes whole blocks only
        x = jnp.pad(x, ((0, -count % BLOCK_ROWS), (0, 0)))
    rows, size = x.shape
    outputs = weights.shape[1]
    tile_outputs = HALF if gated else TILE_COLUMNS
    cluster_size = 1 if interpret else CLUSTER  # the interpreter has no cluster barrier
    steps, tile_rows = size // STEP, cluster_size * BLOCK_ROWS
    row_tiles, column_tiles = -(-rows // tile_rows), outputs // tile_outputs

    def tile_index(number: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The row and the column of a tile in the order in which tiles are computed."""
        band_rows = min(tuning.band, row_tiles)
        band = lax.div(number, jnp.int32(band_rows * column_tiles))
        number_in_band = number - band * (band_rows * column_tiles)
        height = jnp.minimum(band_rows, row_tiles - band * band_rows)
        row = band * band_rows + lax.rem(number_in_band, height)
        return row, lax.div(number_in_band, height)

    def kernel(x_ref, w_ref, *refs_and_scratch) -> None:  # noqa: ANN001, ANN002
        *bias_ref, out_ref, scratch = refs_and_scratch
        (x_smem, w_smem, out_smem, *interpreted_acc), ready, free = scratch
        warp_group, cluster, rank = (
            lax.axis_index(name) for name in ("warp_group", "clusters", "cluster")
        )
        own_tiles = lax.div(row_tiles * column_tiles - cluster + (clusters - 1), jnp.int32(clusters))

        def tile_origin(t: jax.Array) -> tuple[jax.Array, jax.Array]:
            row, column = tile_index(cluster + t * clusters)
            return row * tile_rows + rank * BLOCK_ROWS, column * tile_outputs

        @pl.when(warp_group < 2)
        def _() -> None:
            gpu.set_max_registers(232, action="increase")
            for slot in range(STAGES):
                gpu.barrier_arrive(free.at[slot])

            def multiply(acc_ref, slot) -> None:  # noqa: ANN001
                own_rows = x_smem.at[slot, pl.ds(warp_group * GROUP, GROUP)]
                columns = w_smem.at[slot]
                if interpret:
                    matrix = columns[...].T if gated else columns[...]
                    acc_ref[...] += jnp.dot(own_rows[...], matrix, preferred_element_type=jnp.float32)
                else:
                    gpu.wgmma(acc_ref, own_rows, columns.transpose((1, 0)) if gated else columns)

            def multiply_tile(acc_ref, first_step) -> jax.Array:  # noqa: ANN001
                if interpret:
                    acc_ref[...] = jnp.zeros((GROUP, TILE_COLUMNS), jnp.float32)
                first_slot = lax.rem(first_step, jnp.int32(STAGES))
                gpu.barrier_wait(ready.at[first_slot])
                multiply(acc_ref, first_slot)

                @pl.loop(1, steps)
                def _(i: jax.Array) -> None:
                    slot, last_slot = (lax.rem(first_step + n, jnp.int32(STAGES)) for n in (i, i - 1))
                    gpu.barrier_wait(ready.at[slot])
                    multiply(acc_ref, slot)
                    if not interpret:
                        gpu.wgmma_wait(1)
                    gpu.barrier_arrive(free.at[last_slot])

                out = acc_ref[...]
                gpu.barrier_arrive(free.at[lax.rem(first_step + steps - 1, jnp.int32(STAGES))])
                return out

            @pl.loop(0, own_tiles)
            def _(t: jax.Array) -> None:
                row, column = tile_origin(t)
                sums = functools.partial(multiply_tile, first_step=t * steps)
                if interpret:
                    acc = sums(interpreted_acc[0].at[warp_group])
                else:
                    acc = pl.run_scoped(sums, gpu.ACC((GROUP, TILE_COLUMNS), jnp.float32))
                halves = acc[:, :HALF], acc[:, HALF:]
                if gated:
                    gate, up = halves
                    halves = (gate * (1 / (1 + jnp.exp(-gate))) * up,)
                for i, y in enumerate(halves):
                    columns = pl.ds(column + i * HALF, HALF)
                    if bias_ref:
                        bias = load_columns(bias_ref[0].at[columns])
                        y = y + lax.broadcast_in_dim(bias.astype(jnp.float32), y.shape, [1])
                    if not gated:
                        y = quick_gelu(y)
                    gpu.wait_smem_to_gmem(0, wait_read_only=True)
                    out_smem[warp_group] = y.astype(x.dtype)
                    gpu.commit_smem()
                    own_rows = pl.ds(row + warp_group * GROUP, GROUP)
                    gpu.copy_smem_to_gmem(out_smem.at[warp_group], out_ref.at[own_rows, columns])

            gpu.wait_smem_to_gmem(0)

        @pl.when(warp_group == 2)
        def _() -> None:
            gpu.set_max_registers(40, action="decrease")

            @pl.loop(0, own_tiles)
            def _(t: jax.Array) -> None:
                row, column = tile_origin(t)

                @pl.loop(0, steps)
                def _(i: jax.Array) -> None:
                    slot = lax.rem(t * steps + i, jnp.int32(STAGES))
                    inputs = pl.ds(i * STEP, STEP)
                    gpu.barrier_wait(free.at[slot])
                    gpu.copy_gmem_to_smem(
                        x_ref.at[pl.ds(row, BLOCK_ROWS), inputs], x_smem.at[slot], ready.at[slot]
                    )
                    shared = {"collective_axes": "cluster"} if cluster_size > 1 else {}
                    if not gated:
                        columns = w_ref.at[inputs, pl.ds(column, TILE_COLUMNS)]
                        gpu.copy_gmem_to_smem(columns, w_smem.at[slot], ready.at[slot], **shared)
                        return
                    for half in range(2):
                        gpu.copy_gmem_to_smem(
                            w_ref.at[half, pl.ds(column, HALF), inputs],
                            w_smem.at[slot, pl.ds(half * HALF, HALF)],
                            ready.at[slot],
                            **shared,
                        )

            for slot in range(STAGES):  # a block must not end while its cluster uses its memory
                gpu.barrier_wait(free.at[slot])

    def entry(*refs) -> None:  # noqa: ANN002
        smem = functools.partial(tiled_smem, x.dtype)
        if cluster_size > 1:
            free = gpu.ClusterBarrier(collective_axes=("cluster",), num_arrivals=2, num_barriers=STAGES)
        else:
            free = gpu.Barrier(num_arrivals=2, num_barriers=STAGES)
        columns = (TILE_COLUMNS, STEP) if gated else (STEP, TILE_COLUMNS)
        pl.run_scoped(
            lambda *scratch: kernel(*refs, scratch),
            [
                smem(STAGES, BLOCK_ROWS, STEP),
                smem(STAGES, *columns),
                smem(2, GROUP, HALF),
                *([gpu.SMEM((2, GROUP, TILE_COLUMNS), jnp.float32)] if interpret else []),
            ],
            gpu.Barrier(num_arrivals=3 if gated else 2, num_barriers=STAGES),
            free,
            collective_axes="warp_group",
        )

    clusters = min((tuning.blocks or multiprocessors()) // cluster_size, row_tiles * column_tiles)
    out = mosaic_call(
        entry,
        grid={"clusters": clusters},
        cluster=cluster_size,
        warp_groups=3,
        out_type=jax.ShapeDtypeStruct((rows, outputs), x.dtype),
    )(x, weights, *(() if bias is None else (bias,)))
    return out[:count] if interpret else out
