"""Attention in plain XLA operations: what the other backends must equal, and runs anywhere."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from livecc_jax.model.attention_layout import Layout

QUERY_BLOCK = 512


def attend(
    q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array, layout: Layout, *, causal: bool
) -> jax.Array:
    """See `model.attention.attend`. Split over context, queries stay and see everyone's keys."""
    if layout.mesh is None:
        return _local(q, k, v, segment_ids, segment_ids, jnp.int32(0), causal)

    def shard(q: jax.Array, k: jax.Array, v: jax.Array, ids: jax.Array) -> jax.Array:
        start, everyone = jnp.int32(0), ids
        for name in layout.length:
            start = jax.lax.axis_index(name) * q.shape[1]
            k, v, everyone = (jax.lax.all_gather(x, name, axis=1, tiled=True) for x in (k, v, everyone))
        return _local(q, k, v, ids, everyone, start, causal)

    specs = (layout.qkv, layout.qkv, layout.qkv, layout.ids)
    length = q.shape[1]
    q, k, v, segment_ids = (_pad(x, layout.parts(layout.length)) for x in (q, k, v, segment_ids))
    out = jax.shard_map(shard, in_specs=specs, out_specs=layout.qkv, check_vma=False)(
        q, k, v, segment_ids
    )
    return out[:, :length]


def _pad(x: jax.Array, multiple: int) -> jax.Array:
    extra = -x.shape[1] % multiple
    return jnp.pad(x, [(0, 0), (0, extra)] + [(0, 0)] * (x.ndim - 2)) if extra else x


def _local(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segments: jax.Array,
    key_segments: jax.Array,
    start: jax.Array,
    causal: bool,
) -> jax.Array:
    """Queries [B, T, H, D], the first of them token `start` of the S whose keys are [B, S, K, D]."""
    length = q.shape[1]

    def block(q_block: jax.Array, segments: jax.Array, slots: jax.Array) -> jax.Array:
        mask = segments[:, :, None] == key_segments[:, None, :]
        if causal:
            mask &= slots[:, None] >= jnp.arange(k.shape[1])
        return masked_attention(q_block, k, v, mask)

    slots = start + jnp.arange(length)
    if length <= 2 * QUERY_BLOCK:
        return block(q, segments, slots)

    # Long rows: one block of queries at a time, recomputed in the backward pass, so that no array of
    # length x length is ever alive.
    def split(x: jax.Array, axis: int) -> jax.Array:
        pad = [(0, 0)] * x.ndim
        pad[axis] = (0, -length % QUERY_BLOCK)
        x = jnp.pad(x, pad)
        return jnp.moveaxis(x.reshape(*x.shape[:axis], -1, QUERY_BLOCK, *x.shape[axis + 1 :]), axis, 0)

    blocks = (split(q, 1), split(segments, 1), split(slots, 0))
    out = jax.lax.map(jax.checkpoint(lambda b: block(*b)), blocks)
    out = jnp.moveaxis(out, 0, 1)
    return out.reshape(out.shape[0], -1, *out.shape[3:])[:, :length]


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
