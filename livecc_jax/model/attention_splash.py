"""The TPU backend of attention: JAX's splash attention, over packed rows and over a KV cache.

Splash attention is a Pallas kernel that works block by block and skips the blocks that a causal mask
hides. On other platforms it runs in Pallas interpret mode, which is for tests.
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

LANES = 128  # block sizes are multiples of it
BLOCKS = (1024, 512, 256, LANES)  # block sizes, the best first
COMPUTE_BLOCK = 512  # most keys that a block multiplies at a time


def attend(
    q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array, layout: Layout, *, causal: bool
) -> jax.Array:
    """Implements `model.attention.attend`.

    Batch, heads and queries are split as `layout` says; keys and values are gathered over the axes that
    split the length. A length that is no multiple of a block is padded by tokens of no segment.
    """
    length, shards = q.shape[1], layout.num_shards(layout.length)
    local_length = -(-length // (shards * LANES)) * LANES  # queries of one device
    padded_length = local_length * shards
    q, k, v = (_pad_length(x, padded_length, 0) for x in (_scale(q), k, v))
    ids = _pad_length(segment_ids, padded_length, -1)
    kernel = _packed_kernel(
        heads=q.shape[2] // layout.num_shards(layout.heads),
        length=padded_length,
        block_q=_block_size(local_length),
        block_kv=_block_size(padded_length),
        shards=shards,
        causal=causal,
        interpret=layout.platform != "tpu",
    )

    def attend_shard(
        kernel: splash.SplashAttentionKernel, q: jax.Array, k: jax.Array, v: jax.Array, ids: jax.Array
    ) -> jax.Array:
        key_ids = ids
        for axis in layout.length:
            k, v, key_ids = (jax.lax.all_gather(x, axis, axis=1, tiled=True) for x in (k, v, key_ids))
        q_BHTD, k_BKTD, v_BKTD = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
        out_BHTD = jax.vmap(kernel)(q_BHTD, k_BKTD, v_BKTD, splash.SegmentIds(ids, key_ids))
        return jnp.swapaxes(out_BHTD, 1, 2)

    if layout.mesh is not None:
        specs = _kernel_specs(kernel, layout)
        attend_shard = jax.shard_map(
            attend_shard,
            in_specs=(specs, layout.qkv, layout.qkv, layout.qkv, layout.ids),
            out_specs=layout.qkv,
            check_vma=False,
        )
    return attend_shard(kernel, q, k, v, ids)[:, :length]


def attend_cache(
    q: jax.Array, k: jax.Array, v: jax.Array, length: jax.Array, interpret: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Attends to the first `length` slots of a cache, on one device; scores are never in memory.

    The kernel visits all C slots.

    Args:
        q: [B, Q, H, D].
        k: [B, C, K, D], C a multiple of 128.
        v: [B, C, K, D].
        length: int32 [B]; the output of a sequence with none is finite and has no weight.
        interpret: Run in Pallas interpret mode, on any device.

    Returns:
        The attention output [B, Q, H, D], and the log-sum-exp of scores, float32 [B, Q, H].
    """
    count, capacity = q.shape[1], k.shape[1]
    padded_count = -(-count // LANES) * LANES
    q = _pad_length(_scale(q), padded_count, 0)
    kernel = _cache_kernel(q.shape[2], padded_count, capacity, interpret)
    key_ids = (jnp.arange(capacity) < length[:, None]).astype(jnp.int32)
    ids = splash.SegmentIds(jnp.ones((len(q), padded_count), jnp.int32), key_ids)
    q_BHQD, k_BKCD, v_BKCD = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
    out, (log_sum_exp,) = jax.vmap(kernel)(q_BHQD, k_BKCD, v_BKCD, ids)
    out, log_sum_exp = (jnp.swapaxes(x, 1, 2)[:, :count] for x in (out, log_sum_exp))
    return out, jnp.where((length > 0)[:, None, None], log_sum_exp, -jnp.inf)


def _scale(q: jax.Array) -> jax.Array:
    """Scales queries, which the kernels expect; in float32, as 1 / sqrt(128) has no exact bfloat16."""
    return (q.astype(jnp.float32) * q.shape[-1] ** -0.5).astype(q.dtype)


def _pad_length(x: jax.Array, length: int, fill: int) -> jax.Array:
    """Pads [B, T, ...] to a length."""
    extra = length - x.shape[1]
    pad = [(0, 0), (0, extra)] + [(0, 0)] * (x.ndim - 2)
    return jnp.pad(x, pad, constant_values=fill) if extra else x


def _block_size(length: int) -> int:
    """Returns the best block size that divides a length."""
    return next(b for b in BLOCKS if length % b == 0)


@functools.lru_cache(maxsize=64)
def _packed_kernel(
    *,
    heads: int,
    length: int,
    block_q: int,
    block_kv: int,
    shards: int,
    causal: bool,
    interpret: bool,
) -> splash.SplashAttentionKernel:
    """Builds the kernel for packed rows, of all queries; its mask arrays are split with them."""
    shape = (length, length)
    mask = masks.CausalMask(shape, shard_count=shards) if causal else masks.FullMask(shape)
    compute = min(block_kv, COMPUTE_BLOCK)
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
    head_masks = masks.MultiHeadMask([mask] * heads)
    # As `make_splash_mha` does, but with numpy arrays. It would put them on a device, and the step may
    # be compiled for devices that are not attached.
    forward, mask_function = mask_info.process_mask(
        head_masks, (block_q, block_kv), head_shards=1, q_seq_shards=shards
    )
    backward, _ = mask_info.process_mask_dkv(
        head_masks, (block_q, block_kv), head_shards=1, q_seq_shards=shards
    )
    return _build_kernel(
        (forward, forward, backward),
        block_sizes=blocks,
        save_residuals=False,
        residual_checkpoint_name=ATTENTION,
        mask_function=mask_function,
        interpret=interpret,
    )


@functools.lru_cache(maxsize=64)
def _cache_kernel(
    heads: int, count: int, capacity: int, interpret: bool
) -> splash.SplashAttentionKernel:
    """Builds the kernel for a cache: every query attends to every key that segment ids allow."""
    block_kv = _block_size(capacity)
    blocks = splash.BlockSizes(
        block_q=_block_size(count), block_kv=block_kv, block_kv_compute=min(block_kv, COMPUTE_BLOCK)
    )
    mask = masks.MultiHeadMask([masks.FullMask((count, capacity))] * heads)
    forward, mask_function = mask_info.process_mask(
        mask, (blocks.block_q, block_kv), head_shards=1, q_seq_shards=1
    )
    return _build_kernel(
        (forward, None, None),
        block_sizes=blocks,
        save_residuals=True,
        residual_checkpoint_name=None,
        mask_function=mask_function,
        interpret=interpret,
    )


def _build_kernel(mask_infos: tuple[Any, Any, Any], **settings: Any) -> splash.SplashAttentionKernel:
    """Builds a kernel for several heads.

    Args:
        mask_infos: Masks of the forward pass, of dq and of dkv; None without a backward pass.
        settings: Further arguments of the kernel.
    """
    return splash.SplashAttentionKernel(
        *mask_infos,
        is_mqa=False,
        mask_value=splash.DEFAULT_MASK_VALUE,
        attn_logits_soft_cap=None,
        **settings,
    )


def _kernel_specs(kernel: splash.SplashAttentionKernel, layout: Layout) -> Any:
    """Returns the kernel with the partition of each of its mask arrays in the array's place."""
    spec = PartitionSpec(None, layout.length or None)
    return kernel.manual_sharding_spec(NamedSharding(layout.mesh, spec))
