"""A matrix of 8-bit numbers times one vector: what decoding one stream spends its time on.

The matrix is read once, a few rows to a block of the device, and widened where it is used; anything
that widens it in memory first reads and writes several times as much.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from livecc_jax.model.attention_layout import layout_in_scope
from livecc_jax.model.attention_one import triton_of_pallas

ROWS = 4  # of the matrix that one block takes
STEPS = (512, 256, 128)  # numbers of a row at a time


def times(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """matrix . x in float32.

    Args:
        x: [K], of any float dtype.
        matrix: [N, K], of eight bits.

    Returns:
        float32 [N].
    """
    layout = layout_in_scope(("batch", None))
    if layout.platform == "gpu" and layout.mesh is None and usable(matrix):
        return by_kernel(x, matrix)
    return jnp.dot(matrix.astype(jnp.float32), x.astype(jnp.float32))


def usable(matrix: jax.Array) -> bool:
    """Whether the kernel serves this shape, with this jax."""
    rows, size = matrix.shape
    return rows % ROWS == 0 and size % STEPS[-1] == 0 and triton_of_pallas() is not None


def by_kernel(x: jax.Array, matrix: jax.Array, interpret: bool = False) -> jax.Array:
    """`times` on a GPU; with `interpret` the kernel's meaning on any device."""
    from jax.experimental import pallas as pl

    rows, size = matrix.shape
    step = next(n for n in STEPS if size % n == 0)

    def kernel(x_ref, matrix_ref, out_ref) -> None:  # noqa: ANN001
        def add(i: jax.Array, total: jax.Array) -> jax.Array:
            here = pl.ds(i * step, step)
            return total + matrix_ref[:, here].astype(jnp.float32) * x_ref[here].astype(jnp.float32)

        total = jax.lax.fori_loop(0, size // step, add, jnp.zeros((ROWS, step), jnp.float32))
        out_ref[...] = total.sum(axis=1)

    return pl.pallas_call(
        kernel,
        grid=(rows // ROWS,),
        in_specs=[
            pl.BlockSpec((size,), lambda i: (0,)),
            pl.BlockSpec((ROWS, size), lambda i: (i, 0)),
        ],
        out_specs=pl.BlockSpec((ROWS,), lambda i: (i,)),
        out_shape=jax.ShapeDtypeStruct((rows,), jnp.float32),
        compiler_params=triton_of_pallas().CompilerParams(num_warps=2, num_stages=4),
        interpret=interpret,
    )(x, matrix)
