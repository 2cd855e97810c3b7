"""Weights prepared for decoding: unstacked, fused, transposed, and split over a mesh or quantized.

The values are those of the NNX modules that training runs (`model.decoder`, `model.vision`); the layout
differs. Indexing stacked weights inside a loop copies each slice before its matrix product, three times
the memory traffic of reading it in place, so every layer has arrays of its own. Products of the same
input are one product. And the weights of one output are contiguous, as the matrix-vector kernel that
serves a single token needs them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from livecc_jax.decoding.quantize import quantize, quantize_head
from livecc_jax.errors import ConfigError
from livecc_jax.model.config import ModelConfig, TextConfig
from livecc_jax.model.qwen2_vl import Params, logical_axes
from livecc_jax.parallel.rules import sharding_tree


class DecodingWeights(NamedTuple):
    """Parameters in the layout that decoding needs, made by `prepare_weights`."""

    other: Params  # all that is not below; `model.qwen2_vl.bind` takes it as the model's parameters
    layers: list[Params]  # one entry a decoder layer
    vision_blocks: list[Params]  # one entry a block of the vision tower, without its norms
    vision_norms: Params  # the norms of the vision tower's blocks, stacked
    quantized_head: Params  # for `decoder.logits`; empty where `other` has the head

    # A compiled call starts sooner with fewer arguments: hundreds of arrays take a millisecond.
    def for_vision(self) -> DecodingWeights:
        """Returns the weights without the decoder's layers and head, for the vision tower."""
        return self._replace(layers=[], quantized_head={})

    def for_text(self) -> DecodingWeights:
        """Returns the weights without the vision tower's blocks, for the decoder."""
        return self._replace(vision_blocks=[], vision_norms={})


PRECISIONS = ("weights", "fp8")
# The norms of a vision block stay stacked: its kernels take the stack and the block's number.
VISION_NORMS = "norm1", "norm2"


def layer_axes(config: TextConfig) -> Params:
    """Returns the logical axes of a prepared decoder layer; `parallel.rules` maps them to mesh axes."""
    axes: Params = {
        "input_norm": ("norm",),
        "qkv": {"kernel_t": ("kv_heads", None, "head_dim", "embed")},
        "o": {"kernel_t": ("embed", "heads", "head_dim")},
        "post_norm": ("norm",),
        "gate_up": {"kernel_t": (None, "mlp", "embed")},
        "down": {"kernel_t": ("embed", "mlp")},
    }
    if config.qkv_bias:
        axes["qkv"]["bias"] = ("kv_heads", None, "head_dim")
    if config.qk_norm:
        axes["qk_norm"] = (None, "norm")
    return axes


