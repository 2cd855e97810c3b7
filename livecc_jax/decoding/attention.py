"""Attention of a turn's new tokens to the KV cache and to themselves.

The turn's own keys are written to the cache behind the older ones. Where kernels of ours serve, they
write and attend to all keys at once. Elsewhere the cache and the turn's own keys are attended to
separately, and the partial results are merged by the log-sum-exp of their scores (FlashAttention-2,
arXiv 2307.08691, section 3.1).

In array names B is the batch, Q queries, C slots of a cache, S keys, H query heads, K key heads and D
the width of a head.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from livecc_jax.kernels import flash_decode, flash_prefill
from livecc_jax.kernels.merge_partials import merge_partials
from livecc_jax.model import attention_cudnn, attention_splash
from livecc_jax.model.attention_layout import Layout, layout_in_scope

# Tuning of `_attend_cache_cudnn`, measured on an H100.
QUERY_TILE = 128  # queries that one thread block takes
MIN_BLOCKS = 64  # up to as many thread blocks leave half of the device idle, so keys are split
KEY_SPLITS = 8  # into so many parts
MIN_BATCH = 4  # sequences that keep the device busy, so that full query tiles matter more than many


class PartialAttention(NamedTuple):
    """Attention to some of the keys, and the weight that it has in attention to all of them."""

    out: jax.Array  # [B, Q, H, D]
    log_sum_exp: jax.Array  # float32 [B, Q, H], of the scores; -inf without keys


# Computes attention as `jax.nn.dot_product_attention` with residuals does; see `attend_cache`.
DenseAttention = Callable[..., tuple[jax.Array, jax.Array]]

_cudnn_attention: DenseAttention = functools.partial(
    jax.nn.dot_product_attention, implementation="cudnn", return_residual=True
)


def cudnn_is_supported(q: jax.Array, k: jax.Array) -> bool:
    """Whether cuDNN serves q [B, Q, H, D] and k [B, C, K, D] on the GPU, or on each of a mesh."""
    layout = layout_in_scope(("batch", None))
    return (
        layout.platform == "gpu"
        and attention_cudnn.is_supported(q, k, layout)
        and _divides_over_mesh(k, layout)
    )


def splash_is_supported(q: jax.Array, k: jax.Array) -> bool:
    """Whether splash attention serves q [B, Q, H, D] and k [B, C, K, D]: on TPUs, for full blocks."""
    layout, lanes = layout_in_scope(("batch", None)), attention_splash.LANES
    return (
        layout.platform == "tpu"
        and q.shape[1] >= lanes
        and k.shape[1] % lanes == 0
        and k.shape[3] % lanes == 0
        and _divides_over_mesh(k, layout)
    )


def _divides_over_mesh(k: jax.Array, layout: Layout) -> bool:
    """Whether each device has whole sequences and whole key heads of k [B, C, K, D]."""
    batch, _, kv_heads, _ = k.shape
    return (
        batch % layout.num_shards(layout.batch) == 0 and kv_heads % layout.num_shards(layout.heads) == 0
    )


def write_and_attend_is_supported(qkv: jax.Array, k: jax.Array) -> bool:
    """Whether `write_and_attend` serves qkv [B, Q, K, G + 2, D] and a cache's keys [B, C, K, D]."""
    kernels = flash_decode if qkv.shape[1] == 1 else flash_prefill
    layout = layout_in_scope(("batch", None))
    return kernels.is_supported(qkv, k) and _divides_over_mesh(k, layout)


