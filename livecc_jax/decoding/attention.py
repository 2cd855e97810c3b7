"""Attention of new tokens to what came before them and to themselves (streaming).

The turn's own keys are written behind the past's. Where kernels of ours serve, they do that and attend
to all of it. Elsewhere the past and the turn's own are parts: each is attended to by itself, and parts
are put together by the log-sum-exp of their scores (FlashAttention-2, arXiv 2307.08691, section 3.1).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from livecc_jax.kernels import flash_decode, flash_prefill
from livecc_jax.model import attention_cudnn, attention_splash
from livecc_jax.model.attention_layout import Layout, layout_in_scope

MANY = 4  # rows that keep a device busy, so that full blocks matter more than many of them
TILE = 128  # queries that a block of the device takes
FEW = 64  # blocks that leave half of a device idle, so that keys are split over more of them
SPLIT = 8  # in so many


class Part(NamedTuple):
    """Attention to some of the keys: their softmax, and how much weight it has."""

    out: jax.Array  # [B, Q, H, D]
    size: jax.Array  # float32 [B, Q, H], log of the sum of exponentials


def fused(q: jax.Array, k: jax.Array) -> bool:
    """Whether cuDNN can serve: half precision on GPUs of its kind, rows and key heads whole on each."""
    layout = layout_in_scope(("batch", None))
    usable = layout.platform == "gpu" and attention_cudnn.usable(q, k, layout)
    return usable and _whole(k, layout)


def blockwise(q: jax.Array, k: jax.Array) -> bool:
    """Whether splash is for these: queries that fill a block, on TPUs with whole rows and key heads."""
    layout, lanes = layout_in_scope(("batch", None)), attention_splash.LANES
    return (
        layout.platform == "tpu"
        and q.shape[1] >= lanes
        and k.shape[1] % lanes == 0
        and k.shape[3] % lanes == 0
        and _whole(k, layout)
    )


def _whole(k: jax.Array, layout: Layout) -> bool:
    """Whether each device has whole rows and key heads."""
    rows, _, heads, _ = k.shape
    return rows % layout.parts(layout.batch) == 0 and heads % layout.parts(layout.heads) == 0


def takes(qkv: jax.Array, k: jax.Array) -> bool:
    """Whether `keep_and_attend` serves these, qkv [B, Q, K, G + 2, D] and k [B, C, K, D]."""
    kernels = flash_decode if qkv.shape[1] == 1 else flash_prefill
    return fused(qkv, k) and kernels.usable(qkv, k)


def keep_and_attend(
    qkv: jax.Array, angles: jax.Array, kept: tuple[jax.Array, jax.Array], length: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Rotate, keep and attend in kernels, by each device with its own rows and heads.

    See `attention_one.keep_and_attend` for one token, and `attention_prompt.keep_and_attend` for more.
    """
    kernels = flash_decode if qkv.shape[1] == 1 else flash_prefill

    def act(qkv: jax.Array, angles: jax.Array, *kept_and_length: jax.Array) -> tuple:
        *kept, length = kept_and_length
        return kernels.keep_and_attend(qkv, angles, tuple(kept), length)

    return _on_own_part(act, qkv, angles, *kept, length, made=lambda whole, _: (whole, (whole, whole)))


def attend_past(q: jax.Array, k: jax.Array, v: jax.Array, length: jax.Array) -> Part:
    """Attention to the first `length` keys.

    Where cuDNN serves it costs what is there, not its capacity; on TPUs scores stay on the chip.

    Args:
        q: [B, Q, H, D].
        k: [B, C, K, D].
        v: [B, C, K, D].
        length: int32 [B]; a row of none has no weight.
    """
    if fused(q, k):
        return _on_own_part(_past, q, k, v, length)
    if blockwise(q, k):
        return _on_own_part(lambda *given: Part(*attention_splash.attend_past(*given)), q, k, v, length)
    return attend_masked(q, k, v, jnp.arange(k.shape[1]) < length[:, None, None])


def attend_causal(q: jax.Array, k: jax.Array, v: jax.Array) -> Part:
    """Attention of each query to the keys up to its own; k and v [B, Q, K, D]."""
    if fused(q, k):
        return _on_own_part(lambda *qkv: Part(*_cudnn(*qkv, is_causal=True)), q, k, v)
    return attend_masked(q, k, v, jnp.tril(jnp.ones((1, q.shape[1], q.shape[1]), bool)))


def _on_own_part(act: Callable[..., Any], *arrays: jax.Array, made: Callable[..., Any] = Part) -> Any:
    """`act` by each device of the mesh in scope, with its own rows and heads.

    Args:
        act: for arrays of one device.
        arrays: of rows; those of four axes or more have heads as their third.
        made: what `act` gives, from the shardings of [B, Q, H, D] and of [B, Q, H].
    """
    layout = layout_in_scope(("batch", None))
    if layout.mesh is None:
        return act(*arrays)
    by_row = PartitionSpec(layout.batch or None)
    of_size = PartitionSpec(layout.batch or None, None, layout.heads or None)
    given = tuple(layout.qkv if x.ndim > 3 else by_row for x in arrays)
    return jax.shard_map(
        act, in_specs=given, out_specs=made(layout.qkv, of_size), check_vma=False
    )(*arrays)  # fmt: skip


