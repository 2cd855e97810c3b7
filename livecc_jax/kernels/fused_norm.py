"""What stands between matrix products of several rows, in one kernel (GPU).

A residual and a norm, or an activation, and where the next product is of eight bits its input's scale
and rounding. Plain XLA takes two to four kernels for it, and writes and reads between them what here
stays in registers: of many tokens in eight bits that is as long as a third of the products themselves.
"""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from livecc_jax.kernels.activations import quick_gelu
from livecc_jax.kernels.devices import FP8_CONVERSION, gpu_capability, single_gpu
from livecc_jax.kernels.gpu import triton_of_pallas
from livecc_jax.kernels.norms import LayerNorm, Norm

E4M3 = jnp.float8_e4m3fn
LARGEST = float(jnp.finfo(E4M3).max)  # 448
SMALLEST = 1e-12  # a row's largest value, so that a row of zeros has a scale
STEPS = (256, 512, 1024, 2048, 4096)  # values of a row in one array: powers of two, as rows are not
PIECES = 5  # arrays that a row is in, at most if that can be
VALUES = 8  # of an array that a thread has: 16 bytes

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


class Narrow(NamedTuple):
    """Rows in 8-bit floats, each with a scale of its own."""

    values: jax.Array  # float8_e4m3fn [..., K]
    scale: jax.Array  # float32 [..., 1], that they are to be multiplied by


class Sum(NamedTuple):
    """Rows x + y, not added yet: the next norm does so on the way."""

    x: jax.Array  # [..., D]
    y: jax.Array | Raw  # [..., D], or of as many rows

    def added(self) -> jax.Array:
        """[..., D]."""
        y = self.y.scaled() if isinstance(self.y, Raw) else self.y
        return self.x + y.reshape(self.x.shape)


def usable(eight: bool) -> bool:
    """Whether the kernel serves here, with this jax, for rows that are to have eight bits or not."""
    return (
        single_gpu()
        and (not eight or gpu_capability() >= FP8_CONVERSION)
        and triton_of_pallas() is not None
    )


def narrow_rows(
    x: jax.Array | Raw,
    norm: Norm | None = None,
    between: Between | None = None,
    interpret: bool = False,
) -> Narrow:
    """Rows in 8-bit floats.

    Args:
        x: [M, K]; or what another product gave, [M, 2, K] for a gate.
        norm: normalises each row first.
        between: `gate`, the first of two goes through SiLU and multiplies the second; `gelu`, each
            value goes through `activations.quick_gelu`.
        interpret: run the kernel's meaning instead, on any device.

    Returns:
        [M, K].
    """
    return _in_one_kernel(None, x, norm, between, True, "narrow_rows", interpret)[1]


def add_and_norm(
    rows: Sum, norm: Norm, eight: bool, interpret: bool = False
) -> tuple[jax.Array, jax.Array | Narrow]:
    """A sum of rows, and the sum normed.

    Args:
        rows: [..., D].
        norm: of D values.
        eight: whether the second outcome is to be of eight bits.
        interpret: run the kernel's meaning instead, on any device.

    Returns:
        ([..., D], [..., D] in its dtype or `Narrow`).
    """
    x, y = rows
    y = y if isinstance(y, Raw) else y.reshape(-1, y.shape[-1])
    flat = x.reshape(-1, x.shape[-1])
    total, out = _in_one_kernel(flat, y, norm, None, eight, "add_and_norm", interpret)
    return total.reshape(x.shape), jax.tree.map(lambda a: a.reshape(*x.shape[:-1], -1), out)


