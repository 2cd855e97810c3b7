"""Arrays of 8-bit numbers with a scale for each vector: int8 for KV caches, e4m3 for products.

int8: a token's key (or value) of one head is D integers from -127 to 127 times one scale, which is half
the memory of bfloat16. Keys are quantized before rotation, so that rounding does not depend on where
their token stands. e4m3: a row of K values is the input of a matrix product in 8-bit floats.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

KV_PRECISIONS = ("weights", "int8")  # what a KV cache may be stored in: the weights' dtype, or int8
INT8_MAX = 127
E4M3 = jnp.float8_e4m3fn
E4M3_MAX = float(jnp.finfo(E4M3).max)  # 448
# A row's largest value is taken as this at least, so that a row of zeros has a scale.
MIN_ABS_MAX = 1e-12


class QuantizedArray(NamedTuple):
    """An array whose vectors along the last axis are 8-bit numbers times a scale."""

    values: jax.Array  # int8 or float8_e4m3fn [..., D]
    scale: jax.Array  # float32 [..., 1]


def quantize_int8(x: jax.Array) -> QuantizedArray:
    """Rounds [..., D] to the nearest of 255 values; each is off by half the vector's scale at most."""
    x32 = x.astype(jnp.float32)
    scale = jnp.max(jnp.abs(x32), axis=-1, keepdims=True) / INT8_MAX
    # A vector of zeros has scale 0 and stays zeros.
    values = jnp.round(x32 / jnp.where(scale > 0, scale, 1)).astype(jnp.int8)
    return QuantizedArray(values, scale)


def quantize_e4m3(x: jax.Array) -> QuantizedArray:
    """Rounds [..., K] to e4m3 floats, the largest value of each row to the largest there is.

    See FP8 Formats for Deep Learning (arXiv 2209.05433).
    """
    x32 = x.astype(jnp.float32)
    abs_max = jnp.max(jnp.abs(x32), axis=-1, keepdims=True)
    scale = jnp.maximum(abs_max, MIN_ABS_MAX) / E4M3_MAX
    return QuantizedArray((x32 / scale).astype(E4M3), scale)


def dequantize(x: QuantizedArray, dtype: Any) -> jax.Array:
    """The values times their scales, [..., D] in `dtype`."""
    return (x.values.astype(jnp.float32) * x.scale).astype(dtype)