def _past(q: jax.Array, k: jax.Array, v: jax.Array, length: jax.Array) -> Part:
    """`attend_past` on one device that cuDNN serves."""
    kv = k.shape[2]
    by_key_head = _by_key_head(q, kv)
    blocks = len(q) * kv * -(-by_key_head.shape[1] // TILE)
    if blocks <= FEW and k.shape[1] % (SPLIT * TILE) == 0:
        part = _split(by_key_head, k, v, length)
    elif q.shape[1] > 1 and len(q) < MANY:
        return _filled(q, k, v, length)
    else:
        part = _filled(by_key_head, k, v, length)
    return Part(*(_by_query_head(x, q.shape[2]) for x in part))


def attend_masked(q: jax.Array, k: jax.Array, v: jax.Array, seen: jax.Array) -> Part:
    """Attention to the keys of a mask, in plain XLA, scores in float32.

    Args:
        q: [B, Q, H, D].
        k: [B, S, K, D].
        v: [B, S, K, D].
        seen: bool [1 or B, 1 or Q, S].
    """
    b, t, h, d = q.shape
    kv = k.shape[2]
    with jax.named_scope("attention"):
        grouped = q.reshape(b, t, kv, h // kv, d)
        scores = jnp.einsum("btkgd,bskd->bkgts", grouped, k, preferred_element_type=jnp.float32)
        scores = jnp.where(seen[:, None, None], scores * d**-0.5, -jnp.inf)
        # Finite even where nothing is seen, so that no weight is not a number.
        most = jnp.maximum(jnp.max(scores, axis=-1, keepdims=True), jnp.finfo(jnp.float32).min)
        weights = jnp.exp(scores - most)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        weights = (weights / jnp.maximum(total, jnp.finfo(jnp.float32).tiny)).astype(v.dtype)
        out = jnp.einsum("bkgts,bskd->btkgd", weights, v)
        size = jnp.where(total > 0, most + jnp.log(total), -jnp.inf)
    return Part(out.reshape(b, t, h, d), size[..., 0].transpose(0, 3, 1, 2).reshape(b, t, h))


def together(parts: list[Part]) -> jax.Array:
    """Attention to the keys of all parts, [B, Q, H, D] in q's dtype; no row may see nothing."""
    if len(parts) == 1:
        return parts[0].out
    # Not stacked first: that would be a copy, and this is one pass over what is there.
    most = functools.reduce(jnp.maximum, (part.size for part in parts))
    most = jnp.maximum(most, jnp.finfo(jnp.float32).min)
    shares = [jnp.exp(part.size - most) for part in parts]
    total = jnp.maximum(sum(shares), jnp.finfo(jnp.float32).tiny)
    mixed = sum(
        part.out.astype(jnp.float32) * (share / total)[..., None] for part, share in zip(parts, shares)
    )
    return mixed.astype(parts[0].out.dtype)


def _together(out: jax.Array, size: jax.Array) -> Part:
    """Parts [P, B, Q, H, D] and [P, B, Q, H] as one."""
    most = jnp.maximum(jnp.max(size, axis=0), jnp.finfo(jnp.float32).min)
    share = jnp.exp(size - most)
    total = jnp.sum(share, axis=0)
    weight = jnp.where(total > 0, most + jnp.log(total), -jnp.inf)
    share /= jnp.maximum(total, jnp.finfo(jnp.float32).tiny)
    mixed = jnp.sum(out.astype(jnp.float32) * share[..., None], axis=0)
    return Part(mixed.astype(out.dtype), weight)


_cudnn = functools.partial(jax.nn.dot_product_attention, implementation="cudnn", return_residual=True)


def _filled(q: jax.Array, k: jax.Array, v: jax.Array, length: jax.Array) -> Part:
    """`attend_past` by cuDNN."""
    out, size = _cudnn(
        q,
        k,
        v,
        query_seq_lengths=jnp.full_like(length, q.shape[1]),
        # A sequence of no keys is not defined: look at one, and give it no weight.
        key_value_seq_lengths=jnp.maximum(length, 1),
    )
    return Part(out, jnp.where((length > 0)[:, None, None], size, -jnp.inf))


def _split(q: jax.Array, k: jax.Array, v: jax.Array, length: jax.Array) -> Part:
    """`_filled` with the keys of each row in `SPLIT` parts, side by side."""
    rows, each = len(q), k.shape[1] // SPLIT
    many = jnp.broadcast_to(q[:, None], (rows, SPLIT, *q.shape[1:])).reshape(-1, *q.shape[1:])
    k, v = (x.reshape(-1, each, *x.shape[2:]) for x in (k, v))
    there = jnp.clip(length[:, None] - each * jnp.arange(SPLIT), 0, each).reshape(-1)
    parts = (x.reshape(rows, SPLIT, *x.shape[1:]).swapaxes(0, 1) for x in _filled(many, k, v, there))
    return _together(*parts)


def _by_key_head(q: jax.Array, kv: int) -> jax.Array:
    """[B, Q, H, ...] to [B, Q * H / K, K, ...]: the query heads of a key head become its queries.

    The kernel reads each key for so many queries at once, and its blocks of queries are fuller. Only
    where every query sees the same keys.
    """
    b, t, h = q.shape[:3]
    return q.reshape(b, t, kv, h // kv, *q.shape[3:]).swapaxes(2, 3).reshape(b, -1, kv, *q.shape[3:])


def _by_query_head(x: jax.Array, h: int) -> jax.Array:
    """The way back."""
    b, _, kv = x.shape[:3]
    return x.reshape(b, -1, h // kv, kv, *x.shape[3:]).swapaxes(2, 3).reshape(b, -1, h, *x.shape[3:])
