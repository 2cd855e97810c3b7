"""Norms as values: what a kernel that does more than norm is told of one."""

from __future__ import annotations

from typing import NamedTuple

import jax

from livecc_jax.model.layers import layer_norm, rms_norm


class RmsNorm(NamedTuple):
    """`layers.rms_norm`."""

    scale: jax.Array  # [K]
    eps: float

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., K] in x's dtype."""
        return rms_norm(x, self.scale, self.eps)


class LayerNorm(NamedTuple):
    """`layers.layer_norm`."""

    scale: jax.Array  # [K], or of several layers [L, K]
    bias: jax.Array  # likewise
    layer: int | None = None  # which of them: to slice for a kernel would be a kernel of its own
    eps: float = 1e-6

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., K] in x's dtype."""
        of = slice(None) if self.layer is None else self.layer
        return layer_norm(x, self.scale[of], self.bias[of], self.eps)


Norm = RmsNorm | LayerNorm
