"""What stands between two matrix products of several rows, in one kernel by Triton.

That is a residual and a norm, or an activation; and where the next product is in 8-bit floats, also the
scale and the rounding of its input. Plain XLA takes two to four kernels for it, and writes and reads
between them what here stays in registers.

`is_supported` says where the kernels serve; `quantize_rows_reference` and `add_and_norm_reference`
compute the same in plain XLA.
"""

from __future__ import annotations

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from livecc_jax.kernels.activations import quick_gelu
from livecc_jax.kernels.devices import converts_e4m3, single_gpu
from livecc_jax.kernels.disabled import enabled
from livecc_jax.kernels.gpu import has_triton, triton, triton_call
from livecc_jax.kernels.norms import LayerNorm, Norm
from livecc_jax.kernels.quantized import E4M3, E4M3_MAX, MIN_ABS_MAX, QuantizedArray, quantize_e4m3

CHUNKS = (256, 512, 1024, 2048, 4096)  # values of a chunk: a power of two, which rows are not
MAX_CHUNKS = 5  # chunks that a row is divided into, where the largest chunk allows it
THREAD_VALUES = 8  # values of a chunk that a thread holds: 16 bytes

# What follows a matrix product: `gate`, the first half of its outputs goes through SiLU and multiplies
# the second half; `gelu`, each output goes through `activations.quick_gelu`.
Epilogue = Literal["gate", "gelu"]


class UnscaledProduct(NamedTuple):
    """The result of a matrix product in 8-bit floats before its scales and bias are applied."""

    product: jax.Array  # [M, *outputs]
    row_scale: jax.Array  # float32 [M, 1], the scale of each row of the input
    scale: jax.Array  # float32 [*outputs], the scale of each output's weights
    bias: jax.Array | None  # [*outputs]

    def scaled(self) -> jax.Array:
        """Applies scales and bias: [M, *outputs] in the dtype of the product."""
        row_scale = self.row_scale.reshape(-1, *[1] * self.scale.ndim)
        y = self.product.astype(jnp.float32) * row_scale * self.scale
        return (y if self.bias is None else y + self.bias).astype(self.product.dtype)


class DeferredResidual(NamedTuple):
    """A residual stream x + y whose addition is left to the norm that follows."""

    x: jax.Array  # [..., D]
    y: jax.Array | UnscaledProduct  # [..., D], or [M, D] with as many rows

    def add(self) -> jax.Array:
        """Returns x + y, [..., D]."""
        y = self.y.scaled() if isinstance(self.y, UnscaledProduct) else self.y
        return self.x + y.reshape(self.x.shape)


def is_supported(quantized: bool) -> bool:
    """Whether the kernels serve on the device in scope.

    Args:
        quantized: Whether their result is to be in 8-bit floats.
    """
    return (
        enabled("fused_norm") and single_gpu() and (not quantized or converts_e4m3()) and has_triton()
    )


def quantize_rows_reference(
    x: jax.Array | UnscaledProduct, norm: Norm | None = None, epilogue: Epilogue | None = None
) -> QuantizedArray:
    """What `quantize_rows` computes, step by step."""
    y = x.scaled() if isinstance(x, UnscaledProduct) else x
    y = y if norm is None else norm(y)
    if epilogue == "gate":
        y = jax.nn.silu(y[:, 0]) * y[:, 1]
    elif epilogue == "gelu":
        y = quick_gelu(y)
    return quantize_e4m3(y)


def quantize_rows(
    x: jax.Array | UnscaledProduct, norm: Norm | None = None, epilogue: Epilogue | None = None
) -> QuantizedArray:
    """Rounds rows to 8-bit floats, after a norm or an epilogue.

    Args:
        x: [M, K], or the result of another product: [M, K], or [M, 2, K] for the epilogue `gate`.
        norm: Norm applied to each row first.
        epilogue: What is applied to the product.

    Returns:
        float8_e4m3fn [M, K] with a scale for each row.
    """
    return _call(None, x, norm, epilogue, True, "quantize_rows")[1]


def add_and_norm_reference(
    residual: DeferredResidual, norm: Norm, quantized: bool
) -> tuple[jax.Array, jax.Array | QuantizedArray]:
    """What `add_and_norm` computes, step by step."""
    total = residual.add()
    out = norm(total)
    return total, quantize_e4m3(out) if quantized else out


def add_and_norm(
    residual: DeferredResidual, norm: Norm, quantized: bool
) -> tuple[jax.Array, jax.Array | QuantizedArray]:
    """Adds a deferred residual and normalizes the sum.

    Args:
        residual: Of [..., D].
        norm: Norm over D values.
        quantized: Whether the normalized rows are rounded to 8-bit floats.

    Returns:
        The sum [..., D] and the normalized sum [..., D], in x's dtype or as a `QuantizedArray`.
    """
    x, y = residual
    y = y if isinstance(y, UnscaledProduct) else y.reshape(-1, y.shape[-1])
    rows = x.reshape(-1, x.shape[-1])
    total, out = _call(rows, y, norm, None, quantized, "add_and_norm")
    return total.reshape(x.shape), jax.tree.map(lambda a: a.reshape(*x.shape[:-1], -1), out)


