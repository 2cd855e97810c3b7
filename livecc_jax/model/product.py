"""Matrix products of decoding, with what stands before and after them in a layer."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from livecc_jax.model import product_one
from livecc_jax.model.layers import quick_gelu, rms_norm
from livecc_jax.model.product_one import Norm
from livecc_jax.model.quantize import product8, products8
from livecc_jax.model.qwen2_vl import Params


def product(
    x: jax.Array,
    weights: Params,
    contract: int = 1,
    *,
    norm: Norm | None = None,
    gated: bool = False,
    add: jax.Array | None = None,
) -> jax.Array:
    """A linear map over x's last `contract` axes, plus its bias if it has one.

    Args:
        x: [..., *inputs].
        weights: {"kernel": [*inputs, *outputs]}, or {"rows": [*outputs, *inputs]}, or eight bits from
            `quantize.quantize`; with "bias" [*outputs] or without.
        contract: how many axes are inputs.
        norm: normalises x first, over one axis of inputs.
        gated: outputs are [2, F]; the first goes through SiLU and multiplies the second.
        add: [..., *outputs] to add in the end.

    Returns:
        [..., *outputs], or [..., F] if gated, in x's dtype.
    """
    lead = x.shape[: x.ndim - contract]
    if math.prod(lead) == 1 and "kernel" not in weights:
        eight = "kernel8" in weights
        outputs = weights["scale"].shape if eight else weights["rows"].shape[:-contract]
        if product_one.usable(math.prod(outputs), x.size, eight):
            y = product_one.times(
                x.reshape(-1),
                weights.get("kernel8", weights.get("rows")).reshape(-1, x.size),
                norm=norm,
                scale=_flat(weights.get("scale")),
                bias=_flat(weights.get("bias")),
                gated=gated,
                add=_flat(add),
            )
            return y.reshape(*lead, *outputs[gated:])
    if "kernel8" in weights:
        y = product8(x, weights, contract, norm)
    else:
        y = _linear(x if norm is None else rms_norm(x, *norm), weights, contract)
    if gated:
        y = jax.nn.silu(y[..., 0, :]) * y[..., 1, :]
    return _added(y, add)


def gated_mlp(
    x: jax.Array, gate_up: Params, down: Params, norm: Norm | None = None, add: jax.Array | None = None
) -> jax.Array:
    """x, normed, through gate and up, SiLU of the one times the other, and down, + add.

    Args:
        x: [..., D].
        gate_up: of D inputs and [2, F] outputs.
        down: of F inputs and D outputs.
        norm: normalises x first.
        add: [..., D].
    """
    if "kernel8" in down and x.size > x.shape[-1]:
        return _added(products8(x, gate_up, "gate", down, norm), add)
    return product(product(x, gate_up, norm=norm, gated=True), down, add=add)


def gelu_mlp(x: jax.Array, fc1: Params, fc2: Params, add: jax.Array | None = None) -> jax.Array:
    """x [..., D] through fc1 of F outputs, `layers.quick_gelu` and fc2, + add [..., D]."""
    if "kernel8" in fc2 and x.size > x.shape[-1]:
        return _added(products8(x, fc1, "gelu", fc2), add)
    return product(quick_gelu(product(x, fc1)), fc2, add=add)


def _added(y: jax.Array, add: jax.Array | None) -> jax.Array:
    return y if add is None else add + y


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
