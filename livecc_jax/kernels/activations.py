"""Activation functions that both the network and the kernels compute."""

from __future__ import annotations

import jax
import numpy as np


def quick_gelu(x: jax.Array) -> jax.Array:
    """x * sigmoid(1.702 x), the vision tower's activation."""
    return x * jax.nn.sigmoid(np.asarray(1.702, x.dtype) * x)
