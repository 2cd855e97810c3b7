"""Merges partial attention results, each over some of the keys, by the log-sum-exp of their scores.

See FlashAttention-2 (arXiv 2307.08691, section 3.1). `merge_partials` is plain JAX for any device;
where `is_supported`, `merge_prefill_partials` does it in a Triton kernel that also puts the query heads
of a token next to each other again, and has `merge_prefill_partials_reference` as its plain equivalent.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from livecc_jax.kernels.devices import hopper_or_newer
from livecc_jax.kernels.disabled import enabled
from livecc_jax.kernels.gpu import has_triton, triton, triton_call

WARPS = 8  # warps of a block

Stack = jax.Array | Sequence[jax.Array]  # [P, ...], or P arrays


def merge_partials(outs: Stack, log_sums: Stack) -> tuple[jax.Array, jax.Array]:
    """Merges P partial results as if attention had seen the keys of all of them.

    Args:
        outs: The softmax-weighted values of each, [..., D].
        log_sums: The logarithm of each one's sum of exponentials, float32 [...]; -inf for no keys.

    Both are stacked arrays, or lists of arrays, which are then read in one pass without being stacked.

    Returns:
        The merged result [..., D] in the dtype of `outs`, zeros where no part has a key; and its
        log-sum-exp, float32 [...].
    """
    peak = _reduce(jnp.maximum, jnp.max, log_sums)
    peak = jnp.maximum(peak, jnp.finfo(jnp.float32).min)  # finite, so that no weight is NaN
    shares = jax.tree.map(lambda log_sum: jnp.exp(log_sum - peak), _tree(log_sums))
    total = _reduce(jnp.add, jnp.sum, shares)
    log_sum = jnp.where(total > 0, peak + jnp.log(total), -jnp.inf)
    total = jnp.maximum(total, jnp.finfo(jnp.float32).tiny)
    weighted = jax.tree.map(
        lambda out, share: out.astype(jnp.float32) * (share / total)[..., None], _tree(outs), shares
    )
    dtype = outs.dtype if isinstance(outs, jax.Array) else outs[0].dtype
    return _reduce(jnp.add, jnp.sum, weighted).astype(dtype), log_sum


def _tree(x: Stack) -> jax.Array | list[jax.Array]:
    return x if isinstance(x, jax.Array) else list(x)


def _reduce(pairwise, stacked, x: Stack) -> jax.Array:  # noqa: ANN001
    """Reduces the first axis of a stacked array, or a list of arrays."""
    return stacked(x, axis=0) if isinstance(x, jax.Array) else functools.reduce(pairwise, x)


def is_supported() -> bool:
    """Whether the kernel serves on the device in scope, or on each of a mesh."""
    return enabled("merge_partials") and hopper_or_newer() and has_triton()


def merge_prefill_partials_reference(
    outs: jax.Array, log_sums: jax.Array, queries: int, group: int
) -> jax.Array:
    """What `merge_prefill_partials` computes, step by step."""
    merged, _ = merge_partials(outs, log_sums)
    batch, kv_heads, _, size = merged.shape
    merged = merged[:, :, : queries * group].reshape(batch, kv_heads, queries, group, size)
    return merged.swapaxes(1, 2).reshape(batch, queries, kv_heads * group, size)


def merge_prefill_partials(outs: jax.Array, log_sums: jax.Array, queries: int, group: int) -> jax.Array:
    """Merges the partial results of `flash_prefill` and restores the order of heads.

    Args:
        outs: [P, B, K, R, D], for each key head its queries as `rope.rotate_and_write` orders them.
        log_sums: float32 [P, B, K, R], finite.
        queries: Number of tokens Q; rows from Q * G on are padding.
        group: Number of query heads for each key head, G.

    Returns:
        [B, Q, K * G, D].
    """
    from jax.experimental import pallas as pl

    parts, batch, kv_heads, rows, size = outs.shape
    width = kv_heads * group * size

    def kernel(outs_ref, log_sums_ref, merged_ref) -> None:  # noqa: ANN001
        token = pl.program_id(1)
        column = jnp.arange(pl.next_power_of_2(width))
        mask = column < width
        kv_head = jnp.minimum(column // (group * size), kv_heads - 1)
        row = token * group + column // size % group

        def load(ref, part: int, *index: jax.Array) -> jax.Array:  # noqa: ANN001
            at = (jnp.full(column.shape, part), kv_head, row, *index)
            return triton().load(ref.at[at], mask=mask, other=0).astype(jnp.float32)

        if parts == 1:
            merged = load(outs_ref, 0, column % size)
        else:
            each = [load(log_sums_ref, part) for part in range(parts)]
            peak = functools.reduce(jnp.maximum, each)
            shares = [jnp.exp(log_sum - peak) for log_sum in each]
            merged = sum(
                share * load(outs_ref, part, column % size) for part, share in enumerate(shares)
            )
            merged = merged / sum(shares)
        triton().store(merged_ref.at[column], merged.astype(merged_ref.dtype), mask=mask)

    def sequence_spec(*shape: int) -> pl.BlockSpec:
        return pl.BlockSpec((parts, None, *shape), lambda b, t: (0, b, *[0] * len(shape)))

    merged = triton_call(
        kernel,
        warps=WARPS,
        grid=(batch, queries),
        in_specs=[sequence_spec(kv_heads, rows, size), sequence_spec(kv_heads, rows)],
        out_specs=pl.BlockSpec((None, None, width), lambda b, t: (b, t, 0)),
        out_shape=jax.ShapeDtypeStruct((batch, queries, width), outs.dtype),
        name="merge_prefill_partials",
    )(outs, log_sums)
    return merged.reshape(batch, queries, kv_heads * group, size)
