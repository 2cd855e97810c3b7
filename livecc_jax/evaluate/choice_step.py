"""The programs that `evaluate.choice` runs: seeing videos, and asking about them.

Rows are videos. With a mesh in scope they are split over it as a batch is, and weights and caches as
everywhere (`parallel.rules`).
"""

from __future__ import annotations

import functools

import jax

from livecc_jax.model.cache import Cache, append, start
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.inference import Weights
from livecc_jax.model.qwen2_vl import bind
from livecc_jax.parallel.rules import constrain


@functools.partial(jax.jit, static_argnames="config")
def encode(
    config: ModelConfig, weights: Weights, patches: jax.Array, pairs: jax.Array, places: jax.Array
) -> jax.Array:
    """Encode windows.

    Args:
        config: the architecture.
        weights: for decoding.
        patches: uint8 [B, W, S, 1176].
        pairs: int32 [B, W, S], 0 for padding.
        places: int32 [B, 2, W, S], rows and columns.

    Returns:
        [B, W * S / 4, D].
    """
    return bind(config, weights.rest).encode(patches, pairs, places[:, 0], places[:, 1])


@functools.partial(jax.jit, donate_argnames="seen")
def place(seen: jax.Array, merged: jax.Array, to: jax.Array) -> jax.Array:
    """Put merged patches where they belong; `to` int32 [B, W * S / 4], past the end for padding."""

    def one(seen: jax.Array, merged: jax.Array, to: jax.Array) -> jax.Array:
        return seen.at[to].set(merged.astype(seen.dtype), mode="drop")

    return constrain(jax.vmap(one)(seen, merged, to), "batch", None, None)


@functools.partial(jax.jit, static_argnames="config")
def embed(
    config: ModelConfig, weights: Weights, tokens: jax.Array, index: jax.Array, seen: jax.Array
) -> jax.Array:
    """Embeddings [B, Q, D] of tokens int32 [B, Q] whose pictures are `seen[index]` (-1: no picture)."""
    return bind(config, weights.rest).embed(tokens, seen, index)


@functools.partial(jax.jit, static_argnames=("config", "capacity"))
def begin(
    config: ModelConfig, weights: Weights, x: jax.Array, positions: jax.Array, capacity: int
) -> Cache:
    """The first piece of the prefix, x [B, Q, D] at int32 [B, 3, Q]: a cache for `capacity` tokens."""
    return start(bind(config, weights.rest), weights.layers, x, positions, capacity)[1]


@functools.partial(jax.jit, static_argnames="config", donate_argnames="cache")
def see(
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


@functools.partial(jax.jit, static_argnames="config", donate_argnames="cache")
def ask(
    config: ModelConfig,
    weights: Weights,
    cache: Cache,
    length: jax.Array,
    tokens: jax.Array,
    positions: jax.Array,
    last: jax.Array,
) -> tuple[jax.Array, Cache]:
    """Append a chunk of a question: (float32 [B, V] logits after its token `last` int32 [B], cache)."""
    model = bind(config, weights.rest)
    x = constrain(model.embed(tokens, None, None), "batch", "length", None)
    hidden, cache = append(model, weights.layers, cache, x, positions, length)
    return model.text.logits(jax.vmap(lambda h, i: h[i])(hidden, last)), cache
