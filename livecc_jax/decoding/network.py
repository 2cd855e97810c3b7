"""The model as decoding runs it: weights a layer at a time, fused, and the layers over them.

Values are those of the NNX modules that training runs (`model.decoder`, `model.vision`); what differs
is how weights lie. Indexing stacked weights inside a loop copies each slice before its matrix product,
three times the memory traffic of reading it in place, so every layer has arrays of its own; products
of the same input are one; and what an output is made of lies together, for the kernel that serves one
token alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from livecc_jax.decoding.linear import Stream, before, gated_mlp, gelu_mlp, joined, product, whole
from livecc_jax.decoding.quantize import head8, quantize, quantize_head
from livecc_jax.errors import ConfigError
from livecc_jax.kernels import flash_vision, rope
from livecc_jax.kernels.norms import LayerNorm, RmsNorm, layer_norm
from livecc_jax.media.pixels import MERGE, PATCH, patch_places
from livecc_jax.model.attention import attend
from livecc_jax.model.attention_cudnn import usable
from livecc_jax.model.attention_layout import layout_in_scope
from livecc_jax.model.config import ModelConfig, TextConfig, VisionConfig
from livecc_jax.model.qwen2_vl import Params, Qwen2VL, logical_axes
from livecc_jax.model.rope import rotate, vision_angles
from livecc_jax.model.vision import normalize
from livecc_jax.parallel.rules import sharding_tree

# qkv [W,S,3,H,D], not rotated, and angles float32 [W or 1,S,D/2] -> [W,S,H,D].
Attention = Callable[[jax.Array, jax.Array], jax.Array]
# qkv [B,T,K,G+2,D], each key head's queries, key and value -> (out [B,T,K*G,D], whatever it wants
# handed back). Nothing is rotated: a context that forgets turns moves what it keeps, and one kernel may
# take them apart, rotate, keep and attend.
Attend = Callable[[jax.Array], tuple[jax.Array, Any]]


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


def decoder_layer(
    config: TextConfig, weights: Params, x: Stream, attend: Attend, last: jax.Array | None = None
) -> tuple[Stream, Any]:
    """One layer of the decoder, as `model.decoder.DecoderLayer`.

    Args:
        config: its sizes.
        weights: from `lay_out`.
        x: [B, T, D].
        attend: what queries, keys and values are for, none of them taken apart or rotated yet.
        last: int32 [B], to go on with this token of each row alone, for which `attend` then has to
            give what it attends to, [B, 1, H, D].

    Returns:
        ([B, T, D], or [B, 1, D] of a token; what `attend` hands back).
    """
    with jax.named_scope("attn"):
        norm = RmsNorm(weights["input_norm"], config.norm_eps)
        x, given, norm = before(x, norm, weights["qkv"])
        qkv = product(given, weights["qkv"], norm=norm, dtype=x.dtype)
        out, kept = attend(qkv)
        x = joined(x if last is None else of_token(x, last), out, weights["o"], 2)
    with jax.named_scope("mlp"):
        norm = RmsNorm(weights["post_norm"], config.norm_eps)
        x, given, norm = before(x, norm, weights["gate_up"])
        return gated_mlp(x, given, weights["gate_up"], weights["down"], norm), kept


def of_token(x: jax.Array, number: jax.Array) -> jax.Array:
    """[B, 1, ...] of x [B, T, ...]: one token of each row, int32 [B]."""
    return jnp.take_along_axis(x, number.reshape(-1, *[1] * (x.ndim - 1)), axis=1)


def logits(model: Qwen2VL, weights: Weights, hidden: jax.Array) -> jax.Array:
    """Final hidden states [..., D] to float32 [..., V], by the model's head or its eight bits."""
    return head8(hidden, weights.head) if weights.head else model.text.logits(hidden)


