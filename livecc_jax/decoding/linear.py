"""Matrix products of decoding, with what stands before and after them in a layer.

On a GPU, what stands between two products of several rows is one kernel (`between_products`): a sum of
the residual stream waits, as `Sum`, for the norm that follows it. A gate or GELU is part of the product
of many rows before it (`product_many`), unless it is of eight bits.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from livecc_jax.decoding.quantize import ROWS, product8, products8, raw8
from livecc_jax.kernels import fused_gemm, fused_norm, gemv
from livecc_jax.kernels.activations import quick_gelu
from livecc_jax.kernels.fused_norm import Between, Narrow, Sum
from livecc_jax.kernels.norms import Norm, RmsNorm
from livecc_jax.model.qwen2_vl import Params

Stream = jax.Array | Sum  # [..., D], between layers


def whole(x: Stream) -> jax.Array:
    """[..., D]."""
    return x.added() if isinstance(x, Sum) else x


def before(x: Stream, norm: Norm, weights: Params) -> tuple[jax.Array, jax.Array | Narrow, Norm | None]:
    """What a product by these weights is given of the stream.

    Args:
        x: [..., D].
        norm: of it.
        weights: as of `product`.

    Returns:
        (x, what the product takes, the norm that it has yet to apply).
    """
    if isinstance(x, Sum):
        return *fused_norm.add_and_norm(x, norm, "kernel8" in weights), None
    return x, x, norm


def product(
    x: jax.Array | Narrow,
    weights: Params,
    contract: int = 1,
    *,
    norm: Norm | None = None,
    between: Between | None = None,
    add: jax.Array | None = None,
    dtype: Any = None,
) -> jax.Array:
    """A linear map over x's last `contract` axes, plus its bias if it has one.

    Args:
        x: [..., *inputs].
        weights: {"kernel": [*inputs, *outputs]}, or {"rows": [*outputs, *inputs]}, or eight bits from
            `quantize.quantize`; with "bias" [*outputs] or without.
        contract: how many axes are inputs.
        norm: normalises x first, over one axis of inputs.
        between: what stands between it and another: `gate`, outputs are [2, F], and the first goes
            through SiLU and multiplies the second; `gelu`, each goes through `activations.quick_gelu`.
        add: [..., *outputs] to add in the end.
        dtype: of the outcome, where x is `Narrow`.

    Returns:
        [..., *outputs], or [..., F] of a gate, in x's dtype.
    """
    gated = between == "gate"
    if not isinstance(x, Narrow) and "kernel" not in weights and _count(x, contract) == 1:
        eight = "kernel8" in weights
        outputs = weights["scale"].shape if eight else weights["rows"].shape[:-contract]
        serves = (norm is None or isinstance(norm, RmsNorm)) and between != "gelu"
        if serves and gemv.usable(math.prod(outputs), x.size, eight):
            y = gemv.times(
                x.reshape(-1),
                weights.get("kernel8", weights.get("rows")).reshape(-1, x.size),
                norm=norm,
                scale=_flat(weights.get("scale")),
                bias=_flat(weights.get("bias")),
                gated=gated,
                add=_flat(add),
            )
            return y.reshape(*x.shape[: x.ndim - contract], *outputs[gated:])
    if "kernel8" in weights:
        y = product8(x, weights, contract, norm, dtype)
    else:
        x = x if norm is None else norm(x)
        if add is None and contract == 1 and _served(x, weights, between):
            kernel = weights["rows" if gated else "kernel"]
            rows = x.reshape(-1, x.shape[-1])
            y = fused_gemm.times(rows, kernel, weights.get("bias"), between=between)
            return y.reshape(*x.shape[:-1], -1)
        y = _linear(x, weights, contract)
    if gated:
        y = jax.nn.silu(y[..., 0, :]) * y[..., 1, :]
    elif between == "gelu":
        y = quick_gelu(y)
    return y if add is None else add + y


def _served(x: jax.Array, weights: Params, between: Between | None) -> bool:
    """Whether `product_many` takes rows x and weights that lie like this."""
    if between == "gate" and "rows" in weights and "bias" not in weights:
        outputs = math.prod(weights["rows"].shape[:-1])
    elif between == "gelu" and "kernel" in weights:
        outputs = weights["kernel"].shape[1]
    else:
        return False
    return fused_gemm.usable(_count(x), x.shape[-1], outputs, x.dtype)


def joined(x: jax.Array, out: jax.Array, weights: Params, contract: int = 1) -> Stream:
    """x [..., D] + the product of out [..., *inputs]."""
    eight = "kernel8" in weights
    if not _waits(x, eight):
        return product(out, weights, contract, add=x)
    return Sum(x, raw8(out, weights, contract) if eight else product(out, weights, contract))


def gated_mlp(
    x: jax.Array, given: jax.Array | Narrow, gate_up: Params, down: Params, norm: Norm | None = None
) -> Stream:
    """x + what is given, normed, through gate and up, SiLU of the one times the other, and down.

    Args:
        x: [..., D].
        given: [..., D].
        gate_up: of D inputs and [2, F] outputs.
        down: of F inputs and D outputs.
        norm: normalises what is given first.
    """
    if "kernel8" in down and _count(x) > 1:
        return _joined8(x, products8(given, gate_up, "gate", down, norm, x.dtype))
    return joined(x, product(given, gate_up, norm=norm, between="gate"), down)


def gelu_mlp(
    x: jax.Array, given: jax.Array | Narrow, fc1: Params, fc2: Params, norm: Norm | None = None
) -> Stream:
    """x + what is given, normed, through fc1, `activations.quick_gelu` and fc2; as `gated_mlp`."""
    if "kernel8" in fc2 and _count(x) > 1:
        return _joined8(x, products8(given, fc1, "gelu", fc2, norm, x.dtype))
    return joined(x, product(given, fc1, norm=norm, between="gelu"), fc2)


def _joined8(x: jax.Array, raw: fused_norm.Raw) -> Stream:
    stream = Sum(x, raw)
    return stream if _waits(x, eight=True) else stream.added()


def _waits(x: jax.Array, eight: bool) -> bool:
    """Whether what is added to x waits for the norm."""
    count = _count(x)
    return count > 1 and (not eight or count % ROWS == 0) and fused_norm.usable(eight)


def _count(x: jax.Array, contract: int = 1) -> int:
    return math.prod(x.shape[: x.ndim - contract])


def _linear(x: jax.Array, weights: Params, contract: int) -> jax.Array:
    if "rows" in weights:
        rows = weights["rows"]
        inputs = (tuple(range(a.ndim - contract, a.ndim)) for a in (x, rows))
        y = jax.lax.dot_general(x, rows, (tuple(inputs), ((), ())))
    else:
        y = jnp.tensordot(x, weights["kernel"], axes=contract)
    return y + weights["bias"] if "bias" in weights else y


def _flat(x: jax.Array | None) -> jax.Array | None:
    return None if x is None else x.reshape(-1)
