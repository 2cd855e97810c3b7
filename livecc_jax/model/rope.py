"""Rotary position embeddings, computed and applied in float32.

bfloat16 has 8 bits of mantissa, which round position 257 to 256. So angles and the rotation itself stay
in float32, and only the result is cast back.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

VISION_THETA = 10_000.0  # base of the vision tower's wavelengths


def text_angles(
    positions: jax.Array,
    head_dim: int,
    theta: float,
    section: tuple[int, int, int],
    interleaved: bool = False,
) -> jax.Array:
    """Computes multimodal rotary angles (M-RoPE, Qwen2-VL, arXiv 2409.12191, section 2.1).

    Args:
        positions: int32 [B, 3, T], temporal, height and width position of each token.
        head_dim: Width of one head; its first half and its second half rotate together.
        theta: Base of the geometric progression of wavelengths.
        section: Number of the head_dim / 2 frequencies that follow each of the three axes.
        interleaved: Whether the axes take turns (T H W T H W ..., then T alone), as in Qwen3-VL, and do
            not lie side by side.

    Returns:
        float32 [B, T, head_dim / 2], in radians.
    """
    frequency = 1.0 / theta ** (np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    axis = np.repeat(np.arange(3), section)
    if interleaved:
        axis = np.zeros(head_dim // 2, int)
        for n in (1, 2):
            axis[n : 3 * section[n] : 3] = n
    position_BTF = jnp.moveaxis(positions.astype(jnp.float32), 1, -1)[..., axis]
    return position_BTF * frequency


def vision_angles(rows: jax.Array, cols: jax.Array, head_dim: int) -> jax.Array:
    """Computes the two-dimensional rotary angles of the vision tower.

    Args:
        rows: int32 [..., S], row of each patch in its frame.
        cols: int32 [..., S], column of each patch in its frame.
        head_dim: Width of one head. A quarter of it follows rows and a quarter columns, each twice.

    Returns:
        float32 [..., S, head_dim / 2], in radians.
    """
    half = head_dim // 2
    frequency = 1.0 / VISION_THETA ** (np.arange(0, half, 2, dtype=np.float32) / half)
    rows_cols = jnp.stack([rows, cols], axis=-1).astype(jnp.float32)
    return (rows_cols[..., None] * frequency).reshape(*rows.shape, half)


def rotate(x: jax.Array, angles: jax.Array) -> jax.Array:
    """Rotates each pair (x[i], x[i + D / 2]) of the last axis by its angle.

    Args:
        x: [B, T, H, D].
        angles: float32 [B, T, D / 2], in radians.

    Returns:
        [B, T, H, D] in x's dtype.
    """
    cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1).astype(x.dtype)
