"""The vision tower of Qwen2-VL, as training runs it: patches in, one vector for each 2x2 block out.

Its batch axis is windows. A window holds whole frame pairs, and a patch attends within its own pair, so
attention is dense over a window and never longer.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from livecc_jax.families.qwen2_vl import IMAGE_MEAN, IMAGE_STD
from livecc_jax.kernels.activations import quick_gelu
from livecc_jax.model.attention import attend
from livecc_jax.model.config import VisionConfig
from livecc_jax.model.layers import LayerNorm, Linear, weight
from livecc_jax.model.remat import Remat, apply_remat
from livecc_jax.model.rope import rotate, vision_angles


def normalize(patches: jax.Array, config: VisionConfig) -> jax.Array:
    """Scales patches to zero mean and unit variance in each color channel.

    Args:
        patches: uint8 [..., 1176], values ordered by channel.
        config: Sizes of a patch.

    Returns:
        float32 [..., 1176].
    """
    per_channel = config.patch_values // config.channels
    mean = np.repeat(np.float32(IMAGE_MEAN), per_channel)
    std = np.repeat(np.float32(IMAGE_STD), per_channel)
    return (patches.astype(jnp.float32) / 255.0 - mean) / std


class VisionAttention(nnx.Module):
    """Full attention within a frame pair, with two-dimensional rotary positions, over [W, S, D]."""

    def __init__(self, config: VisionConfig, rngs: nnx.Rngs, stack: tuple[int, ...]) -> None:
        heads = (config.heads, config.head_dim)
        self.qkv = Linear(
            rngs,
            (config.width,),
            (3, *heads),
            ("embed", None, "heads", "head_dim"),
            bias=True,
            stack=stack,
        )
        self.proj = Linear(
            rngs, heads, (config.width,), ("heads", "head_dim", "embed"), bias=True, stack=stack
        )

    def __call__(self, x_WSD: jax.Array, angles: jax.Array, pairs: jax.Array) -> jax.Array:
        # The weights are split, not the product: it is larger, and splitting would copy it.
        kernel, bias = self.qkv.kernel[...], self.qkv.bias[...]
        q, k, v = (jnp.tensordot(x_WSD, kernel[:, i], axes=1) + bias[i] for i in range(3))
        q, k = rotate(q, angles), rotate(k, angles)
        return self.proj(attend(q, k, v, pairs, causal=False, axes=("flat_windows", None)))


class VisionMlp(nnx.Module):
    """Two linear maps with quick GELU between them: [..., D] to [..., D]."""

    def __init__(self, config: VisionConfig, rngs: nnx.Rngs, stack: tuple[int, ...]) -> None:
        self.fc1 = Linear(
            rngs, (config.width,), (config.mlp,), ("embed", "mlp"), bias=True, stack=stack
        )
        self.fc2 = Linear(
            rngs, (config.mlp,), (config.width,), ("mlp", "embed"), bias=True, stack=stack
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc2(quick_gelu(self.fc1(x)))


class VisionBlock(nnx.Module):
    """Pre-norm transformer block over windows [W, S, D].

    It takes rotary angles float32 [W, S, head_dim / 2] and frame pairs int32 [W, S], 0 for padding.
    """

    def __init__(self, config: VisionConfig, rngs: nnx.Rngs, stack: tuple[int, ...] = ()) -> None:
        self.norm1 = LayerNorm(rngs, config.width, stack=stack)
        self.attn = VisionAttention(config, rngs, stack)
        self.norm2 = LayerNorm(rngs, config.width, stack=stack)
        self.mlp = VisionMlp(config, rngs, stack)

    def __call__(self, x_WSD: jax.Array, angles: jax.Array, pairs: jax.Array) -> jax.Array:
        x_WSD = x_WSD + self.attn(self.norm1(x_WSD), angles, pairs)
        return x_WSD + self.mlp(self.norm2(x_WSD))


class Merger(nnx.Module):
    """Fuses each contiguous 2x2 block of patches into one vector: [W, S, D] to [W, S / 4, out]."""

    def __init__(self, config: VisionConfig, out: int, rngs: nnx.Rngs) -> None:
        self.merged_width = config.width * config.merge_size**2
        self.norm = LayerNorm(rngs, config.width)
        self.fc1 = Linear(rngs, (self.merged_width,), (self.merged_width,), ("embed", "mlp"), bias=True)
        self.fc2 = Linear(rngs, (self.merged_width,), (out,), ("mlp", "embed"), bias=True)

    def __call__(self, x_WSD: jax.Array) -> jax.Array:
        x_WSD = self.norm(x_WSD)
        x_merged = x_WSD.reshape(*x_WSD.shape[:-2], -1, self.merged_width)
        return self.fc2(jax.nn.gelu(self.fc1(x_merged), approximate=False))


class VisionTower(nnx.Module):
    """Patch embedding, blocks stacked under scan, merger."""

    def __init__(self, config: VisionConfig, out: int, rngs: nnx.Rngs) -> None:
        self.config = config
        self.patch_embed = weight(rngs, (config.patch_values, config.width), (None, "embed"))
        self.blocks = VisionBlock(config, rngs, stack=(config.depth,))
        self.merger = Merger(config, out, rngs)

    def __call__(
        self,
        patches: jax.Array,
        pairs: jax.Array,
        rows: jax.Array,
        cols: jax.Array,
        remat: Remat = "none",
    ) -> jax.Array:
        """Encodes windows of patches.

        Args:
            patches: uint8 [W, S, 1176], the patches of each 2x2 block contiguous.
            pairs: int32 [W, S], the frame pair of the window that a patch belongs to; 0 is padding.
            rows: int32 [W, S], row of each patch in its frame.
            cols: int32 [W, S], column of each patch in its frame.
            remat: What the backward pass recomputes.

        Returns:
            [W, S / 4, D] in the weights' dtype, where D is the decoder's width.
        """
        kernel = self.patch_embed[...]
        with jax.named_scope("patch_embed"):
            x_WSD = normalize(patches, self.config).astype(kernel.dtype) @ kernel
        angles = vision_angles(rows, cols, self.config.head_dim)
        graph, blocks = nnx.split(self.blocks)

        def run_block(x_WSD: jax.Array, block: nnx.State) -> tuple[jax.Array, None]:
            return nnx.merge(graph, block)(x_WSD, angles, pairs), None

        with jax.named_scope("vision_blocks"):
            x_WSD, _ = jax.lax.scan(apply_remat(run_block, remat), x_WSD, blocks)
        with jax.named_scope("merger"):
            return self.merger(x_WSD)
