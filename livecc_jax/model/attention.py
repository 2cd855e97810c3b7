"""The one door to attention within a row of packed segments: training and the vision tower.

New tokens that attend to a cache go through `model.cache_attention`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from livecc_jax.model.cache_attention import masked_attention

QUERY_BLOCK = 512


def attend(
    q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array, *, causal: bool
) -> jax.Array:
    """Self-attention within segments.

    A token sees the tokens of its own segment (and, if causal, none after itself). Padding is segment
    0 and sees only padding, so no softmax is ever over nothing.

    Args:
        q: [B, T, H, D].
        k: [B, T, K, D], each key head serving H / K query heads.
        v: [B, T, K, D].
        segment_ids: int32 [B, T].
        causal: whether a token sees only itself and what came before.

    Returns:
        [B, T, H, D] in q's dtype.
    """
    length = q.shape[1]

    def block(q_block: jax.Array, segments: jax.Array, slots: jax.Array) -> jax.Array:
        mask = segments[:, :, None] == segment_ids[:, None, :]
        if causal:
            mask &= slots[:, None] >= jnp.arange(length)
        return masked_attention(q_block, k, v, mask)

    if length <= 2 * QUERY_BLOCK:
        return block(q, segment_ids, jnp.arange(length))

    # Long rows: one block of queries at a time, recomputed in the backward pass, so that no array of
    # length x length is ever alive.
    def split(x: jax.Array, axis: int) -> jax.Array:
        pad = [(0, 0)] * x.ndim
        pad[axis] = (0, -length % QUERY_BLOCK)
        x = jnp.pad(x, pad)
        return jnp.moveaxis(x.reshape(*x.shape[:axis], -1, QUERY_BLOCK, *x.shape[axis + 1 :]), axis, 0)

    blocks = (split(q, 1), split(segment_ids, 1), split(jnp.arange(length), 0))
    out = jax.lax.map(jax.checkpoint(lambda b: block(*b)), blocks)
    out = jnp.moveaxis(out, 0, 1)
    return out.reshape(out.shape[0], -1, *out.shape[3:])[:, :length]
