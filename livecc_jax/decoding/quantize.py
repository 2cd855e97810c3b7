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

from livecc_jax.kernels import fused_norm, gemv
from livecc_jax.kernels.activations import quick_gelu
from livecc_jax.kernels.fused_norm import E4M3, LARGEST, SMALLEST, Between, Narrow, Raw
from livecc_jax.kernels.kv_quantize import narrow
from livecc_jax.kernels.norms import Norm
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
    if hidden.size == hidden.shape[-1] and gemv.usable(*rows.shape, eight=True):
        y = gemv.times(hidden.reshape(-1), rows, scale=scale, dtype=jnp.float32)
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


def product8(
    x: jax.Array | Narrow,
    weights: Params,
    contract: int = 1,
    norm: Norm | None = None,
    dtype: Any = None,
) -> jax.Array:
    """x times a quantised kernel over x's last `contract` axes, plus its bias.

    Args:
        x: [..., *inputs].
        weights: from `quantize`.
        contract: how many axes are inputs.
        norm: normalises x first, over one axis of inputs.
        dtype: of the outcome, where x is `Narrow`.

    Returns:
        [..., *outputs] in x's dtype.
    """
    shape, dtype = (x.values.shape, dtype) if isinstance(x, Narrow) else (x.shape, x.dtype)
    lead, outputs = shape[: len(shape) - contract], weights["scale"].shape
    if isinstance(x, Narrow) or math.prod(lead) > 1:
        return raw8(x, weights, contract, norm, dtype).scaled().reshape(*lead, *outputs)
    one = x.reshape(-1) if norm is None else norm(x.reshape(-1))
    y = jnp.dot(weights["kernel8"].astype(jnp.float32), one.astype(jnp.float32)) * weights["scale"]
    y = y + weights["bias"] if "bias" in weights else y
    return y.reshape(*lead, *outputs).astype(dtype)


def raw8(
    x: jax.Array | Narrow,
    weights: Params,
    contract: int = 1,
    norm: Norm | None = None,
    dtype: Any = None,
) -> Raw:
    """As `product8` of several rows, before it is scaled: [M, *outputs]."""
    rows, count = _given(x, norm, contract)
    return _first(_raw(rows, weights, dtype or x.dtype), count)


def products8(
    x: jax.Array | Narrow,
    first: Params,
    between: Between,
    second: Params,
    norm: Norm | None = None,
    dtype: Any = None,
) -> Raw:
    """Two products of several rows and what stands between them: [M, D], not scaled yet.

    Args:
        x: [..., D].
        first: of D inputs and F outputs, [2, F] for a gate.
        between: as in `between_products.narrow_rows`.
        second: of F inputs and D outputs.
        norm: normalises x first.
        dtype: of the outcome, where x is `Narrow`.
    """
    rows, count = _given(x, norm)
    raw = _raw(rows, first, dtype or x.dtype)
    return _first(_raw(_narrow(raw, between=between), second, raw.sums.dtype), count)


def _given(x: jax.Array | Narrow, norm: Norm | None = None, contract: int = 1) -> tuple[Narrow, int]:
    """(rows [M, K] in eight bits, a few more if that is what cuBLAS takes; how many count)."""
    if isinstance(x, Narrow):
        count = x.scale.size
        return Narrow(x.values.reshape(count, -1), x.scale.reshape(count, 1)), count
    count = math.prod(x.shape[: x.ndim - contract])
    rows = jnp.pad(x.reshape(count, -1), ((0, -count % ROWS), (0, 0)))
    return _narrow(rows, norm), count


def _narrow(x: jax.Array | Raw, norm: Norm | None = None, between: Between | None = None) -> Narrow:
    if fused_norm.usable(eight=True):
        return fused_norm.narrow_rows(x, norm, between)
    return narrow_plainly(x, norm, between)


def narrow_plainly(
    x: jax.Array | Raw, norm: Norm | None = None, between: Between | None = None
) -> Narrow:
    """What `between_products.narrow_rows` means, step by step."""
    y = x.scaled() if isinstance(x, Raw) else x
    y = y if norm is None else norm(y)
    if between == "gate":
        y = jax.nn.silu(y[:, 0]) * y[:, 1]
    elif between == "gelu":
        y = quick_gelu(y)
    return Narrow(*_rounded(y.astype(jnp.float32)))


def _raw(rows: Narrow, weights: Params, dtype: Any) -> Raw:
    kernel = weights["kernel8"]
    sums = jax.lax.dot_general(
        rows.values, kernel, (((1,), (kernel.ndim - 1,)), ((), ())), preferred_element_type=dtype
    )
    return Raw(sums, rows.scale, weights["scale"], weights.get("bias"))


def _first(raw: Raw, count: int) -> Raw:
    return raw._replace(sums=raw.sums[:count], own=raw.own[:count])
