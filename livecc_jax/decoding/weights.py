"""Weights laid out for decoding: a layer at a time, fused, transposed, split over a mesh, quantized.

Values are those of the NNX modules that training runs (`model.decoder`, `model.vision`); what differs
is how weights lie. Indexing stacked weights inside a loop copies each slice before its matrix product,
three times the memory traffic of reading it in place, so every layer has arrays of its own; products
of the same input are one; and what an output is made of lies together, for the kernel that serves one
token alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from livecc_jax.decoding.quantize import quantize, quantize_head
from livecc_jax.errors import ConfigError
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.qwen2_vl import Params, logical_axes
from livecc_jax.parallel.rules import sharding_tree


class Weights(NamedTuple):
    """Parameters laid out for decoding, by `lay_out`."""

    rest: Params  # what `model.qwen2_vl.bind` takes: all but layers, blocks and a head in eight bits
    layers: list[Params]  # of the decoder
    blocks: list[Params]  # of the vision tower, without their norms
    norms: Params  # of the tower's blocks, stacked
    head: Params  # in eight bits, for `logits`; empty where the one of `rest` serves

    # A call is begun the sooner, the fewer arrays it is given: hundreds take a millisecond.
    def for_seeing(self) -> Weights:
        """Without the decoder's layers."""
        return self._replace(layers=[], head={})

    def for_saying(self) -> Weights:
        """Without the tower's blocks."""
        return self._replace(blocks=[], norms={})


PRECISIONS = ("weights", "fp8")
NORMS = "norm1", "norm2"  # of a block of the tower: nothing needs a slice of them of its own

# Logical axes of a decoder layer as it lies here; `parallel.rules` has the mesh's.
LAYER_AXES: Params = {
    "input_norm": ("norm",),
    "qkv": {
        "rows": ("kv_heads", None, "head_dim", "embed"),
        "bias": ("kv_heads", None, "head_dim"),
    },
    "o": {"rows": ("embed", "heads", "head_dim")},
    "post_norm": ("norm",),
    "gate_up": {"rows": (None, "mlp", "embed")},
    "down": {"rows": ("embed", "mlp")},
}


def lay_out(
    params: Params,
    vision: bool = True,
    precision: str = "weights",
    spread: tuple[ModelConfig, Mesh] | None = None,
) -> Weights:
    """Weights for decoding, on the default device or where the parameters' sharding has them.

    Args:
        params: the parameter tree, of numpy or jax arrays.
        vision: take the tower apart too; without, its blocks stay stacked in `rest`.
        precision: of matrix products: `weights` as the weights are, `fp8` in 8-bit floats within the
            decoder's layers and the tower's blocks, and in 8-bit integers in the head.
        spread: the architecture and a mesh to split them over, by the rules of training.

    Raises ConfigError for another precision, float16 with fp8, or weights that do not divide over the
    mesh.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
    text, tower = params["text"], params["vision"]
    eight = precision == "fp8"
    if eight and text["embed"].dtype == jnp.float16:
        raise ConfigError(
            "precision fp8 needs weights in bfloat16 or float32: sums overflow in float16"
        )
    of_decoder, of_tower = (quantize, quantize) if eight else (_turned, _same)
    replaced = ("layers", "head") if eight else ("layers",)
    rest = {
        "text": {k: v for k, v in text.items() if k not in replaced},
        "vision": {k: v for k, v in tower.items() if not vision or k != "blocks"},
    }

    def put(tree: Params, axes: Params | None) -> Params:
        return jax.device_put(tree, sharding_tree(spread[1], axes, tree) if spread else None)

    axes = logical_axes(spread[0]) if spread else None
    of_block = _axes_apart(axes["vision"]["blocks"]) if axes else None
    of_rest = {k: {name: axes[k][name] for name in v} for k, v in rest.items()} if axes else None
    of_layer = _maps(LAYER_AXES, _unturned_axes)
    # Layer by layer, so that a second copy, of host or device, is never larger than one.
    layers = [_maps(put(_fused(layer), of_layer), of_decoder) for layer in _apart(text["layers"])]
    blocks = _apart(tower["blocks"]) if vision else []
    blocks = [_maps(put(block, of_block), of_tower) for block in blocks]
    norms = {k: tower["blocks"][k] for k in NORMS if vision}
    of_norms = {k: axes["vision"]["blocks"][k] for k in norms} if axes else None
    blocks = [{k: v for k, v in block.items() if k not in NORMS} for block in blocks]
    head = {}
    if eight:
        rows = text["head"].T if "head" in text else text["embed"]
        head = quantize_head(put({"head": rows}, {"head": ("vocab", "embed")})["head"])
    return Weights(put(rest, of_rest), layers, blocks, put(norms, of_norms), head)


def _axes_apart(stacked: Params) -> Params:
    return jax.tree.map(lambda axes: axes[1:], stacked, is_leaf=lambda x: isinstance(x, tuple))


def _apart(stacked: Params) -> Any:
    for i in range(jax.tree.leaves(stacked)[0].shape[0]):
        yield jax.tree.map(lambda x, i=i: x[i], stacked)


def _fused(layer: Params) -> Params:
    """Queries, keys and values as one product, by key head, and gate and up as one."""
    attn, mlp = layer["attn"], layer["mlp"]
    xp = jnp if isinstance(layer["input_norm"], jax.Array) else np

    def by_head(name: str) -> Any:
        q, k, v = (attn[x][name] for x in "qkv")
        *outer, heads, size = q.shape
        kv = k.shape[-2]
        q = q.reshape(*outer, kv, heads // kv, size)
        return xp.concatenate([q, k[..., None, :], v[..., None, :]], axis=-2)

    return {
        "input_norm": layer["input_norm"],
        "qkv": {"kernel": by_head("kernel"), "bias": by_head("bias")},
        "o": {"kernel": attn["o"]["kernel"]},
        "post_norm": layer["post_norm"],
        "gate_up": {"kernel": xp.stack([mlp["gate"]["kernel"], mlp["up"]["kernel"]], axis=1)},
        "down": {"kernel": mlp["down"]["kernel"]},
    }


def _maps(layer: Params, change: Callable[[Params, int], Params], name: str = "") -> Params:
    """A layer with every linear map changed, given how many axes are its inputs."""
    if any(k in layer for k in ("kernel", "rows")):
        return change(layer, 2 if name in ("o", "proj") else 1)
    return {k: _maps(v, change, k) if isinstance(v, dict) else v for k, v in layer.items()}


def _same(weights: Params, contract: int) -> Params:
    del contract
    return weights


@functools.partial(jax.jit, static_argnames="contract")
def _turned(weights: Params, contract: int) -> Params:
    """[*inputs, *outputs] as [*outputs, *inputs]."""
    kernel = weights["kernel"]
    inputs = tuple(range(contract))
    rows = kernel.transpose(*range(contract, kernel.ndim), *inputs)
    return {"rows": rows, **{k: v for k, v in weights.items() if k != "kernel"}}


def _unturned_axes(axes: Params, contract: int) -> Params:
    rows = axes["rows"]
    kernel = rows[-contract:] + rows[:-contract]
    return {"kernel": kernel, **{k: v for k, v in axes.items() if k != "rows"}}
