"""RMSNorm and LayerNorm: as functions, and as values to pass to kernels that normalize on the way."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
    """x / rms(x) * scale over the last axis, computed in float32 (arXiv 1910.07467).

    Args:
        x: [..., K].
        scale: [K].
        eps: Added to the mean of squares.

    Returns:
        [..., K] in x's dtype.
    """
    x32 = x.astype(jnp.float32)
    x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
    return (x32 * scale).astype(x.dtype)


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float = 1e-6) -> jax.Array:
    """(x - mean) / deviation * scale + bias over the last axis, computed in float32 (arXiv 1607.06450).

    Args:
        x: [..., K].
        scale: [K].
        bias: [K].
        eps: Added to the variance.

    Returns:
        [..., K] in x's dtype.
    """
    x32 = x.astype(jnp.float32)
    x32 = x32 - jnp.mean(x32, axis=-1, keepdims=True)
    x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
    return (x32 * scale + bias).astype(x.dtype)


class RmsNorm(NamedTuple):
    """The weights of a `rms_norm`."""

    scale: jax.Array  # [K]
    eps: float

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalizes [..., K], in x's dtype."""
        return rms_norm(x, self.scale, self.eps)


class LayerNorm(NamedTuple):
    """The weights of a `layer_norm`, of one layer or stacked over layers."""

    scale: jax.Array  # [K], or [L, K] where `layer` is set
    bias: jax.Array  # likewise
    # Index of the layer in stacked weights. A kernel reads its row of them in place: slicing the
    # weights before would be a kernel of its own.
    layer: int | None = None
    eps: float = 1e-6

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalizes [..., K], in x's dtype."""
        index = slice(None) if self.layer is None else self.layer
        return layer_norm(x, self.scale[index], self.bias[index], self.eps)


Norm = RmsNorm | LayerNorm