def _in_one_kernel(
    add: jax.Array | None,
    x: jax.Array | Raw,
    norm: Norm | None,
    between: Between | None,
    eight: bool,
    name: str,
    interpret: bool,
) -> tuple[jax.Array | None, jax.Array | Narrow]:
    """x [M, K], + add [M, K] if there is any, normed: (the sum, what is made of it)."""
    from jax.experimental import pallas as pl

    triton = triton_of_pallas()
    sums = x.sums.reshape(len(x.sums), -1) if isinstance(x, Raw) else x
    rows, given = sums.shape
    size = given // 2 if between == "gate" else given
    step = next((n for n in STEPS if n * PIECES >= size), STEPS[-1])

    def of_row(wide: int) -> Any:
        return pl.BlockSpec((None, wide), lambda i: (i, 0))

    of_one = pl.BlockSpec((None,), lambda i: (i,))
    along = {"sums": (sums, of_row(given))}
    if isinstance(x, Raw):
        along["own"] = x.own[:, 0], of_one
    if add is not None:
        along["add"] = add, of_row(size)
    weights = {"scale": x.scale, "bias": x.bias} if isinstance(x, Raw) else {}
    for key, operand in weights.items():
        if operand is not None:
            along[key] = operand.reshape(-1), pl.BlockSpec((given,), lambda i: (0,))
    of_norm = pl.BlockSpec((size,), lambda i: (0,))
    if isinstance(norm, LayerNorm) and norm.layer is not None:
        of_norm = pl.BlockSpec((None, size), lambda i: (norm.layer, 0))
    if norm is not None:
        along["norm"] = norm.scale, of_norm
    if isinstance(norm, LayerNorm):
        along["shift"] = norm.bias, of_norm

    def kernel(refs: dict, outs: dict) -> None:
        places = [begin + jnp.arange(step) for begin in range(0, size, step)]
        reals = [at < size for at in places]

        def part(key: str, at: jax.Array, real: jax.Array) -> jax.Array:
            return triton.load(refs[key].at[at], mask=real, other=0).astype(jnp.float32)

        def product(at: jax.Array, real: jax.Array) -> jax.Array:
            y = part("sums", at, real)
            if "own" in refs:
                y = y * refs["own"][...] * part("scale", at, real)
            return y + part("bias", at, real) if "bias" in refs else y

        def outcome(at: jax.Array, real: jax.Array) -> jax.Array:
            y = product(at, real)
            if between == "gate":
                y = y * jax.nn.sigmoid(y) * product(at + size, real)
            elif between == "gelu":
                y = jnp.where(real, quick_gelu(y), 0)
            if add is not None:
                # Rounded as it is where it is not added here.
                y = part("add", at, real) + y.astype(add.dtype).astype(jnp.float32)
                total = y.astype(add.dtype)
                triton.store(outs["sum"].at[at], total, mask=real)
                y = total.astype(jnp.float32)
            return y

        # All of a row at once in registers: nothing is read twice.
        values = [outcome(at, real) for at, real in zip(places, reals)]
        factor = 1.0  # one number of the row, of which only the scale has to know
        if isinstance(norm, LayerNorm):
            mean = sum(y.sum() for y in values) / size
            values = [jnp.where(real, y - mean, 0) for y, real in zip(values, reals)]
        if norm is not None:
            squares = sum((y * y).sum() for y in values)
            factor = jax.lax.rsqrt(squares / size + norm.eps)
            scales = [part("norm", at, real) for at, real in zip(places, reals)]
            if isinstance(norm, LayerNorm):
                shifts = [part("shift", at, real) for at, real in zip(places, reals)]
                values = [y * factor * a + b for y, a, b in zip(values, scales, shifts)]
                factor = 1.0
            elif eight:
                values = [y * a for y, a in zip(values, scales)]
            else:
                values = [y * factor * a for y, a in zip(values, scales)]
        if eight:
            most = functools.reduce(jnp.maximum, map(jnp.abs, values))
            scale = jnp.maximum(most.max(), SMALLEST) / LARGEST
            values = [y / scale for y in values]
            outs["scale"][...] = scale * factor
        for y, at, real in zip(values, places, reals):
            triton.store(outs["values"].at[at], y.astype(outs["values"].dtype), mask=real)

    dtype = sums.dtype if add is None else add.dtype
    made = {"values": (jax.ShapeDtypeStruct((rows, size), E4M3 if eight else dtype), of_row(size))}
    if eight:
        made["scale"] = jax.ShapeDtypeStruct((rows,), jnp.float32), of_one
    if add is not None:
        made["sum"] = jax.ShapeDtypeStruct((rows, size), dtype), of_row(size)
    out = pl.pallas_call(
        kernel,
        grid=(rows,),
        in_specs=[{key: spec for key, (_, spec) in along.items()}],
        out_specs={key: spec for key, (_, spec) in made.items()},
        out_shape={key: shape for key, (shape, _) in made.items()},
        compiler_params=triton.CompilerParams(num_warps=step // VALUES // 32, num_stages=1),
        interpret=interpret,
        name=name,
    )({key: operand for key, (operand, _) in along.items()})
    values = Narrow(out["values"], out["scale"][:, None]) if eight else out["values"]
    return out.get("sum"), values
