"""Matrix products in eight bits.

Of layers in 8-bit floats (e4m3): half the bytes of bfloat16, twice the rate on a Hopper GPU.

Weights have a scale for each output, inputs one for each token, taken as they come; nothing needs to be
calibrated. The product itself is exact in float32 (FP8 Formats for Deep Learning, arXiv 2209.05433).
One token alone is bound by reading weights, so its input stays as it is (on a GPU: `product_one`).

Of the head in 8-bit integers: it serves single tokens, is bound by reading, and every rounding in it
goes straight into logits; integers with a scale a row are three times as near there (of normal weights
0.85% of a product's size in place of e4m3's 2.7%).
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from livecc_jax.model import narrow_rows, product_one
from livecc_jax.model.kept import narrow
from livecc_jax.model.layers import quick_gelu, rms_norm
from livecc_jax.model.narrow_rows import E4M3, LARGEST, SMALLEST, Between, Raw
from livecc_jax.model.product_one import Norm
from livecc_jax.model.qwen2_vl import Params

ROWS = 16  # cuBLAS takes multiples of it


@functools.partial(jax.jit, static_argnames="contract")
def quantize(weights: Params, contract: int = 1) -> Params:
    """A linear map in eight bits.

    Args:
        weights: {"kernel": [*inputs, *outputs], "bias": [*outputs] if it has one}.
        contract: how many axes are inputs.

    Returns:
        {"kernel8": float8_e4m3fn [*outputs, K], "scale": float32 [*outputs], "bias" as it was}; K lies
        together in memory, as the hardware wants it. Outputs keep their axes, over which they may be
        split.
    """
    kernel = weights["kernel"]
    rows = kernel.transpose(*range(contract, kernel.ndim), *range(contract))
    values, scale = _rounded(rows.reshape(*kernel.shape[contract:], -1).astype(jnp.float32))
    out = {"kernel8": values, "scale": scale[..., 0]}
    return out | ({"bias": weights["bias"]} if "bias" in weights else {})


@jax.jit
def quantize_head(rows: jax.Array) -> Params:
    """[V, D] as {"rows8": int8 [V, D], "scale": float32 [V]}, each row rounded to 255 values."""
    values, scale = narrow(rows)
    return {"rows8": values, "scale": scale[:, 0]}


def head8(hidden: jax.Array, weights: Params) -> jax.Array:
    """[..., D] times a quantised head: float32 [..., V]."""
    rows, scale = weights["rows8"], weights["scale"]
    if hidden.size == hidden.shape[-1] and product_one.usable(*rows.shape, eight=True):
        y = product_one.times(hidden.reshape(-1), rows, scale=scale, dtype=jnp.float32)
        return y.reshape(*hidden.shape[:-1], len(rows))
    # Integers of eight bits are exact in bfloat16 too.
    contracted = ((hidden.ndim - 1,), (1,)), ((), ())
    y = jax.lax.dot_general(
        hidden, rows.astype(hidden.dtype), contracted, preferred_element_type=jnp.float32
    )
    return y * scale


def _rounded(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """float32 [..., K] in eight bits, and the scale of each row, [..., 1]."""
    scale = jnp.maximum(jnp.max(jnp.abs(x), axis=-1, keepdims=True), SMALLEST) / LARGEST
    return (x / scale).astype(E4M3), scale


def product8(x: jax.Array, weights: Params, contract: int = 1, norm: Norm | None = None) -> jax.Array:
    """x times a quantised kernel over x's last `contract` axes, plus its bias.

    Args:
        x: [..., *inputs].
        weights: from `quantize`.
        contract: how many axes are inputs.
        norm: normalises x first, over one axis of inputs.

    Returns:
        [..., *outputs] in x's dtype.
    """
    lead, outputs = x.shape[: x.ndim - contract], weights["scale"].shape
    flat = x.reshape(math.prod(lead), -1)
    if len(flat) == 1:
        one = flat[0] if norm is None else rms_norm(flat[0], *norm)
        y = jnp.dot(weights["kernel8"].astype(jnp.float32), one.astype(jnp.float32)) * weights["scale"]
        y = y + weights["bias"] if "bias" in weights else y
        return y.reshape(*lead, *outputs).astype(x.dtype)
    return _raw(_narrow(flat, norm), weights, x.dtype, len(flat)).scaled().reshape(*lead, *outputs)


def products8(
    x: jax.Array, first: Params, between: Between, second: Params, norm: Norm | None = None
) -> jax.Array:
    """Two products of several rows and what stands between them: [..., D] to [..., D] in x's dtype.

    Args:
        x: [..., D].
        first: of D inputs and F outputs, [2, F] for a gate.
        between: as in `narrow_rows`.
        second: of F inputs and D outputs.
        norm: normalises x first.
    """
    flat = x.reshape(-1, x.shape[-1])
    raw = _raw(_narrow(flat, norm), first, x.dtype)
    return _raw(_narrow(raw, between=between), second, x.dtype, len(flat)).scaled().reshape(x.shape)


def _narrow(
    x: jax.Array | Raw, norm: Norm | None = None, between: Between | None = None
) -> tuple[jax.Array, jax.Array]:
    """Rows in eight bits, and their scales; a few more, if that is what cuBLAS takes."""
    if not isinstance(x, Raw):
        x = jnp.pad(x, ((0, -len(x) % ROWS), (0, 0)))
    if narrow_rows.usable():
        return narrow_rows.narrow_rows(x, norm, between)
    y = x.scaled() if isinstance(x, Raw) else x
    y = y if norm is None else rms_norm(y, *norm)
    if between == "gate":
        y = jax.nn.silu(y[:, 0]) * y[:, 1]
    elif between == "gelu":
        y = quick_gelu(y)
    return _rounded(y.astype(jnp.float32))


def _raw(
    narrow: tuple[jax.Array, jax.Array], weights: Params, dtype: Any, rows: int | None = None
) -> Raw:
    """The product of rows in eight bits, of the first `rows` of them."""
    values, own = narrow
    kernel = weights["kernel8"]
    sums = jax.lax.dot_general(
        values, kernel, (((1,), (kernel.ndim - 1,)), ((), ())), preferred_element_type=dtype
    )
    return Raw(sums[:rows], own[:rows], weights["scale"], weights.get("bias"))
