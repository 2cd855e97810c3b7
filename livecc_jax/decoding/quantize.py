"""Matrix products with 8-bit weights.

The decoder's layers and the vision tower's blocks use 8-bit floats (e4m3): half the bytes of bfloat16,
and twice the rate on a Hopper GPU. Weights have a scale for each output, and inputs one for each token,
computed as they come, so nothing needs to be calibrated. The sums are exact in float32 (FP8 Formats for
Deep Learning, arXiv 2209.05433). The product of one token alone is bound by reading weights, so its
input is not quantized; on a GPU `kernels.gemv` computes it.

The head uses 8-bit integers. It serves single tokens, is bound by reading weights, and its rounding
errors go straight into logits; integers with a scale for each output are three times as precise there
(0.85% of a product's size with normally distributed weights, against e4m3's 2.7%).
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from livecc_jax.kernels import fused_norm, gemv
from livecc_jax.kernels.fused_norm import Epilogue, UnscaledProduct
from livecc_jax.kernels.norms import Norm
from livecc_jax.kernels.quantized import QuantizedArray, quantize_e4m3, quantize_int8
from livecc_jax.model.qwen2_vl import Params

ROW_MULTIPLE = 16  # cuBLAS needs the rows of an 8-bit input to be a multiple of it


@functools.partial(jax.jit, static_argnames="contract")
def quantize(weights: Params, contract: int = 1) -> Params:
    """Quantizes a linear map to 8-bit floats.

    Args:
        weights: {"kernel": [*inputs, *outputs], "bias": [*outputs] if there is one}.
        contract: Number of axes that are inputs.

    Returns:
        {"kernel_fp8": float8_e4m3fn [*outputs, K], "scale": float32 [*outputs], "bias" unchanged}. K is
        the product of the inputs, contiguous in memory as the hardware needs it. Outputs keep their
        axes, over which they may be sharded.
    """
    kernel = weights["kernel"]
    kernel_t = kernel.transpose(*range(contract, kernel.ndim), *range(contract))
    kernel_t = kernel_t.reshape(*kernel.shape[contract:], -1).astype(jnp.float32)
    values, scale = quantize_e4m3(kernel_t)
    quantized = {"kernel_fp8": values, "scale": scale[..., 0]}
    return quantized | ({"bias": weights["bias"]} if "bias" in weights else {})


@jax.jit
def quantize_head(head_VD: jax.Array) -> Params:
    """Quantizes a head [V, D]: {"kernel_int8": int8 [V, D], "scale": float32 [V]}."""
    values, scale = quantize_int8(head_VD)
    return {"kernel_int8": values, "scale": scale[:, 0]}


def quantized_head_logits(hidden: jax.Array, weights: Params) -> jax.Array:
    """Applies a quantized head to hidden states [..., D]: float32 [..., V].

    Args:
        hidden: [..., D].
        weights: The head, from `quantize_head`.
    """
    kernel_VD, scale_V = weights["kernel_int8"], weights["scale"]
    is_one_token = hidden.size == hidden.shape[-1]
    if is_one_token and gemv.is_supported(*kernel_VD.shape, quantized=True):
        y = gemv.gemv(hidden.reshape(-1), kernel_VD, scale=scale_V, dtype=jnp.float32)
        return y.reshape(*hidden.shape[:-1], len(kernel_VD))
    # 8-bit integers are exact in bfloat16 too.
    contracted = ((hidden.ndim - 1,), (1,)), ((), ())
    y = jax.lax.dot_general(
        hidden, kernel_VD.astype(hidden.dtype), contracted, preferred_element_type=jnp.float32
    )
    return y * scale_V


def quantized_linear(
    x: jax.Array | QuantizedArray,
    weights: Params,
    contract: int = 1,
    norm: Norm | None = None,
    dtype: Any = None,
) -> jax.Array:
    """Multiplies x with a quantized kernel over x's last `contract` axes, and adds the bias.

    Args:
        x: [..., *inputs].
        weights: A linear map from `quantize`.
        contract: Number of axes that are inputs.
        norm: Norm applied to x first, over a single axis of inputs.
        dtype: Dtype of the result where x is a `QuantizedArray`; otherwise it is x's.

    Returns:
        [..., *outputs].
    """
    is_quantized = isinstance(x, QuantizedArray)
    shape, dtype = (x.values.shape, dtype) if is_quantized else (x.shape, x.dtype)
    batch_shape, outputs = shape[: len(shape) - contract], weights["scale"].shape
    if is_quantized or math.prod(batch_shape) > 1:
        y = unscaled_product(x, weights, contract, norm, dtype).scaled()
        return y.reshape(*batch_shape, *outputs)
    x_K = x.reshape(-1) if norm is None else norm(x.reshape(-1))
    y = jnp.dot(weights["kernel_fp8"].astype(jnp.float32), x_K.astype(jnp.float32)) * weights["scale"]
    y = y + weights["bias"] if "bias" in weights else y
    return y.reshape(*batch_shape, *outputs).astype(dtype)


def unscaled_product(
    x: jax.Array | QuantizedArray,
    weights: Params,
    contract: int = 1,
    norm: Norm | None = None,
    dtype: Any = None,
) -> UnscaledProduct:
    """As `quantized_linear` for M tokens, before scales and bias are applied: [M, *outputs]."""
    x_MK, count = _quantize_tokens(x, norm, contract)
    return _first_rows(_multiply(x_MK, weights, dtype or x.dtype), count)


def quantized_mlp(
    x: jax.Array | QuantizedArray,
    first: Params,
    epilogue: Epilogue,
    second: Params,
    norm: Norm | None = None,
    dtype: Any = None,
) -> UnscaledProduct:
    """Computes two linear maps of M tokens and the activation between them: [M, D], not scaled yet.

    Args:
        x: [..., D].
        first: Map of D inputs to F outputs, or to [2, F] for a gate.
        epilogue: What follows the first map, as in `kernels.fused_norm.quantize_rows`.
        second: Map of F inputs to D outputs.
        norm: Norm applied to x first.
        dtype: Dtype of the result where x is a `QuantizedArray`; otherwise it is x's.
    """
    x_MK, count = _quantize_tokens(x, norm)
    hidden = _multiply(x_MK, first, dtype or x.dtype)
    hidden_MF = _quantize_rows(hidden, epilogue=epilogue)
    return _first_rows(_multiply(hidden_MF, second, hidden.product.dtype), count)


def _quantize_tokens(
    x: jax.Array | QuantizedArray, norm: Norm | None = None, contract: int = 1
) -> tuple[QuantizedArray, int]:
    """Returns quantized rows [M, K], padded to a multiple that cuBLAS takes, and their real number."""
    if isinstance(x, QuantizedArray):
        count = x.scale.size
        return QuantizedArray(x.values.reshape(count, -1), x.scale.reshape(count, 1)), count
    count = math.prod(x.shape[: x.ndim - contract])
    x_MK = jnp.pad(x.reshape(count, -1), ((0, -count % ROW_MULTIPLE), (0, 0)))
    return _quantize_rows(x_MK, norm), count


def _quantize_rows(
    x: jax.Array | UnscaledProduct, norm: Norm | None = None, epilogue: Epilogue | None = None
) -> QuantizedArray:
    """Applies a norm or an epilogue and quantizes, in a kernel where it serves."""
    if fused_norm.is_supported(quantized=True):
        return fused_norm.quantize_rows(x, norm, epilogue)
    return fused_norm.quantize_rows_reference(x, norm, epilogue)


def _multiply(x_MK: QuantizedArray, weights: Params, dtype: Any) -> UnscaledProduct:
    """Multiplies in 8-bit floats; scales and bias are carried along."""
    kernel = weights["kernel_fp8"]
    product = jax.lax.dot_general(
        x_MK.values, kernel, (((1,), (kernel.ndim - 1,)), ((), ())), preferred_element_type=dtype
    )
    return UnscaledProduct(product, x_MK.scale, weights["scale"], weights.get("bias"))


def _first_rows(unscaled: UnscaledProduct, count: int) -> UnscaledProduct:
    """Drops the rows that were padding."""
    return unscaled._replace(product=unscaled.product[:count], row_scale=unscaled.row_scale[:count])
