"""The plain XLA backend of attention over packed rows: it runs anywhere, and others must equal it."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from livecc_jax.model.attention_layout import Layout

QUERY_BLOCK = 512  # queries whose scores are in memory together, in long rows


def attend(
    q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array, layout: Layout, *, causal: bool
) -> jax.Array:
    """Implements `model.attention.attend`.

    Where the length is split over context, queries stay split, and keys and values are gathered.
    """
    if layout.mesh is None:
        return _attend_local(q, k, v, segment_ids, segment_ids, jnp.int32(0), causal)

    def attend_shard(q: jax.Array, k: jax.Array, v: jax.Array, ids: jax.Array) -> jax.Array:
        start, key_ids = jnp.int32(0), ids
        for axis in layout.length:
            start = jax.lax.axis_index(axis) * q.shape[1]
            k, v, key_ids = (jax.lax.all_gather(x, axis, axis=1, tiled=True) for x in (k, v, key_ids))
        return _attend_local(q, k, v, ids, key_ids, start, causal)

    specs = (layout.qkv, layout.qkv, layout.qkv, layout.ids)
    length, shards = q.shape[1], layout.num_shards(layout.length)
    q, k, v, segment_ids = (_pad_length(x, shards) for x in (q, k, v, segment_ids))
    out_BTHD = jax.shard_map(attend_shard, in_specs=specs, out_specs=layout.qkv, check_vma=False)(
        q, k, v, segment_ids
    )
    return out_BTHD[:, :length]


def _pad_length(x: jax.Array, multiple: int) -> jax.Array:
    """Pads [B, T, ...] with zeros to a length that is a multiple."""
    extra = -x.shape[1] % multiple
    return jnp.pad(x, [(0, 0), (0, extra)] + [(0, 0)] * (x.ndim - 2)) if extra else x


def _attend_local(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    query_ids: jax.Array,
    key_ids: jax.Array,
    start: jax.Array,
    causal: bool,
) -> jax.Array:
    """Attends on one device.

    Args:
        q: [B, T, H, D].
        k: [B, S, K, D].
        v: [B, S, K, D].
        query_ids: int32 [B, T], segment of each query.
        key_ids: int32 [B, S], segment of each key.
        start: int32, the key that belongs to the first query.
        causal: Whether a token attends only to itself and to earlier tokens.
    """
    length = q.shape[1]

    def attend_block(q: jax.Array, query_ids: jax.Array, slots: jax.Array) -> jax.Array:
        mask_BTS = query_ids[:, :, None] == key_ids[:, None, :]
        if causal:
            mask_BTS &= slots[:, None] >= jnp.arange(k.shape[1])
        return masked_attention(q, k, v, mask_BTS)

    slots_T = start + jnp.arange(length)
    if length <= 2 * QUERY_BLOCK:
        return attend_block(q, query_ids, slots_T)

    # Long rows take one block of queries after another, recomputed in the backward pass, so that no
    # array of length x length exists.
    def split_blocks(x: jax.Array, axis: int) -> jax.Array:
        pad = [(0, 0)] * x.ndim
        pad[axis] = (0, -length % QUERY_BLOCK)
        x = jnp.pad(x, pad)
        return jnp.moveaxis(x.reshape(*x.shape[:axis], -1, QUERY_BLOCK, *x.shape[axis + 1 :]), axis, 0)

    blocks = (split_blocks(q, 1), split_blocks(query_ids, 1), split_blocks(slots_T, 0))
    out = jax.lax.map(jax.checkpoint(lambda block: attend_block(*block)), blocks)
    out = jnp.moveaxis(out, 0, 1)
    return out.reshape(out.shape[0], -1, *out.shape[3:])[:, :length]


@functools.partial(jax.named_call, name="attention")
def masked_attention(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """Computes softmax attention with scores and normalization in float32.

    Args:
        q: [B, T, H, D].
        k: [B, S, K, D].
        v: [B, S, K, D].
        mask: bool [B, T, S], true for keys to attend to.

    Returns:
        [B, T, H, D] in v's dtype.
    """
    b, t, h, d = q.shape
    kv_heads = k.shape[2]
    q_BTKGD = q.reshape(b, t, kv_heads, h // kv_heads, d)
    scores = jnp.einsum("btkgd,bskd->bkgts", q_BTKGD, k, preferred_element_type=jnp.float32) * d**-0.5
    scores = jnp.where(mask[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights_BKGTS = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    out_BTKGD = jnp.einsum("bkgts,bskd->btkgd", weights_BKGTS, v)
    return out_BTKGD.reshape(b, t, h, d)
