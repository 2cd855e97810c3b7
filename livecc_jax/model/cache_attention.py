"""Attention of new tokens to a cache they have just been appended to (streaming)."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp


def attend_cache(q: jax.Array, k: jax.Array, v: jax.Array, start: jax.Array) -> jax.Array:
    """Attention of tokens just written to a cache at slots start, start + 1, ...

    Args:
        q: [B, Q, H, D].
        k: [B, C, K, D] cache holding the new tokens' keys already.
        v: [B, C, K, D].
        start: int32 [B], the slot of each row's first query; it sees the slots up to its own.

    Returns:
        [B, Q, H, D] in q's dtype.
    """
    own = start[:, None] + jnp.arange(q.shape[1])
    return masked_attention(q, k, v, jnp.arange(k.shape[1]) <= own[:, :, None])


@functools.partial(jax.named_call, name="attention")
def masked_attention(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """Softmax attention, scores and normalisation in float32; mask bool [B, Q, S], True where seen."""
    b, t, h, d = q.shape
    kv_heads = k.shape[2]
    grouped = q.reshape(b, t, kv_heads, h // kv_heads, d)
    scores = jnp.einsum("btkgd,bskd->bkgts", grouped, k, preferred_element_type=jnp.float32) * d**-0.5
    scores = jnp.where(mask[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    out = jnp.einsum("bkgts,bskd->btkgd", weights, v)
    return out.reshape(b, t, h, d)
