"""One vector through a linear map, with what comes before and after it, in one kernel (GPU).

Decoding one stream spends its time on reading weights, and between the products on small kernels whose
work is nothing beside their starting. Here a product normalises its input on the way in, and adds a
bias or a residual, or gates one half of its outputs by the other, on the way out. The matrix is read
once, a few rows to a block of the device; one of 8-bit numbers is widened where it is used.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from livecc_jax.kernels.devices import FP8_CONVERSION, gpu_capability, single_gpu
from livecc_jax.kernels.gpu import triton_of_pallas
from livecc_jax.kernels.norms import RmsNorm

MOST = 8  # the most rows of a matrix that a block takes, of both halves
STEPS = (512, 256, 128)  # numbers of a row at a time


STAGES = 4  # loads under way


class Tuning(NamedTuple):
    """How the kernel lies on the device."""

    rows: int  # of the matrix that one block takes
    warps: int


def tuned(eight: bool, norm: bool, gated: bool) -> Tuning:
    """The fastest on an H100, of one, two and four rows and warps, over the layers of 2B and 7B."""
    if eight:
        return Tuning(4, 2) if norm else Tuning(1, 2)
    return Tuning(1, 2) if norm and not gated else Tuning(1, 1)


def usable(outputs: int, inputs: int, eight: bool = False) -> bool:
    """Whether the kernel serves here, with this jax, for a matrix of this shape (and eight bits)."""
    return (
        single_gpu()
        and outputs % MOST == 0
        and inputs % STEPS[-1] == 0
        and (not eight or gpu_capability() >= FP8_CONVERSION)
        and triton_of_pallas() is not None
    )


def times(
    x: jax.Array,
    matrix: jax.Array,
    *,
    norm: RmsNorm | None = None,
    scale: jax.Array | None = None,
    bias: jax.Array | None = None,
    gated: bool = False,
    add: jax.Array | None = None,
    dtype: Any = None,
    tuning: Tuning | None = None,
    interpret: bool = False,
) -> jax.Array:
    """matrix . norm(x) * scale + bias, gated, + add; sums in float32.

    Args:
        x: [K].
        matrix: [N, K], of x's dtype or of eight bits.
        norm: of x.
        scale: float32 [N], of each row of the matrix.
        bias: [N].
        gated: the first half of the outputs through SiLU, times the second half.
        add: [N], or half of it if gated.
        dtype: of the outputs; x's by default.
        tuning: another than `tuned` gives.
        interpret: run the kernel's meaning instead, on any device.

    Returns:
        [N], or half of it if gated.
    """
    from jax.experimental import pallas as pl

    size = len(x)
    step = next(n for n in STEPS if size % n == 0)
    halves = 2 if gated else 1
    outputs = len(matrix) // halves
    eight = matrix.dtype.itemsize == 1
    rows, warps = tuning or tuned(eight, norm is not None, gated)
    blocks = outputs // rows

    whole = pl.BlockSpec((size,), lambda i: (0,))
    by_row = [pl.BlockSpec((rows,), lambda i, at=half * blocks: (i + at,)) for half in range(halves)]
    matrices = [
        pl.BlockSpec((rows, size), lambda i, at=half * blocks: (i + at, 0)) for half in range(halves)
    ]
    given = {
        "x": (x, whole),
        "matrix": ([matrix] * halves, matrices),
        "norm": None if norm is None else (norm.scale, whole),
        "scale": None if scale is None else ([scale] * halves, by_row),
        "bias": None if bias is None else ([bias] * halves, by_row),
        "add": None if add is None else (add, by_row[0]),
    }
    given = {name: pair for name, pair in given.items() if pair is not None}

    def kernel(refs: dict, out_ref) -> None:  # noqa: ANN001
        def along(i: jax.Array, carry: tuple) -> tuple:
            totals, squares = carry
            here = pl.ds(i * step, step)
            part = refs["x"][here].astype(jnp.float32)
            if norm is not None:
                # What the norm divides by is one number, and is divided by at the end.
                squares = squares + part * part
                part = part * refs["norm"][here].astype(jnp.float32)
            found = (ref[:, here].astype(jnp.float32) for ref in refs["matrix"])
            return [total + some * part for total, some in zip(totals, found)], squares

        none = [jnp.zeros((rows, step), jnp.float32)] * halves
        totals, squares = jax.lax.fori_loop(
            0, size // step, along, (none, jnp.zeros((step,), jnp.float32))
        )
        y = [total.sum(axis=1) for total in totals]
        if norm is not None:
            y = [part * jax.lax.rsqrt(squares.sum() / size + norm.eps) for part in y]
        if scale is not None:
            y = [part * ref[...] for part, ref in zip(y, refs["scale"])]
        if bias is not None:
            y = [part + ref[...].astype(jnp.float32) for part, ref in zip(y, refs["bias"])]
        out = y[0] * jax.nn.sigmoid(y[0]) * y[1] if gated else y[0]
        if add is not None:
            out = out + refs["add"][...].astype(jnp.float32)
        out_ref[...] = out.astype(out_ref.dtype)

    return pl.pallas_call(
        kernel,
        grid=(blocks,),
        in_specs=[{name: spec for name, (_, spec) in given.items()}],
        out_specs=pl.BlockSpec((rows,), lambda i: (i,)),
        out_shape=jax.ShapeDtypeStruct((outputs,), dtype or x.dtype),
        compiler_params=triton_of_pallas().CompilerParams(num_warps=warps, num_stages=STAGES),
        interpret=interpret,
        name="product_one",
    )({name: operand for name, (operand, _) in given.items()})
