"""Fused attention of cuDNN (GPU) over packed rows.

cuDNN knows nothing of segment ids, but it takes ragged batches: where each segment of a row starts and
how long it is. So a segment is a sequence of its own to the kernel: nothing can leak between two, and
what lies between them is never computed. Padding is one more segment.

Needs bfloat16 or float16 and a GPU of Hopper's generation or newer.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from livecc_jax.kernels.devices import HOPPER, gpu_capability
from livecc_jax.model import attention_xla
from livecc_jax.model.attention_layout import Layout

MAX_SEGMENTS = 32  # of a row, its padding among them; rows with more go through plain XLA
NARROW_SEGMENTS = 8  # of a vision window (not causal), likewise


def usable(q: jax.Array, k: jax.Array, layout: Layout) -> bool:
    """Whether these arrays can go through cuDNN on the GPU there is."""
    split = layout.parts(layout.heads) * layout.parts(layout.length)
    local = q.size // (split * layout.parts(layout.batch))
    return (
        q.dtype in (jnp.bfloat16, jnp.float16)
        and q.dtype == k.dtype
        and q.shape[-1] % 8 == 0
        and q.shape[-1] <= 256
        and q.shape[2] % split == 0
        and local < 2**31  # offsets are int32, in elements
        and gpu_capability() >= HOPPER
    )


def attend(
    q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array, layout: Layout, *, causal: bool
) -> jax.Array:
    """See `model.attention.attend`.

    Where the length is split over context, the heads are split over it instead during attention (an
    all-to-all each way): every device then has whole segments, and as much to do as the others.
    """
    heads = (*layout.heads, *layout.length)
    if k.shape[2] % layout.parts(heads):
        k, v = (_repeat(x, q.shape[2] // k.shape[2]) for x in (k, v))
    local = functools.partial(_local, causal=causal)
    if layout.mesh is not None:
        batch = layout.batch or None
        qkv, ids = PartitionSpec(batch, None, heads or None, None), PartitionSpec(batch, None)
        local = jax.shard_map(local, in_specs=(qkv, qkv, qkv, ids), out_specs=qkv, check_vma=False)
    return local(q, k, v, segment_ids)


def _repeat(x: jax.Array, times: int) -> jax.Array:
    """Each key head once for every query head that it serves."""
    return jnp.repeat(x, times, axis=2) if times > 1 else x


def _local(q: jax.Array, k: jax.Array, v: jax.Array, segment_ids: jax.Array, causal: bool) -> jax.Array:
    """On whole rows of one device."""
    most = MAX_SEGMENTS if causal else NARROW_SEGMENTS
    most = min(most, q.shape[1])
    starts, lengths, count = runs(segment_ids, most)
    return jax.lax.cond(
        jnp.max(count) <= most,
        lambda q, k, v: _ragged(q, k, v, starts, lengths, causal),
        lambda q, k, v: attention_xla.attend(
            q, k, v, segment_ids, Layout(None, "gpu"), causal=causal
        ),
        q, k, v,
    )  # fmt: skip


def runs(segment_ids: jax.Array, most: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Where the first `most` runs of equal ids of each row begin and how long they are.

    Args:
        segment_ids: int32 [B, T].
        most: M.

    Returns:
        int32 [B, M + 1] first tokens and int32 [B, M] lengths, -1 beyond the row's runs (and last);
        int32 [B] how many runs there are.
    """
    length = segment_ids.shape[1]
    first = jnp.diff(segment_ids, axis=1, prepend=segment_ids[:, :1] - 1) != 0

    def row(first: jax.Array) -> tuple[jax.Array, jax.Array]:
        starts = jnp.nonzero(first, size=most + 1, fill_value=length)[0].astype(jnp.int32)
        lengths = jnp.diff(starts)
        real = lengths > 0
        return (
            jnp.append(jnp.where(real, starts[:-1], -1), jnp.int32(-1)),
            jnp.where(real, lengths, -1),
        )

    starts, lengths = jax.vmap(row)(first)
    return starts, lengths, jnp.sum(first, axis=1)


def _ragged(
    q: jax.Array, k: jax.Array, v: jax.Array, starts: jax.Array, lengths: jax.Array, causal: bool
) -> jax.Array:
    """The packed-offset form behind jax's cuDNN call, which `jax.nn` does not offer."""
    from jax._src.cudnn.fused_attention_stablehlo import MaskType, dot_product_attention

    if jax.__version_info__ < (0, 11, 2):
        # Before, the offsets of keys were computed from the number of query heads.
        k, v = (_repeat(x, q.shape[2] // k.shape[2]) for x in (k, v))
    return dot_product_attention(
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