def _call(
    residual: jax.Array | None,
    x: jax.Array | UnscaledProduct,
    norm: Norm | None,
    epilogue: Epilogue | None,
    quantized: bool,
    name: str,
) -> tuple[jax.Array | None, jax.Array | QuantizedArray]:
    """The kernel of both public functions, a row by each block.

    x is [M, K], and residual, if there is one, [M, K]. Returns the sum of both, or None without a
    residual, and what norm, epilogue and rounding make of it.
    """
    from jax.experimental import pallas as pl

    product = x.product.reshape(len(x.product), -1) if isinstance(x, UnscaledProduct) else x
    rows, width = product.shape
    size = width // 2 if epilogue == "gate" else width
    chunk = next((n for n in CHUNKS if n * MAX_CHUNKS >= size), CHUNKS[-1])

    def row_spec(width: int) -> Any:
        return pl.BlockSpec((None, width), lambda i: (i, 0))

    scalar_spec = pl.BlockSpec((None,), lambda i: (i,))
    operands = {"product": (product, row_spec(width))}
    if isinstance(x, UnscaledProduct):
        operands["row_scale"] = x.row_scale[:, 0], scalar_spec
    if residual is not None:
        operands["residual"] = residual, row_spec(size)
    weights = {"scale": x.scale, "bias": x.bias} if isinstance(x, UnscaledProduct) else {}
    for key, weight in weights.items():
        if weight is not None:
            operands[key] = weight.reshape(-1), pl.BlockSpec((width,), lambda i: (0,))
    norm_spec = pl.BlockSpec((size,), lambda i: (0,))
    if isinstance(norm, LayerNorm) and norm.layer is not None:
        norm_spec = pl.BlockSpec((None, size), lambda i: (norm.layer, 0))
    if norm is not None:
        operands["norm_scale"] = norm.scale, norm_spec
    if isinstance(norm, LayerNorm):
        operands["norm_bias"] = norm.bias, norm_spec

    def kernel(refs: dict, outs: dict) -> None:
        columns = [begin + jnp.arange(chunk) for begin in range(0, size, chunk)]
        masks = [column < size for column in columns]

        def load(key: str, column: jax.Array, mask: jax.Array) -> jax.Array:
            return triton().load(refs[key].at[column], mask=mask, other=0).astype(jnp.float32)

        def load_product(column: jax.Array, mask: jax.Array) -> jax.Array:
            y = load("product", column, mask)
            if "row_scale" in refs:
                y = y * refs["row_scale"][...] * load("scale", column, mask)
            return y + load("bias", column, mask) if "bias" in refs else y

        def before_norm(column: jax.Array, mask: jax.Array) -> jax.Array:
            y = load_product(column, mask)
            if epilogue == "gate":
                y = y * jax.nn.sigmoid(y) * load_product(column + size, mask)
            elif epilogue == "gelu":
                y = jnp.where(mask, quick_gelu(y), 0)
            if residual is not None:
                # Rounded as the product is where XLA adds it.
                y = load("residual", column, mask) + y.astype(residual.dtype).astype(jnp.float32)
                total = y.astype(residual.dtype)
                triton().store(outs["sum"].at[column], total, mask=mask)
                y = total.astype(jnp.float32)
            return y

        # The whole row stays in registers, so that nothing is read twice.
        values = [before_norm(column, mask) for column, mask in zip(columns, masks)]
        factor = 1.0  # a number by which the whole row is multiplied: only the scale needs to know it
        if isinstance(norm, LayerNorm):
            mean = sum(y.sum() for y in values) / size
            values = [jnp.where(mask, y - mean, 0) for y, mask in zip(values, masks)]
        if norm is not None:
            squares = sum((y * y).sum() for y in values)
            factor = jax.lax.rsqrt(squares / size + norm.eps)
            scales = [load("norm_scale", column, mask) for column, mask in zip(columns, masks)]
            if isinstance(norm, LayerNorm):
                biases = [load("norm_bias", column, mask) for column, mask in zip(columns, masks)]
                values = [y * factor * a + b for y, a, b in zip(values, scales, biases)]
                factor = 1.0
            elif quantized:
                values = [y * a for y, a in zip(values, scales)]
            else:
                values = [y * factor * a for y, a in zip(values, scales)]
        if quantized:
            abs_max = functools.reduce(jnp.maximum, map(jnp.abs, values)).max()
            scale = jnp.maximum(abs_max, MIN_ABS_MAX) / E4M3_MAX
            values = [y / scale for y in values]
            outs["scale"][...] = scale * factor
        for y, column, mask in zip(values, columns, masks):
            triton().store(outs["values"].at[column], y.astype(outs["values"].dtype), mask=mask)

    dtype = product.dtype if residual is None else residual.dtype
    values_shape = jax.ShapeDtypeStruct((rows, size), E4M3 if quantized else dtype)
    results = {"values": (values_shape, row_spec(size))}
    if quantized:
        results["scale"] = jax.ShapeDtypeStruct((rows,), jnp.float32), scalar_spec
    if residual is not None:
        results["sum"] = jax.ShapeDtypeStruct((rows, size), dtype), row_spec(size)
    out = triton_call(
        kernel,
        warps=chunk // THREAD_VALUES // 32,
        grid=(rows,),
        in_specs=[{key: spec for key, (_, spec) in operands.items()}],
        out_specs={key: spec for key, (_, spec) in results.items()},
        out_shape={key: shape for key, (shape, _) in results.items()},
        name=name,
    )({key: operand for key, (operand, _) in operands.items()})
    values = QuantizedArray(out["values"], out["scale"][:, None]) if quantized else out["values"]
    return out.get("sum"), values
