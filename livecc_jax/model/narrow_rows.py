"""Inputs of a product in 8-bit floats, in one kernel (GPU): what comes before, scale and rounding.

Before comes a norm, or what stands between two products. Plain XLA takes two to four kernels for it,
and writes and reads between them what here stays in a block's cache: for the gate of many tokens that
is as long as a third of the product itself.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from livecc_jax.model.attention_layout import gpu_capability, layout_in_scope
from livecc_jax.model.attention_one import triton_of_pallas
from livecc_jax.model.layers import quick_gelu
from livecc_jax.model.product_one import EIGHT_BITS, Norm

E4M3 = jnp.float8_e4m3fn
LARGEST = float(jnp.finfo(E4M3).max)  # 448
SMALLEST = 1e-12  # a row's largest value, so that a row of zeros has a scale
STEP = 4096  # values at a time, at most
WARPS = 8

Between = Literal["gate", "gelu"]


class Raw(NamedTuple):
    """What a product of eight bits gives before it is scaled."""

    sums: jax.Array  # [M, *outputs]
    own: jax.Array  # float32 [M, 1], of each row
    scale: jax.Array  # float32 [*outputs]
    bias: jax.Array | None  # [*outputs]

    def scaled(self) -> jax.Array:
        """The outcome, [M, *outputs] in the dtype of the sums."""
        own = self.own.reshape(-1, *[1] * self.scale.ndim)
        y = self.sums.astype(jnp.float32) * own * self.scale
        return (y if self.bias is None else y + self.bias).astype(self.sums.dtype)


def usable() -> bool:
    """Whether the kernel serves here, with this jax."""
    layout = layout_in_scope(("batch", None))
    return (
        layout.platform == "gpu"
        and layout.mesh is None
        and gpu_capability() >= EIGHT_BITS
        and triton_of_pallas() is not None
    )


def narrow_rows(
    x: jax.Array | Raw,
    norm: Norm | None = None,
    between: Between | None = None,
    interpret: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Rows in 8-bit floats, each with a scale of its own.

    Args:
        x: [M, K]; or what another product gave, [M, 2, K] for a gate.
        norm: normalises each row first.
        between: `gate`, the first of two goes through SiLU and multiplies the second; `gelu`, each
            value goes through `layers.quick_gelu`.
        interpret: run the kernel's meaning instead, on any device.

    Returns:
        float8_e4m3fn [M, K], and float32 [M, 1] that they are to be multiplied by.
    """
    from jax.experimental import pallas as pl

    triton = triton_of_pallas()
    sums = x.sums.reshape(len(x.sums), -1) if isinstance(x, Raw) else x
    rows, given = sums.shape
    size = given // 2 if between == "gate" else given
    step = min(STEP, 1 << (size - 1).bit_length())
    pieces = -(-size // step)

    along = {"sums": (sums, pl.BlockSpec((None, given), lambda i: (i, 0)))}
    if isinstance(x, Raw):
        along["own"] = x.own[:, 0], pl.BlockSpec((None,), lambda i: (i,))
        for name in ("scale", "bias"):
            if (wide := getattr(x, name)) is not None:
                along[name] = wide.reshape(-1), pl.BlockSpec((given,), lambda i: (0,))
    if norm is not None:
        along["norm"] = norm.scale, pl.BlockSpec((size,), lambda i: (0,))

    def kernel(refs: dict, values_ref, scale_ref) -> None:  # noqa: ANN001
        def piece(i: jax.Array) -> tuple[jax.Array, ...]:
            at = i * step + jnp.arange(step)
            real = at < size

            def part(name: str, at: jax.Array) -> jax.Array:
                return triton.load(refs[name].at[at], mask=real, other=0).astype(jnp.float32)

            def outcome(at: jax.Array) -> jax.Array:
                y = part("sums", at)
                if "own" in refs:
                    y = y * refs["own"][...] * part("scale", at)
                return y + part("bias", at) if "bias" in refs else y

            first = y = outcome(at)
            if between == "gate":
                y = first * jax.nn.sigmoid(first) * outcome(at + size)
            elif between == "gelu":
                y = jnp.where(real, quick_gelu(first), 0)
            elif norm is not None:
                # What the norm divides by is one number of the row, and goes into the scale alone.
                y = first * part("norm", at)
            return y, at, real, first

        def look(i: jax.Array, carry: tuple) -> tuple:
            most, squares = carry
            y, _, _, first = piece(i)
            return jnp.maximum(most, jnp.abs(y)), squares + first * first if norm else squares

        nothing = jnp.zeros((step,), jnp.float32)
        most, squares = jax.lax.fori_loop(0, pieces, look, (nothing, nothing))
        scale = jnp.maximum(most.max(), SMALLEST) / LARGEST

        def write(i: jax.Array, carry: None) -> None:
            y, at, real, _ = piece(i)
            triton.store(values_ref.at[at], (y / scale).astype(E4M3), mask=real)
            return carry

        jax.lax.fori_loop(0, pieces, write, None)
        scale_ref[...] = scale * jax.lax.rsqrt(squares.sum() / size + norm.eps) if norm else scale

    values, scale = pl.pallas_call(
        kernel,
        grid=(rows,),
        in_specs=[{name: spec for name, (_, spec) in along.items()}],
        out_specs=[
            pl.BlockSpec((None, size), lambda i: (i, 0)),
            pl.BlockSpec((None,), lambda i: (i,)),
        ],
        out_shape=[
            jax.ShapeDtypeStruct((rows, size), E4M3),
            jax.ShapeDtypeStruct((rows,), jnp.float32),
        ],
        compiler_params=triton.CompilerParams(num_warps=WARPS, num_stages=2),
        interpret=interpret,
        name="narrow_rows",
    )({name: operand for name, (operand, _) in along.items()})
    return values, scale[:, None]
