"""Keys and values as a pool keeps them: as they were computed, or in eight bits.

In eight bits a token's key (or value) of a head is integers from -127 to 127 times one scale: half
the memory of bfloat16. Keys are kept before rotation, so what is rounded is what is rotated later.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

PRECISIONS = ("weights", "int8")
LARGEST = 127


class Eight(NamedTuple):
    """An array of the last axis' vectors in eight bits."""

    values: jax.Array  # int8 [..., D]
    scale: jax.Array  # float32 [..., 1]


def narrow(x: jax.Array) -> Eight:
    """Round to the nearest of 255 values; each is off by half the vector's scale at most."""
    wide = x.astype(jnp.float32)
    scale = jnp.max(jnp.abs(wide), axis=-1, keepdims=True) / LARGEST
    # A vector of zeros has scale 0 and stays zeros.
    values = jnp.round(wide / jnp.where(scale > 0, scale, 1)).astype(jnp.int8)
    return Eight(values, scale)


def widen(kept: Eight, dtype: Any) -> jax.Array:
    """What `narrow` rounded to."""
    return (kept.values.astype(jnp.float32) * kept.scale).astype(dtype)
