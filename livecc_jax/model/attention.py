"""The one door to attention.

Two shapes of question reach it: a row of packed segments attending to itself (training, the vision
tower), and new tokens attending to a cache they have just been appended to (streaming). Everything
that decides which key a query may see is in this file.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

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
        return _masked(q_block, k, v, mask)

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
    return _masked(q, k, v, jnp.arange(k.shape[1]) <= own[:, :, None])


@functools.partial(jax.named_call, name="attention")
def _masked(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """Softmax attention, scores and normalisation in float32; mask bool [B, Q, S], True where seen."""
    b, t, h, d = q.shape
    kv_heads = k.shape[2]
    grouped = q.reshape(b, t, kv_heads, h // kv_heads, d)
    scores = jnp.einsum("btkgd,bskd->bkgts", grouped, k, preferred_element_type=jnp.float32) * d**-0.5
    scores = jnp.where(mask[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    out = jnp.einsum("bkgts,bskd->btkgd", weights, v)
    return out.reshape(b, t, h, d)
