"""Compiled steps of `evaluate.run.choice_model`: encode videos, prefill prefixes, score questions.

The batch axis B counts videos. With a mesh in scope, arrays are sharded as a batch is, and weights and
caches by the rules for decoding (`parallel.rules`).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from livecc_jax.decoding.attention import attend_cache, attend_masked, merge_attention
from livecc_jax.decoding.decoder import decoder_layer, logits, split_qkv
from livecc_jax.decoding.kv_cache import KVCache, append, prefill_empty_cache
from livecc_jax.decoding.linear import resolve_residual
from livecc_jax.decoding.vision import encode_padded_windows
from livecc_jax.decoding.weights import DecodingWeights
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.qwen2_vl import bind
from livecc_jax.model.rope import rotate
from livecc_jax.parallel.rules import constrain


@functools.partial(jax.jit, static_argnames="config")
def encode_windows(
    config: ModelConfig,
    weights: DecodingWeights,
    patches: jax.Array,
    counts: jax.Array,
    coordinates: jax.Array,
) -> jax.Array:
    """Encodes windows of patches with the vision tower.

    Args:
        config: Architecture of the model.
        weights: Weights prepared for decoding.
        patches: uint8 [B, W, S, 1176], patches of each window.
        counts: int32 [B, W], number of patches of each window that are not padding.
        coordinates: int32 [B, 2, W, S], row and column of each patch in its frame.

    Returns:
        [B, W * S / 4, D], merged patches.
    """
    batch, windows = patches.shape[:2]

    def flatten(x: jax.Array) -> jax.Array:
        x = x.reshape(batch * windows, *x.shape[2:])
        return constrain(x, "flat_windows", *[None] * (x.ndim - 1))

    rows_cols = jnp.stack([flatten(coordinates[:, 0]), flatten(coordinates[:, 1])])
    merged = encode_padded_windows(config, weights, flatten(patches), rows_cols, flatten(counts))
    return constrain(merged.reshape(batch, -1, merged.shape[-1]), "batch", "windows", None)


@functools.partial(jax.jit, donate_argnames="vision_embeds")
def scatter_patches(vision_embeds: jax.Array, merged: jax.Array, targets: jax.Array) -> jax.Array:
    """Writes merged patches into the array of all merged patches of each video.

    Args:
        vision_embeds: [B, M, D], donated.
        merged: [B, N, D], merged patches.
        targets: int32 [B, N], index of each in M; an index past the end drops it.
    """

    def scatter(vision_embeds: jax.Array, merged: jax.Array, targets: jax.Array) -> jax.Array:
        return vision_embeds.at[targets].set(merged.astype(vision_embeds.dtype), mode="drop")

    return constrain(jax.vmap(scatter)(vision_embeds, merged, targets), "batch", None, None)


@functools.partial(jax.jit, static_argnames="config")
def embed_tokens(
    config: ModelConfig,
    weights: DecodingWeights,
    tokens: jax.Array,
    vision_index: jax.Array,
    vision_embeds: jax.Array,
) -> jax.Array:
    """Embeds tokens.

    Args:
        config: Architecture of the model.
        weights: Weights prepared for decoding.
        tokens: int32 [B, Q].
        vision_index: int32 [B, Q], index in M of a vision token's merged patch; -1 for other tokens.
        vision_embeds: [B, M, D], merged patches.

    Returns:
        [B, Q, D].
    """
    return bind(config, weights.other).embed(tokens, vision_embeds, vision_index)


@functools.partial(jax.jit, static_argnames=("config", "capacity"))
def prefill_first_chunk(
    config: ModelConfig, weights: DecodingWeights, x: jax.Array, positions: jax.Array, capacity: int
) -> KVCache:
    """Prefills the first chunk of the prefixes.

    Args:
        config: Architecture of the model.
        weights: Weights prepared for decoding.
        x: [B, Q, D], embeddings.
        positions: int32 [B, 3, Q], rotary positions.
        capacity: Number of tokens that the cache has room for.
    """
    return prefill_empty_cache(bind(config, weights.other), weights.layers, x, positions, capacity)[1]


@functools.partial(jax.jit, static_argnames="config", donate_argnames="cache")
def prefill_next_chunk(
    config: ModelConfig,
    weights: DecodingWeights,
    cache: KVCache,
    length: jax.Array,
    x: jax.Array,
    positions: jax.Array,
) -> KVCache:
    """Appends a chunk of the prefixes to the cache.

    Args:
        config: Architecture of the model.
        weights: Weights prepared for decoding.
        cache: Keys and values of earlier chunks, donated.
        length: int32 [B], number of tokens in the cache.
        x: [B, Q, D], embeddings.
        positions: int32 [B, 3, Q], rotary positions.
    """
    model = bind(config, weights.other)
    return append(model, weights.layers, cache, x, positions, length)[1]


@functools.partial(jax.jit, static_argnames="config")
def question_logits(
    config: ModelConfig,
    weights: DecodingWeights,
    cache: KVCache,
    length: jax.Array,
    tokens: jax.Array,
    positions: jax.Array,
    segments: jax.Array,
    last: jax.Array,
) -> jax.Array:
    """Computes the logits after several questions about each video.

    The questions of a video are concatenated after the shared prefix; each attends to the prefix and to
    itself, and to no other question. Weights and cache are read once for all of them, and nothing is
    written to the cache.

    Args:
        config: Architecture of the model.
        weights: Weights prepared for decoding.
        cache: Keys and values of the shared prefixes.
        length: int32 [B], tokens of each prefix.
        tokens: int32 [B, Q], the concatenated questions of each video, without the prefix.
        positions: int32 [B, 3, Q], rotary positions.
        segments: int32 [B, Q], number of the question that a token belongs to; 0 is padding.
        last: int32 [B, N], index in Q of the last token of each question.

    Returns:
        float32 [B, N, V].
    """
    model = bind(config, weights.other)
    x = constrain(model.embed(tokens, None, None), "batch", "length", None)
    angles = model.text.angles(positions)
    causal = jnp.tril(jnp.ones((x.shape[1],) * 2, bool))
    mask = (segments[:, :, None] == segments[:, None, :]) & causal
    for i, (layer, (prefix_k, prefix_v)) in enumerate(zip(weights.layers, cache, strict=True)):

        def attend(
            qkv: jax.Array, prefix: tuple[jax.Array, ...] = (prefix_k, prefix_v)
        ) -> tuple[jax.Array, None]:
            q, k, v = split_qkv(qkv)
            q, k = rotate(q, angles), rotate(k, angles)
            return merge_attention(
                [attend_cache(q, *prefix, length), attend_masked(q, k, v, mask)]
            ), None

        with jax.named_scope(f"layer_{i}"):
            x, _ = decoder_layer(config.text, layer, x, attend)
    states = jax.vmap(lambda x, index: x[index])(model.text.final(resolve_residual(x)), last)
    return logits(model, weights, states)