def taken_apart(qkv: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """[B, T, K, G + 2, D] as queries [B, T, K * G, D], keys and values [B, T, K, D]."""
    queries, size = qkv[..., :-2, :], qkv.shape[-1]
    return queries.reshape(*qkv.shape[:2], -1, size), qkv[..., -2, :], qkv[..., -1, :]


def see(config: ModelConfig, weights: Weights, frames: jax.Array) -> jax.Array:
    """What the vision tower makes of frames.

    Args:
        config: the architecture.
        weights: from `lay_out`.
        frames: uint8 [B, F, H, W, 3], F even, H and W multiples of 28.

    Returns:
        [B, F / 2 * H / 28 * W / 28, D].
    """
    batch, count, height, width, _ = frames.shape
    rest, sizes = weights.rest["vision"], config.vision
    with jax.named_scope("patch_embed"):
        patches = normalize(cut(frames), sizes).astype(rest["patch_embed"].dtype)
        x = patches.reshape(batch * count // 2, -1, patches.shape[-1]) @ rest["patch_embed"]
    rows, cols = patch_places(height // PATCH, width // PATCH)
    angles = vision_angles(jnp.asarray(rows), jnp.asarray(cols), sizes.head_dim)[None]
    for i, block in enumerate(_blocks(weights)):
        with jax.named_scope(f"block_{i}"):
            x = _vision_block(sizes, block, x, angles, attend_all)
    return _merged(rest["merger"], x, (batch, -1, sizes.width * sizes.merge_size**2))


def _merged(merger: Params, x: Stream, shape: tuple[int, ...]) -> jax.Array:
    with jax.named_scope("merger"):
        x = layer_norm(whole(x), **merger["norm"]).reshape(shape)
        return product(jax.nn.gelu(product(x, merger["fc1"]), approximate=False), merger["fc2"])


def _blocks(weights: Weights) -> Iterator[Params]:
    """The tower's blocks, whole; norms as `LayerNorm`."""
    for i, block in enumerate(weights.blocks):
        yield block | {name: LayerNorm(**norm, layer=i) for name, norm in weights.norms.items()}


def cut(frames: jax.Array) -> jax.Array:
    """`media.pixels.patchify` of uint8 [B, F, H, W, 3]: [B, F / 2, H / 14 * W / 14, 1176]."""
    b, f, height, width, channels = frames.shape
    t, h, w = f // 2, height // PATCH, width // PATCH
    x = frames.reshape(b, t, 2, h // MERGE, MERGE, PATCH, w // MERGE, MERGE, PATCH, channels)
    return x.transpose(0, 1, 3, 6, 4, 7, 9, 2, 5, 8).reshape(b, t, h * w, -1)


def see_windows(
    config: ModelConfig, weights: Weights, patches: jax.Array, places: jax.Array, counts: jax.Array
) -> jax.Array:
    """What the vision tower makes of windows that each hold one frame pair and padding behind it.

    Args:
        config: the architecture.
        weights: from `lay_out`.
        patches: uint8 [W, S, 1176].
        places: int32 [2, W, S], rows and columns.
        counts: int32 [W], real patches; a window of none is padding.

    Returns:
        [W, S / 4, D].
    """
    rest, sizes = weights.rest["vision"], config.vision
    with jax.named_scope("patch_embed"):
        kernel = rest["patch_embed"]
        x = normalize(patches, sizes).astype(kernel.dtype) @ kernel
    angles = vision_angles(*places, sizes.head_dim)
    attend = functools.partial(_attend_first, counts=counts)
    for i, block in enumerate(_blocks(weights)):
        with jax.named_scope(f"block_{i}"):
            x = _vision_block(sizes, block, x, angles, attend)
    return _merged(rest["merger"], x, (len(x), -1, sizes.width * sizes.merge_size**2))


def _vision_block(
    config: VisionConfig, weights: Params, x: Stream, angles: jax.Array, attend: Attention
) -> Stream:
    """As `model.vision.VisionBlock`; x [W, S, D], each window one frame pair."""
    attn, mlp = weights["attn"], weights["mlp"]
    x, given, norm = before(x, weights["norm1"], attn["qkv"])
    qkv = product(given, attn["qkv"], norm=norm, dtype=x.dtype)
    x = joined(x, attend(qkv, angles), attn["proj"], 2)
    x, given, norm = before(x, weights["norm2"], mlp["fc1"])
    return gelu_mlp(x, given, mlp["fc1"], mlp["fc2"], norm)


def attend_all(qkv: jax.Array, angles: jax.Array) -> jax.Array:
    """Attention of everything in a window to everything in it.

    Args:
        qkv: [W, S, 3, H, D], not rotated.
        angles: float32 [1 or W, S, D / 2].

    Returns:
        [W, S, H, D].
    """
    if len(angles) == 1 and flash_vision.usable(qkv.dtype, qkv.shape[-1]):
        return flash_vision.attend(rope.rotated_windows(qkv, angles))
    q, k, v = rotated(qkv, angles)
    if _dense(q, k):
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    ones = jnp.ones(q.shape[:2], jnp.int32)
    return attend(q, k, v, ones, causal=False, axes=("flat_windows", None))


def _attend_first(qkv: jax.Array, angles: jax.Array, counts: jax.Array) -> jax.Array:
    """Attention within the first `counts` int32 [W] of each window; what is behind is padding."""
    q, k, v = rotated(qkv, angles)
    if _dense(q, k):
        # A sequence of nothing is not defined: an empty window looks at one.
        lengths = jnp.maximum(counts, 1)
        return jax.nn.dot_product_attention(
            q, k, v, query_seq_lengths=lengths, key_value_seq_lengths=lengths, implementation="cudnn"
        )
    real = (jnp.arange(q.shape[1]) < counts[:, None]).astype(jnp.int32)
    return attend(q, k, v, real, causal=False, axes=("flat_windows", None))


def rotated(qkv: jax.Array, angles: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Queries, keys, and values [W, S, H, D] of qkv as in `attend_all`, step by step."""
    q, k, v = (qkv[..., i, :, :] for i in range(3))
    return rotate(q, angles), rotate(k, angles), v


def _dense(q: jax.Array, k: jax.Array) -> bool:
    layout = layout_in_scope(("flat_windows", None))
    return layout.platform == "gpu" and layout.mesh is None and usable(q, k, layout)
