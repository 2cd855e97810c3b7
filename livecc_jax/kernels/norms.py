"""Norms as values: what a kernel that does more than norm is told of one."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """x / rms(x) * scale over the last axis, computed in float32."""
    x32 = x.astype(jnp.float32)
    x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
    return (x32 * scale).astype(x.dtype)


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float = 1e-6) -> jax.Array:
    """(x - mean) / deviation * scale + bias over the last axis, computed in float32."""
    x32 = x.astype(jnp.float32)
    x32 = x32 - jnp.mean(x32, axis=-1, keepdims=True)
    x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
    return (x32 * scale + bias).astype(x.dtype)


class RmsNorm(NamedTuple):
    """`rms_norm`."""

    scale: jax.Array  # [K]
    eps: float

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., K] in x's dtype."""
        return rms_norm(x, self.scale, self.eps)


class LayerNorm(NamedTuple):
    """`layer_norm`."""

    scale: jax.Array  # [K], or of several layers [L, K]
    bias: jax.Array  # likewise
    layer: int | None = None  # which of them: to slice for a kernel would be a kernel of its own
    eps: float = 1e-6

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., K] in x's dtype."""
        of = slice(None) if self.layer is None else self.layer
        return layer_norm(x, self.scale[of], self.bias[of], self.eps)


Norm = RmsNorm | LayerNorm
