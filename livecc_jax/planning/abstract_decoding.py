"""Abstract inputs of the decoding steps: shapes, dtypes and shardings to compile for, no values."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from livecc_jax.decoding.engine_step import CacheSlots
from livecc_jax.decoding.generate import SamplingParams
from livecc_jax.decoding.paged_cache import PAGED_CACHE_AXES, Context
from livecc_jax.decoding.session_step import TurnInput
from livecc_jax.decoding.vision import is_laid_out
from livecc_jax.decoding.weights import DecodingWeights, layer_axes, prepare_weights
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.qwen2_vl import abstract_params, logical_axes
from livecc_jax.parallel.rules import partition_spec, sharding_tree

# Builds an abstract array [B, *shape] of a batch, from (dtype, *shape).
BatchArray = Callable[..., jax.ShapeDtypeStruct]


def abstract_turn_inputs(
    batch_array: BatchArray, prompt: int, features: jax.ShapeDtypeStruct
) -> tuple[TurnInput, SamplingParams]:
    """Returns the abstract inputs of a batch of turns.

    Args:
        batch_array: Builds an abstract array [B, *shape].
        prompt: Length of the prompts, padded.
        features: Vision features [B, P, D] of the turns.
    """
    int_array = functools.partial(batch_array, jnp.int32)
    turn = TurnInput(
        int_array(prompt), int_array(), int_array(3, prompt), int_array(), int_array(prompt), features
    )
    float_array, seeds = batch_array(jnp.float32), batch_array(jnp.uint32, 2)
    return turn, SamplingParams(*[float_array] * 4, seeds)


def abstract_cache_context(
    batch_array: BatchArray, context: int, prompt: int, limit: int
) -> tuple[Context, CacheSlots]:
    """Returns abstract arrays of what a batch of turns reads from the cache and where it writes.

    Args:
        batch_array: Builds an abstract array [B, *shape].
        context: Maximum number of tokens that a turn attends to.
        prompt: Length of the prompts, padded.
        limit: Maximum number of new tokens.
    """
    int_array = functools.partial(batch_array, jnp.int32)
    reads = Context(int_array(context), int_array(context), int_array(3, context), int_array())
    return reads, CacheSlots(int_array(prompt), int_array(limit))


def abstract_cache(
    config: ModelConfig, mesh: Mesh, tokens: int, dtype: Any
) -> list[tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]]:
    """Returns an abstract paged cache: keys and values of so many tokens for every layer."""
    shape = (tokens, config.text.kv_heads, config.text.head_dim)
    sharding = NamedSharding(mesh, partition_spec(PAGED_CACHE_AXES))
    array = jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
    return [(array, array)] * config.text.layers


def abstract_weights(config: ModelConfig, mesh: Mesh, dtype: Any) -> DecodingWeights:
    """Returns the shapes and shardings of the weights that `prepare_weights` returns on a mesh."""
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), abstract_params(config))
    prepare = functools.partial(prepare_weights, vision=is_laid_out(config.vision))
    shapes: DecodingWeights = jax.eval_shape(prepare, params)
    axes = logical_axes(config)
    stacked_axes = axes["vision"]["blocks"]
    block_axes = jax.tree.map(lambda a: a[1:], stacked_axes, is_leaf=lambda a: isinstance(a, tuple))
    other_axes = {k: {name: axes[k][name] for name in v} for k, v in shapes.other.items()}

    def with_shardings(tree: Any, axes: Any) -> Any:
        return jax.tree.map(
            lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
            tree,
            sharding_tree(mesh, axes, tree),
        )

    return DecodingWeights(
        with_shardings(shapes.other, other_axes),
        [with_shardings(layer, layer_axes(config.text)) for layer in shapes.layers],
        [with_shardings(block, {k: block_axes[k] for k in block}) for block in shapes.vision_blocks],
        with_shardings(shapes.vision_norms, {k: stacked_axes[k] for k in shapes.vision_norms}),
        {},
    )
