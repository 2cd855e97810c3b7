"""Attention of new tokens to a cache they have just been appended to (streaming)."""

from __future__ import annotations

import functools

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
    return masked_attention(q, k, v, jnp.arange(k.shape[1]) <= own[:, :, None])


def fused(q: jax.Array, k: jax.Array) -> bool:
    """Whether `attend_past` can serve: many queries in half precision on one GPU with cuDNN."""
    layout = layout_in_scope(("batch", None))
    if layout.platform != "gpu" or layout.mesh is not None or q.shape[1] == 1:
        return False
    return attention_cudnn.usable(q, k, layout)


def attend_past(
    q: jax.Array,
    past_k: jax.Array,
    past_v: jax.Array,
    length: jax.Array,
    k: jax.Array,
    v: jax.Array,
) -> jax.Array:
    """Attention to a past of some length and, causally, to the queries' own keys, by cuDNN.

    The past costs what is filled of it, not its capacity. The two parts are put together by their
    log-sum-exp (FlashAttention-2, arXiv 2307.08691, section 3.1).

    Args:
        q: [B, Q, H, D].
        past_k: [B, C, K, D], of which the first `length` are there.
        past_v: [B, C, K, D].
        length: int32 [B].
        k: [B, Q, K, D], the queries' own.
        v: [B, Q, K, D].

    Returns:
        [B, Q, H, D] in q's dtype.
    """
    cudnn = functools.partial(
        jax.nn.dot_product_attention, implementation="cudnn", return_residual=True
    )
    own, own_size = cudnn(q, k, v, is_causal=True)
    if not past_k.shape[1]:
        return own
    # A sequence of no keys is not defined: look at one, and give it no weight.
    past, past_size = cudnn(
        q,
        past_k,
        past_v,
        query_seq_lengths=jnp.full_like(length, q.shape[1]),
        key_value_seq_lengths=jnp.maximum(length, 1),
    )
    share = jax.nn.sigmoid(past_size - own_size) * (length > 0)[:, None, None]
    share = share[..., None]
    mixed = past.astype(jnp.float32) * share + own.astype(jnp.float32) * (1 - share)
    return mixed.astype(q.dtype)
