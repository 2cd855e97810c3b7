"""The vision tower as decoding runs it: frames or windows of patches in, merged patches out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from livecc_jax.decoding.linear import Stream, before, gelu_mlp, joined, product, whole
from livecc_jax.decoding.weights import Weights
from livecc_jax.kernels import flash_vision, rope
from livecc_jax.kernels.norms import LayerNorm, layer_norm
from livecc_jax.media.pixels import MERGE, PATCH, patch_places
from livecc_jax.model.attention import attend
from livecc_jax.model.attention_cudnn import usable
from livecc_jax.model.attention_layout import layout_in_scope
from livecc_jax.model.config import ModelConfig, VisionConfig
from livecc_jax.model.qwen2_vl import Params
from livecc_jax.model.rope import rotate, vision_angles
from livecc_jax.model.vision import normalize

# qkv [W,S,3,H,D], not rotated, and angles float32 [W or 1,S,D/2] -> [W,S,H,D].
Attention = Callable[[jax.Array, jax.Array], jax.Array]


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
