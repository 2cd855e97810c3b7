"""Activation functions that both the network and the kernels compute."""

from __future__ import annotations

import jax
import numpy as np


def quick_gelu(x: jax.Array) -> jax.Array:
    """x * sigmoid(1.702 x), the vision tower's activation (GELUs, arXiv 1606.08415, section 2)."""
    return x * jax.nn.sigmoid(np.asarray(1.702, x.dtype) * x)
