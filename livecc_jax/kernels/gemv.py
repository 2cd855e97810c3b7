"""A matrix times one vector (GEMV), fused with the norm before it and what follows it, by Triton.

Decoding one stream spends its time on reading weights and, between the products, on small kernels that
take longer to start than to run. Here a product normalizes its input on the way in, and adds a bias or
a residual, or gates one half of its outputs by the other, on the way out. The matrix is read once, a
few rows by each block; one of 8-bit numbers is converted where it is used.

`is_supported` says where the kernel serves; `gemv_reference` computes the same in plain XLA.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from livecc_jax.kernels.devices import converts_e4m3, single_gpu
from livecc_jax.kernels.disabled import enabled
from livecc_jax.kernels.gpu import has_triton, triton_call
from livecc_jax.kernels.norms import RmsNorm

MAX_BLOCK_ROWS = 8  # the most rows of a matrix that a block takes, of both halves of a gate
STEPS = (
    512,
    256,
    128,
)  # values of a row that a block multiplies at a time: the largest that divides it
STAGES = 4  # loads in flight


class Tuning(NamedTuple):
    """How the kernel is laid out on the device."""

    rows: int  # rows of the matrix that one block takes
    warps: int  # warps of a block


def default_tuning(quantized: bool, norm: bool, gated: bool) -> Tuning:
    """The fastest on an H100 of one, two and four rows and warps, over the layers of 2B and 7B."""
    if quantized:
        return Tuning(4, 2) if norm else Tuning(1, 2)
    return Tuning(1, 2) if norm and not gated else Tuning(1, 1)


def is_supported(outputs: int, inputs: int, quantized: bool = False) -> bool:
    """Whether the kernel serves on the device in scope.

    Args:
        outputs: Number of rows of the matrix.
        inputs: Number of columns of the matrix.
        quantized: Whether the matrix is of 8-bit numbers.
    """
    return (
        enabled("gemv")
        and single_gpu()
        and outputs % MAX_BLOCK_ROWS == 0
        and inputs % STEPS[-1] == 0
        and (not quantized or converts_e4m3())
        and has_triton()
    )


def gemv_reference(
    x: jax.Array,
    matrix: jax.Array,
    *,
    norm: RmsNorm | None = None,
    scale: jax.Array | None = None,
    bias: jax.Array | None = None,
    gated: bool = False,
    residual: jax.Array | None = None,
    dtype: Any = None,
) -> jax.Array:
    """What `gemv` computes, step by step in float32."""
    x32 = x.astype(jnp.float32)
    x32 = x32 if norm is None else norm(x32)
    y = jnp.dot(matrix.astype(jnp.float32), x32, precision="highest")
    y = y if scale is None else y * scale
    y = y if bias is None else y + bias.astype(jnp.float32)
    if gated:
        gate, up = jnp.split(y, 2)
        y = jax.nn.silu(gate) * up
    y = y if residual is None else y + residual.astype(jnp.float32)
    return y.astype(dtype or x.dtype)


def gemv(
    x: jax.Array,
    matrix: jax.Array,
    *,
    norm: RmsNorm | None = None,
    scale: jax.Array | None = None,
    bias: jax.Array | None = None,
    gated: bool = False,
    residual: jax.Array | None = None,
    dtype: Any = None,
    tuning: Tuning | None = None,
) -> jax.Array:
    """(matrix @ norm(x)) * scale + bias, gated, + residual; sums in float32.

    Args:
        x: [K].
        matrix: [N, K], in x's dtype or of 8-bit numbers.
        norm: RMSNorm applied to x, over K values.
        scale: float32 [N], the scale of each row of a matrix of 8-bit numbers.
        bias: [N].
        gated: Whether the first half of the outputs goes through SiLU and multiplies the second half.
        residual: Added in the end, [N], or [N / 2] if gated.
        dtype: Data type of the outputs; x's by default.
        tuning: How the kernel is laid out; `default_tuning` by default.

    Returns:
        [N], or [N / 2] if gated.
    """
    from jax.experimental import pallas as pl

    size = len(x)
    step = next(n for n in STEPS if size % n == 0)
    halves = 2 if gated else 1
    outputs = len(matrix) // halves
    quantized = matrix.dtype.itemsize == 1
    rows, warps = tuning or default_tuning(quantized, norm is not None, gated)
    blocks = outputs // rows

    vector = pl.BlockSpec((size,), lambda i: (0,))
    block_outputs = [
        pl.BlockSpec((rows,), lambda i, first=half * blocks: (i + first,)) for half in range(halves)
    ]
    block_rows = [
        pl.BlockSpec((rows, size), lambda i, first=half * blocks: (i + first, 0))
        for half in range(halves)
    ]
    operands = {
        "x": (x, vector),
        "matrix": ([matrix] * halves, block_rows),
        "norm": None if norm is None else (norm.scale, vector),
        "scale": None if scale is None else ([scale] * halves, block_outputs),
        "bias": None if bias is None else ([bias] * halves, block_outputs),
        "residual": None if residual is None else (residual, block_outputs[0]),
    }
    operands = {name: operand for name, operand in operands.items() if operand is not None}

    def kernel(refs: dict, out_ref) -> None:  # noqa: ANN001
        def multiply_step(i: jax.Array, carry: tuple) -> tuple:
            totals, squares = carry
            columns = pl.ds(i * step, step)
            x_step = refs["x"][columns].astype(jnp.float32)
            if norm is not None:
                # The norm divides by one number, which can be done after the product.
                squares = squares + x_step * x_step
                x_step = x_step * refs["norm"][columns].astype(jnp.float32)
            weights = (ref[:, columns].astype(jnp.float32) for ref in refs["matrix"])
            return [total + w * x_step for total, w in zip(totals, weights)], squares

        zeros = [jnp.zeros((rows, step), jnp.float32)] * halves
        totals, squares = jax.lax.fori_loop(
            0, size // step, multiply_step, (zeros, jnp.zeros((step,), jnp.float32))
        )
        y = [total.sum(axis=1) for total in totals]
        if norm is not None:
            y = [half * jax.lax.rsqrt(squares.sum() / size + norm.eps) for half in y]
        if scale is not None:
            y = [half * ref[...] for half, ref in zip(y, refs["scale"])]
        if bias is not None:
            y = [half + ref[...].astype(jnp.float32) for half, ref in zip(y, refs["bias"])]
        out = y[0] * jax.nn.sigmoid(y[0]) * y[1] if gated else y[0]
        if residual is not None:
            out = out + refs["residual"][...].astype(jnp.float32)
        out_ref[...] = out.astype(out_ref.dtype)

    return triton_call(
        kernel,
        warps=warps,
        stages=STAGES,
        grid=(blocks,),
        in_specs=[{name: spec for name, (_, spec) in operands.items()}],
        out_specs=pl.BlockSpec((rows,), lambda i: (i,)),
        out_shape=jax.ShapeDtypeStruct((outputs,), dtype or x.dtype),
        name="gemv",
    )({name: operand for name, (operand, _) in operands.items()})
