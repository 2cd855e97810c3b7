"""Splash attention (Pallas, TPU): blockwise, causal blocks above the diagonal skipped, packed rows.

On anything but a TPU the kernels run in Pallas's interpreter, which is for tests.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as splash,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_mask as masks,
)
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_mask_info as mask_info,
)
from jax.sharding import NamedSharding, PartitionSpec

from livecc_jax.model.attention_layout import Layout
from livecc_jax.model.remat import ATTENTION

LANES = 128  # a block is a multiple of this
BLOCKS = (1024, 512, 256, LANES)


def attend(
    q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array, layout: Layout, *, causal: bool
) -> jax.Array:
    """See `model.attention.attend`.

    Batch, heads and queries are split as `layout` says; keys and values are gathered over the axes that
    split the length. Lengths that are no multiple of a block are padded by tokens of no segment.
    """
    length, shards = q.shape[1], layout.parts(layout.length)
    local = -(-length // (shards * LANES)) * LANES  # queries of one device
    padded = local * shards
    q, k, v = (_pad(x, padded, 0) for x in (_scaled(q), k, v))
    ids = _pad(segment_ids, padded, -1)
    heads = q.shape[2] // layout.parts(layout.heads)
    kernel = _kernel(
        heads, padded, _block(local), _block(padded), shards, causal, layout.platform != "tpu"
    )

    def shard(
        kernel: splash.SplashAttentionKernel, q: jax.Array, k: jax.Array, v: jax.Array, ids: jax.Array
    ) -> jax.Array:
        everyone = ids
        for name in layout.length:
            k, v, everyone = (jax.lax.all_gather(x, name, axis=1, tiled=True) for x in (k, v, everyone))
        q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))  # [B, heads, T, D]
        out = jax.vmap(kernel)(q, k, v, splash.SegmentIds(ids, everyone))
        return jnp.swapaxes(out, 1, 2)

    if layout.mesh is not None:
        specs = _kernel_specs(kernel, layout)
        shard = jax.shard_map(
            shard,
            in_specs=(specs, layout.qkv, layout.qkv, layout.qkv, layout.ids),
            out_specs=layout.qkv,
            check_vma=False,
        )
    return shard(kernel, q, k, v, ids)[:, :length]


def attend_past(
    q: jax.Array, k: jax.Array, v: jax.Array, length: jax.Array, interpret: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Attention to the first `length` keys, on one device; scores are never in memory.

    All C keys are gone through.

    Args:
        q: [B, Q, H, D].
        k: [B, C, K, D], C a multiple of 128.
        v: [B, C, K, D].
        length: int32 [B]; a row of none gives anything, of no weight.
        interpret: run the kernel's meaning instead, on any device.

    Returns:
        ([B, Q, H, D], float32 [B, Q, H] logarithm of the sum of exponentials).
    """
    count, capacity = q.shape[1], k.shape[1]
    padded = -(-count // LANES) * LANES
    mine = _pad(_scaled(q), padded, 0)
    kernel = _past_kernel(q.shape[2], padded, capacity, interpret)
    there = (jnp.arange(capacity) < length[:, None]).astype(jnp.int32)
    ids = splash.SegmentIds(jnp.ones((len(q), padded), jnp.int32), there)
    mine, k, v = (jnp.swapaxes(x, 1, 2) for x in (mine, k, v))
    out, (size,) = jax.vmap(kernel)(mine, k, v, ids)
    out, size = (jnp.swapaxes(x, 1, 2)[:, :count] for x in (out, size))
    return out, jnp.where((length > 0)[:, None, None], size, -jnp.inf)


@functools.lru_cache(maxsize=64)
def _past_kernel(
    heads: int, count: int, capacity: int, interpret: bool
) -> splash.SplashAttentionKernel:
    """Every query sees every key, but for what segments say."""
    block_kv = _block(capacity)
    blocks = splash.BlockSizes(
        block_q=_block(count), block_kv=block_kv, block_kv_compute=min(block_kv, 512)
    )
    mask = masks.MultiHeadMask([masks.FullMask((count, capacity))] * heads)
    forward, function = mask_info.process_mask(
        mask, (blocks.block_q, block_kv), head_shards=1, q_seq_shards=1
    )
    return _made(
        (forward, None, None),
        block_sizes=blocks,
        save_residuals=True,
        residual_checkpoint_name=None,
        mask_function=function,
        interpret=interpret,
    )


def _made(mask_infos: tuple[Any, Any, Any], **settings: Any) -> splash.SplashAttentionKernel:
    """A kernel for several heads, of masks forward and, if it is to be differentiated, backward."""
    return splash.SplashAttentionKernel(
        *mask_infos,
        is_mqa=False,
        mask_value=splash.DEFAULT_MASK_VALUE,
        attn_logits_soft_cap=None,
        **settings,
    )


def _scaled(q: jax.Array) -> jax.Array:
    """Queries as the kernels want them, scaled in float32: 1 / sqrt(128) has no exact bfloat16."""
    return (q.astype(jnp.float32) * q.shape[-1] ** -0.5).astype(q.dtype)


def _pad(x: jax.Array, length: int, fill: int) -> jax.Array:
    extra = length - x.shape[1]
    pad = [(0, 0), (0, extra)] + [(0, 0)] * (x.ndim - 2)
    return jnp.pad(x, pad, constant_values=fill) if extra else x


def _block(length: int) -> int:
    """The largest block that divides a length."""
    return next(b for b in BLOCKS if length % b == 0)


@functools.lru_cache(maxsize=64)
def _kernel(
    heads: int, length: int, block_q: int, block_kv: int, shards: int, causal: bool, interpret: bool
) -> splash.SplashAttentionKernel:
    """The kernel for all queries; its mask arrays are split with them."""
    shape = (length, length)
    mask = masks.CausalMask(shape, shard_count=shards) if causal else masks.FullMask(shape)
    compute = min(block_kv, 512)
    blocks = splash.BlockSizes(
        block_q=block_q,
        block_kv=block_kv,
        block_kv_compute=compute,
        block_q_dkv=block_q,
        block_kv_dkv=block_kv,
        block_kv_dkv_compute=compute,
        block_q_dq=block_q,
        block_kv_dq=block_kv,
    )
    heads_mask = masks.MultiHeadMask([mask] * heads)
    # As `make_splash_mha` does, but with numpy arrays: it would put them on a device, and the step may
    # be compiled for devices that are not here.
    forward, function = mask_info.process_mask(
        heads_mask, (block_q, block_kv), head_shards=1, q_seq_shards=shards
    )
    backward, _ = mask_info.process_mask_dkv(
        heads_mask, (block_q, block_kv), head_shards=1, q_seq_shards=shards
    )
    return _made(
        (forward, forward, backward),
        block_sizes=blocks,
        save_residuals=False,
        residual_checkpoint_name=ATTENTION,
        mask_function=function,
        interpret=interpret,
    )


def _kernel_specs(kernel: splash.SplashAttentionKernel, layout: Layout) -> Any:
    """The kernel with the partition of each of its mask arrays in its place."""
    spec = PartitionSpec(None, layout.length or None)
    return kernel.manual_sharding_spec(NamedSharding(layout.mesh, spec))