def prepare_weights(
    params: Params,
    vision: bool = True,
    precision: str = "weights",
    shard_over: tuple[ModelConfig, Mesh] | None = None,
) -> DecodingWeights:
    """Lays parameters out for decoding, on the default device or as they are sharded.

    Args:
        params: The model's parameter tree, of numpy or jax arrays.
        vision: Whether to unstack the vision tower too. Otherwise its blocks stay stacked in `other`.
        precision: Arithmetic of matrix products. `weights` uses the dtype of the weights; `fp8` uses
            8-bit floats in the decoder's layers and the vision tower's blocks, and 8-bit integers in
            the head.
        shard_over: The architecture, and the mesh to split the weights over by the rules of training.

    Raises ConfigError for an unknown precision, for float16 weights with fp8, and for weights that do
    not divide over the mesh.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    text, tower = params["text"], params["vision"]
    fp8 = precision == "fp8"
    if fp8 and text["embed"].dtype == jnp.float16:
        raise ConfigError(
            "precision fp8 needs weights in bfloat16 or float32: sums overflow in float16"
        )
    prepare_layer_map, prepare_block_map = (quantize, quantize) if fp8 else (_transpose, _unchanged)
    prepared_apart = ("layers", "head") if fp8 else ("layers",)
    other = {
        "text": {k: v for k, v in text.items() if k not in prepared_apart},
        "vision": {k: v for k, v in tower.items() if not vision or k != "blocks"},
    }

    def put(tree: Params, axes: Params | None) -> Params:
        return jax.device_put(tree, sharding_tree(shard_over[1], axes, tree) if shard_over else None)

    axes = logical_axes(shard_over[0]) if shard_over else None
    block_axes = _unstacked_axes(axes["vision"]["blocks"]) if axes else None
    other_axes = {k: {name: axes[k][name] for name in v} for k, v in other.items()} if axes else None
    fused_axes = _map_linear(layer_axes(shard_over[0].text), _untransposed_axes) if shard_over else None
    # One layer at a time, so that host and device never hold a second copy of more than one.
    layers = [
        _map_linear(put(_fuse(layer), fused_axes), prepare_layer_map)
        for layer in _unstack(text["layers"])
    ]
    blocks = _unstack(tower["blocks"]) if vision else []
    blocks = [_map_linear(put(block, block_axes), prepare_block_map) for block in blocks]
    norms = {k: tower["blocks"][k] for k in VISION_NORMS if vision}
    norm_axes = {k: axes["vision"]["blocks"][k] for k in norms} if axes else None
    blocks = [{k: v for k, v in block.items() if k not in VISION_NORMS} for block in blocks]
    head = {}
    if fp8:
        head_VD = text["head"].T if "head" in text else text["embed"]
        head = quantize_head(put({"head": head_VD}, {"head": ("vocab", "embed")})["head"])
    return DecodingWeights(put(other, other_axes), layers, blocks, put(norms, norm_axes), head)


def _unstacked_axes(stacked: Params) -> Params:
    """Returns logical axes without the axis of layers."""
    return jax.tree.map(lambda axes: axes[1:], stacked, is_leaf=lambda x: isinstance(x, tuple))


def _unstack(stacked: Params) -> Iterator[Params]:
    """Yields the parameters of each layer of a stack."""
    for i in range(jax.tree.leaves(stacked)[0].shape[0]):
        yield jax.tree.map(lambda x, i=i: x[i], stacked)


def _fuse(layer: Params) -> Params:
    """Joins queries, keys and values into one linear map, grouped by key head, and gate and up too."""
    attn, mlp = layer["attn"], layer["mlp"]
    xp = jnp if isinstance(layer["input_norm"], jax.Array) else np

    def fuse_by_key_head(name: str) -> Any:
        """[..., H, D] of q and [..., K, D] of k and v as [..., K, H / K + 2, D]."""
        q, k, v = (attn[projection][name] for projection in "qkv")
        *outer, heads, head_dim = q.shape
        kv_heads = k.shape[-2]
        q = q.reshape(*outer, kv_heads, heads // kv_heads, head_dim)
        return xp.concatenate([q, k[..., None, :], v[..., None, :]], axis=-2)

    qk_norm = {}
    if "q_norm" in attn:
        qk_norm["qk_norm"] = xp.stack([attn["q_norm"]["scale"], attn["k_norm"]["scale"]])
    return {
        "input_norm": layer["input_norm"],
        "qkv": {name: fuse_by_key_head(name) for name in attn["q"]},
        **qk_norm,
        "o": {"kernel": attn["o"]["kernel"]},
        "post_norm": layer["post_norm"],
        "gate_up": {"kernel": xp.stack([mlp["gate"]["kernel"], mlp["up"]["kernel"]], axis=1)},
        "down": {"kernel": mlp["down"]["kernel"]},
    }


def _map_linear(layer: Params, change: Callable[[Params, int], Params], name: str = "") -> Params:
    """Applies a function to every linear map of a layer, given how many of its axes are inputs."""
    if any(k in layer for k in ("kernel", "kernel_t")):
        return change(layer, 2 if name in ("o", "proj") else 1)
    return {k: _map_linear(v, change, k) if isinstance(v, dict) else v for k, v in layer.items()}


def _unchanged(weights: Params, contract: int) -> Params:
    del contract
    return weights


@functools.partial(jax.jit, static_argnames="contract")
def _transpose(weights: Params, contract: int) -> Params:
    """Turns a "kernel" [*inputs, *outputs] into a "kernel_t" [*outputs, *inputs]."""
    kernel = weights["kernel"]
    inputs = tuple(range(contract))
    kernel_t = kernel.transpose(*range(contract, kernel.ndim), *inputs)
    return {"kernel_t": kernel_t, **{k: v for k, v in weights.items() if k != "kernel"}}


def _untransposed_axes(axes: Params, contract: int) -> Params:
    """Turns the logical axes of a "kernel_t" into those of the "kernel" it is made from."""
    kernel_t = axes["kernel_t"]
    kernel = kernel_t[-contract:] + kernel_t[:-contract]
    return {"kernel": kernel, **{k: v for k, v in axes.items() if k != "kernel_t"}}
