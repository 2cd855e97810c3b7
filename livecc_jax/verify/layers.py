"""Traces the network: the values after each of its layers, to compare one run with another.

The modules are those of training and streaming. Only the loop over layers runs in Python, so that each
layer's output can be read and only one layer's weights are on the device at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from livecc_jax.families import DEFAULT
from livecc_jax.model.attention import attend
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.decoder import DecoderLayer, add_features
from livecc_jax.model.qwen2_vl import Params, bind
from livecc_jax.model.rope import rotate, vision_angles
from livecc_jax.model.vision import Merger, VisionBlock, normalize

LOGITS = "logits"
LOGIT_BLOCK = 512  # positions whose logits are on the device at a time


def layer_names(config: ModelConfig) -> list[str]:
    """Returns the names that `trace_layers` yields, in the order the network computes them.

    Inside the tower only Qwen2-VL's is traced: others keep patches in another order than transformers,
    or merge them in several places. What a tower makes is compared as "text/embed" in every family.
    """
    blocks = [f"vision/blocks/{i}" for i in range(config.vision.depth)]
    return [
        *(["vision/patch_embed", *blocks, "vision/merger"] if _traces_tower(config) else []),
        "text/embed",
        *(f"text/layers/{i}" for i in range(config.text.layers)),
        "text/norm",
        LOGITS,
    ]


def trace_layers(
    config: ModelConfig, params: Params, row: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
    """Run one packed row, layer by layer.

    Args:
        config: The architecture.
        params: Nested dict of numpy or jax arrays, all in the dtype to compute in.
        row: One packed row (docs/formats.md) without a batch axis, with at least one frame pair.

    Yields:
        (name, values) in the order of `layer_names`, float32 and without padding: [P, Dv] over patches
        after the patch embedding and each vision block, [P / 4, D] after the merger, [T, D] over
        tokens after the embedding with vision inserted, each decoder layer (before DeepStack features
        are added) and the final norm, [T, V] for the logits.
    """
    names = iter(layer_names(config))
    is_patch, is_token = row["patch_pairs"] > 0, row["segment_ids"] > 0

    def unpadded(x: jax.Array, mask: np.ndarray) -> tuple[str, np.ndarray]:
        values = np.asarray(x)
        values = values.reshape(-1, values.shape[-1]) if mask.all() else values[mask]
        return next(names), values.astype(np.float32, copy=False)

    vision, text = params["vision"], params["text"]
    patch_positions = row["patch_rows"], row["patch_cols"], row["patch_pairs"]
    if _traces_tower(config):
        x = _patch_embed(config, vision["patch_embed"], row["patches"])
        yield unpadded(x, is_patch)
        for i in range(config.vision.depth):
            x = _vision_block(config, _layer(vision["blocks"], i), x, *patch_positions)
            yield unpadded(x, is_patch)
        merged = _merge(config, vision["merger"], x)
        yield unpadded(merged, is_patch[:, :: config.vision.merge_size**2])
    else:
        merged = _whole_tower(config, vision, row["patches"], *patch_positions)
    merged = merged.reshape(1, -1, merged.shape[-1])
    vision_index = row["vision_index"][None]
    x = _embed(config, text["embed"], row["tokens"][None], merged, vision_index)
    yield unpadded(x[0], is_token)
    deepstack = bind(config, {}).deepstack_features(merged)
    for i in range(config.text.layers):
        weights = _layer(text["layers"], i)
        x = _decoder_layer(config, weights, x, row["positions"][None], row["segment_ids"][None])
        yield unpadded(x[0], is_token)
        if deepstack is not None and i < deepstack.shape[2]:
            x = add_features(x, deepstack, i, vision_index)
    x = _final_norm(config, text["norm"], x)
    yield unpadded(x[0], is_token)
    head = {"embed": text["embed"]} if config.text.tied else {"head": text["head"]}
    head = jax.tree.map(jax.device_put, head)
    blocks = [x[0, i : i + LOGIT_BLOCK] for i in range(0, x.shape[1], LOGIT_BLOCK)]
    logits = np.concatenate([np.asarray(_logits(config, head, block)) for block in blocks])
    yield unpadded(logits, is_token)


def _traces_tower(config: ModelConfig) -> bool:
    return config.family is DEFAULT


def _layer(stacked: Params, i: int) -> Params:
    return jax.tree.map(lambda x: x[i], stacked)


@functools.cache
def _abstract(config: ModelConfig) -> dict[str, tuple[nnx.GraphDef, nnx.State]]:
    """Returns the module of one layer of each kind, without weights."""
    makers = {
        "block": lambda: VisionBlock(config.vision, nnx.Rngs(0)),
        "merger": lambda: Merger(config.vision, config.text.width, nnx.Rngs(0)),
        "layer": lambda: DecoderLayer(config.text, nnx.Rngs(0)),
    }
    return {name: nnx.split(nnx.eval_shape(make)) for name, make in makers.items()}


def _bind_layer(config: ModelConfig, kind: str, weights: Params) -> Any:
    graph, state = _abstract(config)[kind]
    state = jax.tree.map(lambda x: x, state)  # a copy, because replacing writes in place
    nnx.replace_by_pure_dict(state, weights)
    return nnx.merge(graph, state)


@functools.partial(jax.jit, static_argnums=0)
def _patch_embed(config: ModelConfig, kernel: jax.Array, patches: jax.Array) -> jax.Array:
    return normalize(patches, config.vision).astype(kernel.dtype) @ kernel


@functools.partial(jax.jit, static_argnums=0)
def _vision_block(
    config: ModelConfig,
    weights: Params,
    x: jax.Array,
    rows: jax.Array,
    cols: jax.Array,
    pairs: jax.Array,
) -> jax.Array:
    angles = vision_angles(rows, cols, config.vision.head_dim)
    return _bind_layer(config, "block", weights)(x, angles, pairs)


@functools.partial(jax.jit, static_argnums=0)
def _merge(config: ModelConfig, weights: Params, x: jax.Array) -> jax.Array:
    return _bind_layer(config, "merger", weights)(x)


@functools.partial(jax.jit, static_argnums=0)
def _embed(
    config: ModelConfig,
    table: jax.Array,
    tokens: jax.Array,
    merged: jax.Array,
    vision_index: jax.Array,
) -> jax.Array:
    return bind(config, {"text": {"embed": table}}).embed(tokens, merged, vision_index)


@functools.partial(jax.jit, static_argnums=0)
def _whole_tower(
    config: ModelConfig,
    weights: Params,
    patches: jax.Array,
    rows: jax.Array,
    cols: jax.Array,
    pairs: jax.Array,
) -> jax.Array:
    return bind(config, {"vision": weights}).vision(patches, pairs, rows, cols)


@functools.partial(jax.jit, static_argnums=0)
def _decoder_layer(
    config: ModelConfig, weights: Params, x: jax.Array, positions: jax.Array, segment_ids: jax.Array
) -> jax.Array:
    angles = bind(config, {}).text.angles(positions)

    def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, None]:
        return attend(q, rotate(k, angles), v, segment_ids, causal=True), None

    return _bind_layer(config, "layer", weights)(x, angles, attention)[0]


@functools.partial(jax.jit, static_argnums=0)
def _final_norm(config: ModelConfig, norm: jax.Array, x: jax.Array) -> jax.Array:
    return bind(config, {"text": {"norm": norm}}).text.final(x)


@functools.partial(jax.jit, static_argnums=0)
def _logits(config: ModelConfig, head: Params, hidden: jax.Array) -> jax.Array:
    return bind(config, {"text": head}).text.logits(hidden)
