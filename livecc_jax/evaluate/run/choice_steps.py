"""The programs that `evaluate.run.choice` runs: seeing videos, and asking about them.

Rows are videos. With a mesh in scope they are split over it as a batch is, and weights and caches as
everywhere (`parallel.rules`).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from livecc_jax.decoding.attention import attend_masked, attend_past, together
from livecc_jax.decoding.decoder import decoder_layer, logits, taken_apart
from livecc_jax.decoding.kv_cache import Cache, append, start
from livecc_jax.decoding.linear import whole
from livecc_jax.decoding.vision import see_windows
from livecc_jax.decoding.weights import Weights
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.qwen2_vl import bind
from livecc_jax.model.rope import rotate
from livecc_jax.parallel.rules import constrain


@functools.partial(jax.jit, static_argnames="config")
def encode_windows(
    config: ModelConfig, weights: Weights, patches: jax.Array, counts: jax.Array, places: jax.Array
) -> jax.Array:
    """Encode windows.

    Args:
        config: the architecture.
        weights: for decoding.
        patches: uint8 [B, W, S, 1176].
        counts: int32 [B, W], real patches of each window.
        places: int32 [B, 2, W, S], rows and columns.

    Returns:
        [B, W * S / 4, D].
    """
    batch, count = patches.shape[:2]

    def flat(x: jax.Array) -> jax.Array:
        x = x.reshape(batch * count, *x.shape[2:])
        return constrain(x, "flat_windows", *[None] * (x.ndim - 1))

    where = jnp.stack([flat(places[:, 0]), flat(places[:, 1])])
    merged = see_windows(config, weights, flat(patches), where, flat(counts))
    return constrain(merged.reshape(batch, -1, merged.shape[-1]), "batch", "windows", None)


@functools.partial(jax.jit, donate_argnames="seen")
def scatter_patches(seen: jax.Array, merged: jax.Array, to: jax.Array) -> jax.Array:
    """Put merged patches where they belong; `to` int32 [B, W * S / 4], past the end for padding."""

    def one(seen: jax.Array, merged: jax.Array, to: jax.Array) -> jax.Array:
        return seen.at[to].set(merged.astype(seen.dtype), mode="drop")

    return constrain(jax.vmap(one)(seen, merged, to), "batch", None, None)


@functools.partial(jax.jit, static_argnames="config")
def embed_tokens(
    config: ModelConfig, weights: Weights, tokens: jax.Array, index: jax.Array, seen: jax.Array
) -> jax.Array:
    """Embeddings [B, Q, D] of tokens int32 [B, Q] whose pictures are `seen[index]` (-1: no picture)."""
    return bind(config, weights.rest).embed(tokens, seen, index)


@functools.partial(jax.jit, static_argnames=("config", "capacity"))
def prefill_first_chunk(
    config: ModelConfig, weights: Weights, x: jax.Array, positions: jax.Array, capacity: int
) -> Cache:
    """The first piece of the prefix, x [B, Q, D] at int32 [B, 3, Q]: a cache for `capacity` tokens."""
    return start(bind(config, weights.rest), weights.layers, x, positions, capacity)[1]


@functools.partial(jax.jit, static_argnames="config", donate_argnames="cache")
def prefill_next_chunk(
    config: ModelConfig,
    weights: Weights,
    cache: Cache,
    length: jax.Array,
    x: jax.Array,
    positions: jax.Array,
) -> Cache:
    """Append a chunk of the prefix: length int32 [B], x [B, Q, D], positions int32 [B, 3, Q]."""
    model = bind(config, weights.rest)
    return append(model, weights.layers, cache, x, positions, length)[1]


@functools.partial(jax.jit, static_argnames="config")
def question_logits(
    config: ModelConfig,
    weights: Weights,
    cache: Cache,
    length: jax.Array,
    tokens: jax.Array,
    positions: jax.Array,
    segments: jax.Array,
    last: jax.Array,
) -> jax.Array:
    """Logits after questions that stand side by side behind one prefix and do not see each other.

    Weights and cache are read once for all of them, and nothing is written.

    Args:
        config: the architecture.
        weights: for decoding.
        cache: of the prefix.
        length: int32 [B], tokens of the prefix.
        tokens: int32 [B, Q], the questions of a row one after another.
        positions: int32 [B, 3, Q].
        segments: int32 [B, Q], which question a token is of; 0 for padding.
        last: int32 [B, N], where each question ends.

    Returns:
        float32 [B, N, V].
    """
    model = bind(config, weights.rest)
    x = constrain(model.embed(tokens, None, None), "batch", "length", None)
    angles = model.text.angles(positions)
    own = (segments[:, :, None] == segments[:, None, :]) & jnp.tril(jnp.ones((x.shape[1],) * 2, bool))
    for i, (layer, (past_k, past_v)) in enumerate(zip(weights.layers, cache, strict=True)):

        def attend(
            qkv: jax.Array, past: tuple[jax.Array, ...] = (past_k, past_v)
        ) -> tuple[jax.Array, None]:
            q, k, v = taken_apart(qkv)
            q, k = rotate(q, angles), rotate(k, angles)
            return together([attend_past(q, *past, length), attend_masked(q, k, v, own)]), None

        with jax.named_scope(f"layer_{i}"):
            x, _ = decoder_layer(config.text, layer, x, attend)
    ends = jax.vmap(lambda row, at: row[at])(model.text.final(whole(x)), last)
    return logits(model, weights, ends)
