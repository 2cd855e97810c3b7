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

import jax
import jax.numpy as jnp

from livecc_jax.model import product_one
from livecc_jax.model.kept import narrow
from livecc_jax.model.qwen2_vl import Params

E4M3 = jnp.float8_e4m3fn
LARGEST = float(jnp.finfo(E4M3).max)  # 448
ROWS = 16  # cuBLAS takes multiples of it


@functools.partial(jax.jit, static_argnames="contract")
def quantize(weights: Params, contract: int = 1) -> Params:
    """A linear map in eight bits.

    Args:
        weights: {"kernel": [*inputs, *outputs], "bias": [*outputs] if it has one}.
        contract: how many axes are inputs.

    Returns:
        {"kernel8": float8_e4m3fn [N, K], "scale": float32 [*outputs], "bias" as it was}; K lies
        together in memory, as the hardware wants it.
    """
    kernel = weights["kernel"]
    outputs = kernel.shape[contract:]
    flat = kernel.reshape(math.prod(kernel.shape[:contract]), -1).astype(jnp.float32).T
    values, scale = _rounded(flat)
    out = {"kernel8": values, "scale": scale.reshape(outputs)}
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
    """float32 [M, K] in eight bits, and the scale of each row, [M, 1]."""
    scale = jnp.maximum(jnp.max(jnp.abs(x), axis=1, keepdims=True), 1e-12) / LARGEST
    return (x / scale).astype(E4M3), scale


def product8(x: jax.Array, weights: Params, contract: int = 1) -> jax.Array:
    """x times a quantised kernel over x's last `contract` axes, plus its bias; in x's dtype."""
    lead, scale = x.shape[: x.ndim - contract], weights["scale"]
    flat = x.reshape(math.prod(lead), -1)
    rows = len(flat)
    if rows == 1:
        y = jnp.dot(weights["kernel8"].astype(jnp.float32), flat[0].astype(jnp.float32))
        y = (y * scale.reshape(-1)).reshape(scale.shape)
        y = y + weights["bias"] if "bias" in weights else y
        return y.reshape(*lead, *scale.shape).astype(x.dtype)
    values, own = _rounded(jnp.pad(flat, ((0, -rows % ROWS), (0, 0))).astype(jnp.float32))
    y = jax.lax.dot_general(
        values, weights["kernel8"], (((1,), (1,)), ((), ())), preferred_element_type=x.dtype
    )
    y = y[:rows].astype(jnp.float32) * own[:rows] * scale.reshape(-1)
    y = y.reshape(*lead, *scale.shape)
    if "bias" in weights:
        y = y + weights["bias"]
    return y.astype(x.dtype)
