"""Linear maps of decoding, fused with the norm before them and the activation or residual after them.

Weights may be transposed or quantized, and one, several and many tokens have a fast path each. On a
GPU, what stands between two products of several tokens is one kernel (`kernels.fused_norm`): a sum of
the residual stream is deferred, as `DeferredResidual`, to the norm that follows it. A gate or GELU is
part of the product of many tokens before it (`kernels.fused_gemm`), unless that product is quantized.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from livecc_jax.decoding.quantize import (
    ROW_MULTIPLE,
    quantized_linear,
    quantized_mlp,
    unscaled_product,
)
from livecc_jax.kernels import fused_gemm, fused_norm, gemv
from livecc_jax.kernels.activations import quick_gelu
from livecc_jax.kernels.fused_norm import DeferredResidual, Epilogue, UnscaledProduct
from livecc_jax.kernels.norms import Norm, RmsNorm
from livecc_jax.kernels.quantized import QuantizedArray
from livecc_jax.model.qwen2_vl import Params

ResidualStream = jax.Array | DeferredResidual  # [..., D], between layers


def resolve_residual(x: ResidualStream) -> jax.Array:
    """Returns the residual stream [..., D] with its deferred sum, if any, added."""
    return x.add() if isinstance(x, DeferredResidual) else x


def prepare_input(
    x: ResidualStream, norm: Norm, weights: Params
) -> tuple[jax.Array, jax.Array | QuantizedArray, Norm | None]:
    """Adds the deferred sum of the residual stream, if any, and norms it as its consumer needs it.

    Args:
        x: [..., D] residual stream.
        norm: Norm that follows.
        weights: The linear map that takes the normed stream.

    Returns:
        The residual stream [..., D]; the input for `linear`; and the norm that `linear` has yet to
        apply, if any.
    """
    if isinstance(x, DeferredResidual):
        return *fused_norm.add_and_norm(x, norm, "kernel_fp8" in weights), None
    return x, x, norm


def linear(
    x: jax.Array | QuantizedArray,
    weights: Params,
    contract: int = 1,
    *,
    norm: Norm | None = None,
    epilogue: Epilogue | None = None,
    add: jax.Array | None = None,
    dtype: Any = None,
) -> jax.Array:
    """Applies a linear map over x's last `contract` axes.

    Args:
        x: [..., *inputs].
        weights: {"kernel": [*inputs, *outputs]}, {"kernel_t": [*outputs, *inputs]}, or a quantized map
            from `quantize.quantize`; "bias" [*outputs] is added if there is one.
        contract: Number of axes that are inputs.
        norm: Norm applied to x first, over a single axis of inputs.
        epilogue: Activation of the result. With `gate` outputs are [2, F]: the first goes through SiLU
            and multiplies the second. With `gelu` each goes through `activations.quick_gelu`.
        add: [..., *outputs], added last.
        dtype: Dtype of the result where x is a `QuantizedArray`; otherwise it is x's.

    Returns:
        [..., *outputs], or [..., F] with a gate.
    """
    gated = epilogue == "gate"
    if not isinstance(x, QuantizedArray) and "kernel" not in weights and _count(x, contract) == 1:
        quantized = "kernel_fp8" in weights
        outputs = weights["scale"].shape if quantized else weights["kernel_t"].shape[:-contract]
        expressible = (norm is None or isinstance(norm, RmsNorm)) and epilogue != "gelu"
        if expressible and gemv.is_supported(math.prod(outputs), x.size, quantized):
            y = gemv.gemv(
                x.reshape(-1),
                weights.get("kernel_fp8", weights.get("kernel_t")).reshape(-1, x.size),
                norm=norm,
                scale=_flatten(weights.get("scale")),
                bias=_flatten(weights.get("bias")),
                gated=gated,
                residual=_flatten(add),
            )
            return y.reshape(*x.shape[: x.ndim - contract], *outputs[gated:])
    if "kernel_fp8" in weights:
        y = quantized_linear(x, weights, contract, norm, dtype)
    else:
        x = x if norm is None else norm(x)
        if add is None and contract == 1 and _fused_gemm_is_supported(x, weights, epilogue):
            kernel = weights["kernel_t" if gated else "kernel"]
            x_MK = x.reshape(-1, x.shape[-1])
            y = fused_gemm.fused_gemm(x_MK, kernel, weights.get("bias"), epilogue=epilogue)
            return y.reshape(*x.shape[:-1], -1)
        y = _plain_linear(x, weights, contract)
    if gated:
        y = jax.nn.silu(y[..., 0, :]) * y[..., 1, :]
    elif epilogue == "gelu":
        y = quick_gelu(y)
    return y if add is None else add + y


def _fused_gemm_is_supported(x: jax.Array, weights: Params, epilogue: Epilogue | None) -> bool:
    """Whether `kernels.fused_gemm` serves x [..., K] and weights in this layout."""
    if epilogue == "gate" and "kernel_t" in weights and "bias" not in weights:
        outputs = math.prod(weights["kernel_t"].shape[:-1])
    elif epilogue == "gelu" and "kernel" in weights:
        outputs = weights["kernel"].shape[1]
    else:
        return False
    return fused_gemm.is_supported(_count(x), x.shape[-1], outputs, x.dtype)


def add_to_residual(
    x: jax.Array, branch: jax.Array, weights: Params, contract: int = 1
) -> ResidualStream:
    """Adds a linear map of a branch to the residual stream, or defers the sum to the next norm.

    Args:
        x: [..., D] residual stream.
        branch: [..., *inputs], what attention or the feed-forward layer computed.
        weights: The output map of the branch, as in `linear`.
        contract: Number of axes of the branch that are inputs.
    """
    quantized = "kernel_fp8" in weights
    if not _defers_sum(x, quantized):
        return linear(branch, weights, contract, add=x)
    if quantized:
        return DeferredResidual(x, unscaled_product(branch, weights, contract))
    return DeferredResidual(x, linear(branch, weights, contract))


def gated_mlp(
    x: jax.Array,
    mlp_input: jax.Array | QuantizedArray,
    gate_up: Params,
    down: Params,
    norm: Norm | None = None,
) -> ResidualStream:
    """Adds a SwiGLU feed-forward layer to the residual stream: down(silu(gate) * up).

    Args:
        x: [..., D] residual stream.
        mlp_input: [..., D], the input of the layer.
        gate_up: Linear map of D inputs and [2, F] outputs.
        down: Linear map of F inputs and D outputs.
        norm: Norm applied to the input first.
    """
    if "kernel_fp8" in down and _count(x) > 1:
        return _add_unscaled(x, quantized_mlp(mlp_input, gate_up, "gate", down, norm, x.dtype))
    return add_to_residual(x, linear(mlp_input, gate_up, norm=norm, epilogue="gate"), down)


def gelu_mlp(
    x: jax.Array,
    mlp_input: jax.Array | QuantizedArray,
    fc1: Params,
    fc2: Params,
    norm: Norm | None = None,
) -> ResidualStream:
    """Adds a feed-forward layer with `activations.quick_gelu` to the residual stream.

    The arguments are those of `gated_mlp`, with fc1 of D inputs and F outputs.
    """
    if "kernel_fp8" in fc2 and _count(x) > 1:
        return _add_unscaled(x, quantized_mlp(mlp_input, fc1, "gelu", fc2, norm, x.dtype))
    return add_to_residual(x, linear(mlp_input, fc1, norm=norm, epilogue="gelu"), fc2)


def _add_unscaled(x: jax.Array, unscaled: UnscaledProduct) -> ResidualStream:
    """Adds a product of 8-bit floats to the residual stream, or defers the sum to the next norm."""
    stream = DeferredResidual(x, unscaled)
    return stream if _defers_sum(x, quantized=True) else stream.add()


def _defers_sum(x: jax.Array, quantized: bool) -> bool:
    """Whether what is added to x [..., D] waits for the next norm, whose kernel then adds it."""
    count = _count(x)
    multiple = ROW_MULTIPLE if quantized else 1
    return count > 1 and count % multiple == 0 and fused_norm.is_supported(quantized)


def _count(x: jax.Array, contract: int = 1) -> int:
    """The number of tokens of x [..., *inputs]."""
    return math.prod(x.shape[: x.ndim - contract])


def _plain_linear(x: jax.Array, weights: Params, contract: int) -> jax.Array:
    """Applies a linear map in plain XLA."""
    if "kernel_t" in weights:
        kernel_t = weights["kernel_t"]
        inputs = (tuple(range(a.ndim - contract, a.ndim)) for a in (x, kernel_t))
        y = jax.lax.dot_general(x, kernel_t, (tuple(inputs), ((), ())))
    else:
        y = jnp.tensordot(x, weights["kernel"], axes=contract)
    return y + weights["bias"] if "bias" in weights else y


def _flatten(x: jax.Array | None) -> jax.Array | None:
    return None if x is None else x.reshape(-1)
