"""Attention of new tokens to a cache they have just been appended to (streaming)."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from livecc_jax.model import attention_cudnn
from livecc_jax.model.attention_layout import layout_in_scope
from livecc_jax.model.attention_xla import masked_attention


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
    return attend_seen(q, k, v, jnp.arange(k.shape[1]) <= own[:, :, None])


def attend_seen(q: jax.Array, k: jax.Array, v: jax.Array, seen: jax.Array) -> jax.Array:
    """Attention of many queries to what each may see, by cuDNN where there is one.

    Args:
        q: [B, Q, H, D].
        k: [B, S, K, D].
        v: [B, S, K, D].
        seen: bool [B, Q, S]; every query sees something.

    Returns:
        [B, Q, H, D] in q's dtype.
    """
    layout = layout_in_scope(("batch", None))
    fused = layout.platform == "gpu" and layout.mesh is None and q.shape[1] > 1
    if fused and attention_cudnn.usable(q, k, layout):
        mask = seen[:, None]
        return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="cudnn")
    return masked_attention(q, k, v, seen)
