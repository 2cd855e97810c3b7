"""The GPU backend of attention over packed rows: cuDNN's fused attention.

cuDNN knows nothing of segment ids, but it takes ragged batches: the offset and the length of each
sequence of a row. So each segment is a sequence of its own to the kernel: nothing leaks from one into
another, and scores between two are never computed. Padding is one more segment.

It needs bfloat16 or float16, and a GPU of Hopper's generation or newer.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from livecc_jax.kernels.devices import HOPPER, gpu_capability
from livecc_jax.kernels.segments import segment_runs
from livecc_jax.model import attention_xla
from livecc_jax.model.attention_layout import Layout

# Segments that a call of cuDNN has room for, padding among them. Rows with more use plain XLA.
MAX_SEGMENTS = 32  # of a row of text
MAX_WINDOW_SEGMENTS = 8  # of a window of the vision tower (not causal)


def is_supported(q: jax.Array, k: jax.Array, layout: Layout) -> bool:
    """Whether cuDNN serves q [B, T, H, D] and k [B, T or S, K, D] on the GPU in scope."""
    head_shards = layout.num_shards(layout.heads) * layout.num_shards(layout.length)
    local_size = q.size // (head_shards * layout.num_shards(layout.batch))
    return (
        q.dtype in (jnp.bfloat16, jnp.float16)
        and q.dtype == k.dtype
        and q.shape[-1] % 8 == 0
        and q.shape[-1] <= 256
        and q.shape[2] % head_shards == 0
        and local_size < 2**31  # offsets are int32, in elements
        and gpu_capability() >= HOPPER
    )


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment_ids: jax.Array,
    layout: Layout,
    *,
    causal: bool,
    ragged_attention: Callable[..., jax.Array] | None = None,
) -> jax.Array:
    """Implements `model.attention.attend`.

    Where the length is split over context, the heads are split over it instead during attention (an
    all-to-all each way). Every device then has whole segments, and the same amount of work.

    Besides the arguments there, `ragged_attention` may take the place of JAX's private call of cuDNN
    (see `_attend_ragged`), so that tests run where there is no cuDNN.
    """
    head_axes = (*layout.heads, *layout.length)
    if k.shape[2] % layout.num_shards(head_axes):
        k, v = (_repeat_heads(x, q.shape[2] // k.shape[2]) for x in (k, v))
    attend_local = functools.partial(_attend_local, causal=causal, ragged_attention=ragged_attention)
    if layout.mesh is not None:
        batch = layout.batch or None
        qkv_spec = PartitionSpec(batch, None, head_axes or None, None)
        ids_spec = PartitionSpec(batch, None)
        attend_local = jax.shard_map(
            attend_local,
            in_specs=(qkv_spec, qkv_spec, qkv_spec, ids_spec),
            out_specs=qkv_spec,
            check_vma=False,
        )
    return attend_local(q, k, v, segment_ids)


def _repeat_heads(x: jax.Array, times: int) -> jax.Array:
    """Repeats each key head of [B, T, K, D] for every query head that it serves."""
    return jnp.repeat(x, times, axis=2) if times > 1 else x


def _attend_local(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    segment_ids: jax.Array,
    causal: bool,
    ragged_attention: Callable[..., jax.Array] | None,
) -> jax.Array:
    """Attends within the segments of whole rows on one device."""
    max_segments = min(MAX_SEGMENTS if causal else MAX_WINDOW_SEGMENTS, q.shape[1])
    starts, lengths, count = segment_runs(segment_ids, max_segments)
    return jax.lax.cond(
        jnp.max(count) <= max_segments,
        lambda q, k, v: _attend_ragged(q, k, v, starts, lengths, causal, ragged_attention),
        lambda q, k, v: attention_xla.attend(
            q, k, v, segment_ids, Layout(None, "gpu"), causal=causal
        ),
        q, k, v,
    )  # fmt: skip


def _attend_ragged(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    starts: jax.Array,
    lengths: jax.Array,
    causal: bool,
    ragged_attention: Callable[..., jax.Array] | None,
) -> jax.Array:
    """Calls cuDNN with ragged offsets, a form that `jax.nn.dot_product_attention` does not offer.

    Args:
        q: [B, T, H, D].
        k: [B, T, K, D].
        v: [B, T, K, D].
        starts: int32 [B, M + 1], first token of each segment, -1 where there is none.
        lengths: int32 [B, M], tokens of each segment, -1 where there is none.
        causal: Whether a token attends only to itself and to earlier tokens.
        ragged_attention: Function to call in place of JAX's, with the same arguments.
    """
    from jax._src.cudnn.fused_attention_stablehlo import MaskType, dot_product_attention

    if jax.__version_info__ < (0, 11, 2):
        # Before, the offsets of keys were computed from the number of query heads.
        k, v = (_repeat_heads(x, q.shape[2] // k.shape[2]) for x in (k, v))
    return (ragged_attention or dot_product_attention)(
        q,
        k,
        v,
        q_seqlen=lengths,
        kv_seqlen=lengths,
        q_offsets=starts,
        kv_offsets=starts,
        scale=q.shape[-1] ** -0.5,
        mask_type=MaskType.PADDING_CAUSAL if causal else MaskType.PADDING,
    )
