"""The vision tower as decoding runs it: frames or windows of patches in, merged patches out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from livecc_jax.decoding.linear import (
    ResidualStream,
    add_to_residual,
    gelu_mlp,
    linear,
    prepare_input,
    resolve_residual,
)
from livecc_jax.decoding.weights import DecodingWeights
from livecc_jax.families.qwen2_vl import MERGE, TEMPORAL
from livecc_jax.kernels import flash_vision
from livecc_jax.kernels.norms import LayerNorm, layer_norm
from livecc_jax.kernels.rope import rotate_halves
from livecc_jax.media.pixels import patch_coordinates
from livecc_jax.model import attention_cudnn
from livecc_jax.model.attention import attend
from livecc_jax.model.attention_layout import layout_in_scope
from livecc_jax.model.config import ModelConfig, VisionConfig
from livecc_jax.model.qwen2_vl import Params, bind
from livecc_jax.model.rope import rotate, vision_angles
from livecc_jax.model.vision import normalize

LAID_OUT = ("qwen2_vl",)  # families whose tower `weights.prepare_weights` takes apart

# Takes qkv [W, S, 3, H, D], not rotated, and angles float32 [1 or W, S, D / 2]; returns [W, S, H, D].
WindowAttention = Callable[[jax.Array, jax.Array], jax.Array]


def is_laid_out(config: VisionConfig) -> bool:
    """Whether the tower has a layout of its own for decoding; others run as in training."""
    return config.family in LAID_OUT


def encode_frames(config: ModelConfig, weights: DecodingWeights, frames: jax.Array) -> jax.Array:
    """Encodes clips whose frames are all of one size.

    Args:
        config: The architecture.
        weights: Prepared weights that include the vision tower.
        frames: uint8 [B, F, height, width, 3], F even, height and width multiples of two patches.

    Returns:
        What `Qwen2VL.encode_patches` returns, for the tokens of all F / 2 pairs of each clip.
    """
    batch, count, height, width, _ = frames.shape
    tower, sizes = weights.other["vision"], config.vision
    patch = sizes.patch_size
    if not is_laid_out(sizes):
        patches = patchify_frames(frames, patch)
        patches = patches.reshape(batch * count // TEMPORAL, *patches.shape[2:])
        rows, cols = (
            jnp.broadcast_to(x, patches.shape[:2])
            for x in patch_coordinates(height // patch, width // patch)
        )
        model = bind(config, weights.other)
        merged = model.vision(patches, jnp.ones(patches.shape[:2], jnp.int32), rows, cols)
        return merged.reshape(batch, -1, merged.shape[-1])
    with jax.named_scope("patch_embed"):
        kernel = tower["patch_embed"]
        patches_BTSP = normalize(patchify_frames(frames, patch), sizes).astype(kernel.dtype)
        x_WSD = patches_BTSP.reshape(batch * count // TEMPORAL, -1, patches_BTSP.shape[-1]) @ kernel
    rows, cols = patch_coordinates(height // patch, width // patch)
    angles = vision_angles(jnp.asarray(rows), jnp.asarray(cols), sizes.head_dim)[None]
    x = _run_blocks(sizes, weights, x_WSD, angles, window_attention)
    return _merge(tower["merger"], x, (batch, -1, sizes.width * sizes.merge_size**2))


def encode_padded_windows(
    config: ModelConfig,
    weights: DecodingWeights,
    patches: jax.Array,
    rows_cols: jax.Array,
    counts: jax.Array,
) -> jax.Array:
    """Encodes windows that each hold one frame pair, followed by padding, by a tower that is laid out.

    Args:
        config: The architecture.
        weights: Prepared weights that include the vision tower.
        patches: uint8 [W, S, 1176].
        rows_cols: int32 [2, W, S], the row and the column of each patch in its frame.
        counts: int32 [W], the number of real patches; 0 for a window that is padding.

    Returns:
        Merged patches [W, S / 4, D] in the weights' dtype, where D is the decoder's width.
    """
    tower, sizes = weights.other["vision"], config.vision
    with jax.named_scope("patch_embed"):
        kernel = tower["patch_embed"]
        x_WSD = normalize(patches, sizes).astype(kernel.dtype) @ kernel
    angles = vision_angles(*rows_cols, sizes.head_dim)
    attend_within = functools.partial(_padded_window_attention, counts=counts)
    x = _run_blocks(sizes, weights, x_WSD, angles, attend_within)
    return _merge(tower["merger"], x, (len(x_WSD), -1, sizes.width * sizes.merge_size**2))


def patchify_frames(frames: jax.Array, patch: int) -> jax.Array:
    """Cuts frames into patches on the device, in the order of `media.pixels.patchify`.

    Args:
        frames: uint8 [B, F, height, width, 3], F even, height and width multiples of two patches.
        patch: Pixels along one side of a patch.

    Returns:
        uint8 [B, F / 2, S, P]: the S patches of a pair, of P values each.
    """
    b, f, height, width, channels = frames.shape
    t, h, w = f // TEMPORAL, height // patch, width // patch
    x = frames.reshape(b, t, TEMPORAL, h // MERGE, MERGE, patch, w // MERGE, MERGE, patch, channels)
    return x.transpose(0, 1, 3, 6, 4, 7, 9, 2, 5, 8).reshape(b, t, h * w, -1)


def _run_blocks(
    config: VisionConfig,
    weights: DecodingWeights,
    x: ResidualStream,
    angles: jax.Array,
    attend: WindowAttention,
) -> ResidualStream:
    """Runs every block of the tower over windows [W, S, D] of one frame pair each."""
    for i, block in enumerate(_blocks_with_norms(weights)):
        with jax.named_scope(f"block_{i}"):
            x = _vision_block(block, x, angles, attend)
    return x


def _blocks_with_norms(weights: DecodingWeights) -> Iterator[Params]:
    """Yields the weights of each block, its norms as `LayerNorm` over the stack of all blocks."""
    for i, block in enumerate(weights.vision_blocks):
        yield block | {name: LayerNorm(**norm, layer=i) for name, norm in weights.vision_norms.items()}


def _vision_block(
    weights: Params, x: ResidualStream, angles: jax.Array, attend: WindowAttention
) -> ResidualStream:
    """Runs one block, as `model.vision.VisionBlock` does, over windows [W, S, D]."""
    attn, mlp = weights["attn"], weights["mlp"]
    x, attn_input, norm = prepare_input(x, weights["norm1"], attn["qkv"])
    qkv_WS3HD = linear(attn_input, attn["qkv"], norm=norm, dtype=x.dtype)
    x = add_to_residual(x, attend(qkv_WS3HD, angles), attn["proj"], 2)
    x, mlp_input, norm = prepare_input(x, weights["norm2"], mlp["fc1"])
    return gelu_mlp(x, mlp_input, mlp["fc1"], mlp["fc2"], norm)


def _merge(merger: Params, x: ResidualStream, shape: tuple[int, ...]) -> jax.Array:
    """Fuses each 2x2 block of patches into one vector, as `model.vision.Merger` does."""
    with jax.named_scope("merger"):
        x = layer_norm(resolve_residual(x), **merger["norm"]).reshape(shape)
        return linear(jax.nn.gelu(linear(x, merger["fc1"]), approximate=False), merger["fc2"])


def window_attention(qkv: jax.Array, angles: jax.Array) -> jax.Array:
    """Computes attention of every patch of a window to every patch of it.

    Args:
        qkv: [W, S, 3, H, D], not rotated.
        angles: float32 [1 or W, S, D / 2], rotary angles.

    Returns:
        [W, S, H, D] in qkv's dtype.
    """
    if len(angles) == 1 and flash_vision.is_supported(qkv.dtype, qkv.shape[-1]):
        return flash_vision.window_attention(_rotate_windows(qkv, angles))
    q, k, v = rotate_qkv(qkv, angles)
    if _cudnn_is_supported(q, k):
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    ones_WS = jnp.ones(q.shape[:2], jnp.int32)
    return attend(q, k, v, ones_WS, causal=False, axes=("flat_windows", None))


def _padded_window_attention(qkv: jax.Array, angles: jax.Array, counts: jax.Array) -> jax.Array:
    """As `window_attention`, among the first `counts` int32 [W] patches of each window."""
    q, k, v = rotate_qkv(qkv, angles)
    if _cudnn_is_supported(q, k):
        # cuDNN's result for an empty sequence is undefined, so an empty window attends to one patch.
        lengths_W = jnp.maximum(counts, 1)
        return jax.nn.dot_product_attention(
            q, k, v, query_seq_lengths=lengths_W, key_value_seq_lengths=lengths_W,
            implementation="cudnn",
        )  # fmt: skip
    is_real_WS = (jnp.arange(q.shape[1]) < counts[:, None]).astype(jnp.int32)
    return attend(q, k, v, is_real_WS, causal=False, axes=("flat_windows", None))


def _rotate_windows(qkv: jax.Array, angles: jax.Array) -> jax.Array:
    """Rotates queries and keys of qkv [W, S, 3, H, D]; values turn by 0, so XLA needs one kernel."""
    angles = jnp.stack([angles, angles, jnp.zeros_like(angles)], axis=2)[:, :, :, None]
    halves = rotate_halves(*jnp.split(qkv, 2, axis=-1), jnp.cos(angles), jnp.sin(angles))
    return jnp.concatenate(halves, axis=-1)


def rotate_qkv(qkv: jax.Array, angles: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Splits qkv [W, S, 3, H, D] into rotated queries and keys, and values, each [W, S, H, D]."""
    q, k, v = (qkv[..., i, :, :] for i in range(3))
    return rotate(q, angles), rotate(k, angles), v


def _cudnn_is_supported(q: jax.Array, k: jax.Array) -> bool:
    """Whether cuDNN's attention over dense windows can run on the one GPU in scope."""
    layout = layout_in_scope(("flat_windows", None))
    return (
        layout.platform == "gpu" and layout.mesh is None and attention_cudnn.is_supported(q, k, layout)
    )