def write_and_attend(
    qkv: jax.Array, angles: jax.Array, cache: tuple[jax.Array, jax.Array], length: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Rotates new tokens, writes them to the cache and attends, by kernels of ours on each device.

    `kernels.flash_decode` serves one token, `kernels.flash_prefill` more.

    Args:
        qkv: [B, Q, K, G + 2, D], each key head with its G queries, its key and its value.
        angles: float32 [B, Q, D / 2], rotary angles.
        cache: Keys (rotated) and values, each [B, C, K, D].
        length: int32 [B], tokens in the cache before.

    Returns:
        The attention output [B, Q, K * G, D], and the cache with the new tokens.
    """
    kernels = flash_decode if qkv.shape[1] == 1 else flash_prefill

    def per_device(
        qkv: jax.Array, angles: jax.Array, k: jax.Array, v: jax.Array, length: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        return kernels.write_and_attend(qkv, angles, (k, v), length)

    return _on_each_device(
        per_device, qkv, angles, *cache, length, out_specs=lambda qkv, _: (qkv, (qkv, qkv))
    )


def attend_cache(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    length: jax.Array,
    dense_attention: DenseAttention | None = None,
) -> PartialAttention:
    """Attends to the first `length` slots of a cache.

    With cuDNN the cost follows the length, not the capacity. On TPUs scores stay on the chip.

    Args:
        q: [B, Q, H, D], rotated.
        k: [B, C, K, D], rotated.
        v: [B, C, K, D].
        length: int32 [B]; the result of a sequence without keys is finite and has no weight.
        dense_attention: Attention to use in place of cuDNN, and on any device. It takes q, k and v, and
            as keywords `query_seq_lengths` and `key_value_seq_lengths`, or `is_causal`; it returns the
            output and the log-sum-exp of scores [B, Q, H].
    """
    if dense_attention or cudnn_is_supported(q, k):
        attend = functools.partial(
            _attend_cache_cudnn, dense_attention=dense_attention or _cudnn_attention
        )
        return _on_each_device(attend, q, k, v, length)
    if splash_is_supported(q, k):
        return _on_each_device(
            lambda *args: PartialAttention(*attention_splash.attend_cache(*args)), q, k, v, length
        )
    return attend_masked(q, k, v, jnp.arange(k.shape[1]) < length[:, None, None])


def attend_causal(
    q: jax.Array, k: jax.Array, v: jax.Array, dense_attention: DenseAttention | None = None
) -> PartialAttention:
    """Attends causally: each query to the keys up to its own.

    Args:
        q: [B, Q, H, D], rotated.
        k: [B, Q, K, D], rotated.
        v: [B, Q, K, D].
        dense_attention: As in `attend_cache`.
    """
    if dense_attention or cudnn_is_supported(q, k):
        attend = dense_attention or _cudnn_attention
        return _on_each_device(lambda *qkv: PartialAttention(*attend(*qkv, is_causal=True)), q, k, v)
    return attend_masked(q, k, v, jnp.tril(jnp.ones((1, q.shape[1], q.shape[1]), bool)))


def attend_masked(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> PartialAttention:
    """Attends to the keys of a mask, in plain XLA, with scores in float32.

    Args:
        q: [B, Q, H, D].
        k: [B, S, K, D].
        v: [B, S, K, D].
        mask: bool [1 or B, 1 or Q, S], true for keys to attend to.
    """
    b, t, h, d = q.shape
    kv_heads = k.shape[2]
    with jax.named_scope("attention"):
        q_BTKGD = q.reshape(b, t, kv_heads, h // kv_heads, d)
        scores = jnp.einsum("btkgd,bskd->bkgts", q_BTKGD, k, preferred_element_type=jnp.float32)
        scores = jnp.where(mask[:, None, None], scores * d**-0.5, -jnp.inf)
        # Finite even where no key is attended to, so that the weights are zeros and not NaN.
        peak = jnp.maximum(jnp.max(scores, axis=-1, keepdims=True), jnp.finfo(jnp.float32).min)
        weights = jnp.exp(scores - peak)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        weights = (weights / jnp.maximum(total, jnp.finfo(jnp.float32).tiny)).astype(v.dtype)
        out_BTKGD = jnp.einsum("bkgts,bskd->btkgd", weights, v)
        lse_BKGT = jnp.where(total > 0, peak + jnp.log(total), -jnp.inf)[..., 0]
    lse_BTH = lse_BKGT.transpose(0, 3, 1, 2).reshape(b, t, h)
    return PartialAttention(out_BTKGD.reshape(b, t, h, d), lse_BTH)


def merge_attention(parts: Sequence[PartialAttention]) -> jax.Array:
    """Returns attention to the keys of all parts, [B, Q, H, D] in the dtype of their outputs.

    Some part must have a key for each query.
    """
    if len(parts) == 1:
        return parts[0].out
    # As lists, because to stack the parts first would copy them.
    return merge_partials([part.out for part in parts], [part.log_sum_exp for part in parts])[0]


def _on_each_device(
    attend: Callable[..., Any],
    *arrays: jax.Array,
    out_specs: Callable[..., Any] = PartialAttention,
) -> Any:
    """Runs a function on each device of the mesh in scope, with the device's sequences and heads.

    Args:
        attend: The function, of one device's part of the arrays.
        arrays: Arrays whose first axis is the batch. The third axis of those with four axes or more is
            heads.
        out_specs: Builds the shardings of what the function returns, given those of [B, Q, H, D] and of
            [B, Q, H].
    """
    layout = layout_in_scope(("batch", None))
    if layout.mesh is None:
        return attend(*arrays)
    batch_spec = PartitionSpec(layout.batch or None)
    heads_spec = PartitionSpec(layout.batch or None, None, layout.heads or None)
    in_specs = tuple(layout.qkv if x.ndim > 3 else batch_spec for x in arrays)
    return jax.shard_map(
        attend, in_specs=in_specs, out_specs=out_specs(layout.qkv, heads_spec), check_vma=False
    )(*arrays)  # fmt: skip


def _attend_cache_cudnn(
    q: jax.Array, k: jax.Array, v: jax.Array, length: jax.Array, dense_attention: DenseAttention
) -> PartialAttention:
    """`attend_cache` by cuDNN on one device, in the form that keeps the device busiest."""
    batch, queries, heads, _ = q.shape
    kv_heads = k.shape[2]
    folded_q = _fold_heads_into_queries(q, kv_heads)
    blocks = batch * kv_heads * -(-folded_q.shape[1] // QUERY_TILE)
    if blocks <= MIN_BLOCKS and k.shape[1] % (KEY_SPLITS * QUERY_TILE) == 0:
        part = _attend_split_keys(folded_q, k, v, length, dense_attention)
    elif queries > 1 and batch < MIN_BATCH:
        return _attend_filled(q, k, v, length, dense_attention)
    else:
        part = _attend_filled(folded_q, k, v, length, dense_attention)
    return PartialAttention(*(_unfold_heads_from_queries(x, heads) for x in part))


def _attend_filled(
    q: jax.Array, k: jax.Array, v: jax.Array, length: jax.Array, dense_attention: DenseAttention
) -> PartialAttention:
    """Attends to the first `length` keys with one call of cuDNN."""
    out, log_sum_exp = dense_attention(
        q,
        k,
        v,
        query_seq_lengths=jnp.full_like(length, q.shape[1]),
        # cuDNN's result for an empty sequence is undefined, so it reads one key, which gets no weight.
        key_value_seq_lengths=jnp.maximum(length, 1),
    )
    log_sum_exp = jnp.where((length > 0)[:, None, None], log_sum_exp, -jnp.inf)
    return PartialAttention(out, log_sum_exp)


def _attend_split_keys(
    q: jax.Array, k: jax.Array, v: jax.Array, length: jax.Array, dense_attention: DenseAttention
) -> PartialAttention:
    """As `_attend_filled`, with the keys of each sequence in `KEY_SPLITS` parts, in parallel."""
    batch, split_size = len(q), k.shape[1] // KEY_SPLITS
    q = jnp.broadcast_to(q[:, None], (batch, KEY_SPLITS, *q.shape[1:])).reshape(-1, *q.shape[1:])
    k, v = (x.reshape(-1, split_size, *x.shape[2:]) for x in (k, v))
    split_length = length[:, None] - split_size * jnp.arange(KEY_SPLITS)
    split_length = jnp.clip(split_length, 0, split_size).reshape(-1)
    parts = _attend_filled(q, k, v, split_length, dense_attention)
    stacked = (x.reshape(batch, KEY_SPLITS, *x.shape[1:]).swapaxes(0, 1) for x in parts)
    return PartialAttention(*merge_partials(*stacked))


def _fold_heads_into_queries(q: jax.Array, kv_heads: int) -> jax.Array:
    """Makes the query heads of a key head its queries: [B, Q, H, ...] to [B, Q * H / K, K, ...].

    cuDNN then reads each key once for all of them, and its query tiles are fuller. It is right only
    where all queries attend to the same keys.
    """
    b, t, h = q.shape[:3]
    q_BTKG = q.reshape(b, t, kv_heads, h // kv_heads, *q.shape[3:])
    return q_BTKG.swapaxes(2, 3).reshape(b, -1, kv_heads, *q.shape[3:])


def _unfold_heads_from_queries(x: jax.Array, heads: int) -> jax.Array:
    """The inverse of `_fold_heads_into_queries`."""
    b, _, kv_heads = x.shape[:3]
    x_BTGK = x.reshape(b, -1, heads // kv_heads, kv_heads, *x.shape[3:])
    return x_BTGK.swapaxes(2, 3).reshape(b, -1, heads, *x.shape[3:])
