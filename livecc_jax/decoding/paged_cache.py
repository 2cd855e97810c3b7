"""The paged KV cache: slots for tokens' keys and values, shared by any number of conversations.

A conversation's context is a list of slots that the host keeps; nothing in the cache moves when a
conversation evicts turns, forks or ends. Keys are stored as their projection gives them, before
rotation: evicting a turn closes the gap, which gives the tokens behind it new positions. Each turn
gathers its context once, rotated to its present positions, into a workspace. That is a contiguous cache
of the turn's own (`decoding.kv_cache`), to which its prompt and answer are appended.

Over a mesh the slots are split as a batch is, and by key heads. The slots of a sequence are numbered
within the part of the cache on the devices that have the sequence.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from livecc_jax.decoding.decoder import DeepStack
from livecc_jax.decoding.kv_cache import KVCache, LayerCache, NewKV, append_returning_kv
from livecc_jax.kernels.quantized import QuantizedArray, dequantize, quantize_int8
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.qwen2_vl import Params, Qwen2VL
from livecc_jax.model.rope import rotate
from livecc_jax.parallel.rules import logical_shard_map, partition_spec

SlotArray = jax.Array | QuantizedArray  # [N, K, D]: keys or values of N slots
PagedCache = list[tuple[SlotArray, SlotArray]]  # one entry a layer: keys (not rotated) and values
PAGED_CACHE_AXES = ("batch", "kv_heads", None)  # logical axes of keys and of values
TOKEN_AXES = ("batch", None, "kv_heads", None)  # logical axes of [B, C, K, D]


class Context(NamedTuple):
    """The cached tokens that each sequence attends to, besides its own turn, padded to C."""

    slots: jax.Array  # int32 [B, C], where the cache holds each token
    tokens: jax.Array  # int32 [B, C]
    positions: jax.Array  # int32 [B, 3, C]
    length: jax.Array  # int32 [B], tokens that are not padding


def empty_paged_cache(
    config: ModelConfig,
    num_slots: int,
    dtype: Any,
    mesh: Mesh | None = None,
    precision: str = "weights",
) -> PagedCache:
    """Allocates zeros.

    Args:
        config: The architecture.
        num_slots: Number of tokens that the cache has room for, N.
        dtype: Dtype of the weights.
        mesh: Mesh to split the cache over.
        precision: `weights` stores keys and values in `dtype`; `int8` stores them quantized.
    """
    shape = (num_slots, config.text.kv_heads, config.text.head_dim)
    sharding = NamedSharding(mesh, partition_spec(PAGED_CACHE_AXES)) if mesh else None
    zeros = functools.partial(jnp.zeros, device=sharding)

    def empty_slots() -> SlotArray:
        if precision == "int8":
            return QuantizedArray(zeros(shape, jnp.int8), zeros((*shape[:2], 1), jnp.float32))
        return zeros(shape, dtype)

    return [(empty_slots(), empty_slots()) for _ in range(config.text.layers)]


def _scatter(cache: SlotArray, new: jax.Array, slots: jax.Array) -> SlotArray:
    """Writes [B, Q, K, D] to slots int32 [B, Q]. As no two are equal, this is a plain copy."""
    if isinstance(cache, QuantizedArray):
        parts = zip(cache, quantize_int8(new))
        return QuantizedArray(*(_scatter(old, part, slots) for old, part in parts))

    def set_slots(cache: jax.Array, new: jax.Array, slots: jax.Array) -> jax.Array:
        return cache.at[slots].set(new, mode="drop", unique_indices=True)

    axes = (PAGED_CACHE_AXES, TOKEN_AXES, ("batch", None))
    return logical_shard_map(set_slots, axes, PAGED_CACHE_AXES)(cache, new, slots)


def _gather(cache: SlotArray, slots: jax.Array, dtype: Any) -> jax.Array:
    """Reads slots int32 [B, C]: [B, C, K, D], in `dtype` if the cache is quantized."""
    if isinstance(cache, QuantizedArray):
        parts = (_gather(part, slots, part.dtype) for part in cache)
        return dequantize(QuantizedArray(*parts), dtype)
    gather = logical_shard_map(
        lambda cache, slots: cache[slots], (PAGED_CACHE_AXES, ("batch", None)), TOKEN_AXES
    )
    return gather(cache, slots)


def paged_prefill(
    model: Qwen2VL,
    layers: list[Params],
    cache: PagedCache,
    context: Context,
    x: jax.Array,
    positions: jax.Array,
    max_new_tokens: int,
    last: jax.Array | None = None,
    deepstack: DeepStack | None = None,
) -> tuple[jax.Array, KVCache, NewKV]:
    """Runs prompts through every layer, each attending to its context and to itself.

    Args:
        model: The bound model. Only its final norm and rotary settings are used.
        layers: `DecodingWeights.layers`.
        cache: The paged cache, which is only read.
        context: The cached tokens that each sequence attends to.
        x: [B, Q, D] embedded prompts, padded at their ends.
        positions: int32 [B, 3, Q].
        max_new_tokens: Number of tokens that the answer may have.
        last: int32 [B], the token of each prompt whose hidden state is wanted; None for all of them.
        deepstack: Features that join the first layers at the vision tokens of the prompts.

    Returns:
        Hidden states after the final norm, [B, Q, D], or [B, 1, D] with `last`; the workspace, a cache
        of context and prompt with room for the answer; and the keys and values of the prompt, for
        `paged_write`.
    """
    capacity = context.slots.shape[1]
    extra = workspace_size(capacity + x.shape[1] + max_new_tokens) - capacity
    slots, context_positions = (
        jnp.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, extra)]) for a in (context.slots, context.positions)
    )
    angles = model.text.angles(context_positions)

    def workspace() -> Iterator[LayerCache]:
        for layer in cache:
            yield gather_context(layer, slots, angles, context.length, x.dtype)

    return append_returning_kv(
        model, layers, workspace(), x, positions, context.length, last, deepstack
    )


def gather_context(
    layer: tuple[SlotArray, SlotArray],
    slots: jax.Array,
    angles: jax.Array,
    length: jax.Array,
    dtype: Any,
) -> LayerCache:
    """Gathers keys and values of a batch of contexts out of a layer of the paged cache.

    Args:
        layer: Keys (not rotated) and values of a layer of the paged cache.
        slots: int32 [B, C], the slot of each token of a context.
        angles: float32 [B, C, D / 2], rotary angles of the tokens.
        length: int32 [B], number of tokens of each context; slots beyond it are padding.
        dtype: Dtype that a quantized cache is dequantized to.

    Returns:
        Keys (rotated) and values, [B, C, K, D] each. Values beyond a context's length are zeros; keys
        there are undefined.
    """
    keys, values = (_gather(part, slots, dtype) for part in layer)
    in_context = (jnp.arange(slots.shape[1]) < length[:, None])[..., None, None]
    # The slots that pad a context belong to other conversations, and their values may be NaN, which a
    # weight of 0 would let through. Keys are masked by attention itself; to mask them here too would
    # move a tenth more memory for a prompt on a TPU.
    return rotate(keys, angles), jnp.where(in_context, values, 0)


def workspace_size(tokens: int) -> int:
    """Returns the capacity of a workspace for so many tokens: a multiple of the kernels' blocks."""
    block = 512 if tokens > 4096 else 128
    return -(-tokens // block) * block


def paged_write(cache: PagedCache, new_kv: NewKV, slots: jax.Array) -> PagedCache:
    """Writes new tokens to the cache, which the caller should donate.

    Args:
        cache: The paged cache, of N slots.
        new_kv: Keys (not rotated) and values of [B, Q] tokens.
        slots: int32 [B, Q], the slot of each token, no two equal; N and beyond for padding, which is
            not written.
    """
    return [
        (_scatter(keys, kv[..., 0, :], slots), _scatter(values, kv[..., 1, :], slots))
        for (keys, values), kv in zip(cache, new_kv)
    ]
