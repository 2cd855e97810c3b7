"""The vision tower of Qwen2-VL, as training runs it: patches in, one vector for each 2x2 block out.

Its batch axis is windows. A window holds whole frame pairs, and a patch attends within its own pair, so
attention is dense over a window and never longer. The towers of other families stand in files of their
own and take their parts from here; `model.towers` knows them all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from livecc_jax.families import FAMILIES
from livecc_jax.kernels.activations import quick_gelu
from livecc_jax.model.attention import attend
from livecc_jax.model.config import VisionConfig
from livecc_jax.model.layers import LayerNorm, Linear, weight
from livecc_jax.model.remat import Remat, apply_remat
from livecc_jax.model.rope import rotate, vision_angles


def normalize(patches: jax.Array, config: VisionConfig) -> jax.Array:
    """Scales patches to zero mean and unit variance in each color channel.

    Args:
        patches: uint8 [..., P], the P values of a patch (1176 for Qwen2-VL) ordered by channel.
        config: The tower, whose family has the statistics.

    Returns:
        float32 [..., P].
    """
    rules = FAMILIES[config.family].patches
    mean = np.repeat(np.float32(rules.mean), rules.values // rules.channels)
    std = np.repeat(np.float32(rules.std), rules.values // rules.channels)
    return (patches.astype(jnp.float32) / 255.0 - mean) / std


class VisionAttention(nnx.Module):
    """Attention within segments of a window, with two-dimensional rotary positions, over [W, S, D]."""

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

    def __call__(self, x_WSD: jax.Array, angles: jax.Array, segments: jax.Array) -> jax.Array:
        # The weights are split, not the product: it is larger, and splitting would copy it.
        kernel, bias = self.qkv.kernel[...], self.qkv.bias[...]
        q, k, v = (jnp.tensordot(x_WSD, kernel[:, i], axes=1) + bias[i] for i in range(3))
        q, k = rotate(q, angles), rotate(k, angles)
        return self.proj(attend(q, k, v, segments, causal=False, axes=("flat_windows", None)))


class VisionMlp(nnx.Module):
    """Two linear maps with an activation between them, quick GELU by default: [..., D] to [..., D]."""

    def __init__(
        self,
        config: VisionConfig,
        rngs: nnx.Rngs,
        stack: tuple[int, ...],
        activation: Callable[[jax.Array], jax.Array] = quick_gelu,
    ) -> None:
        self.activation = activation
        self.fc1 = Linear(
            rngs, (config.width,), (config.mlp,), ("embed", "mlp"), bias=True, stack=stack
        )
        self.fc2 = Linear(
            rngs, (config.mlp,), (config.width,), ("mlp", "embed"), bias=True, stack=stack
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc2(self.activation(self.fc1(x)))


class VisionBlock(nnx.Module):
    """Pre-norm transformer block over windows [W, S, D].

    It takes rotary angles float32 [W, S, head_dim / 2], and segments int32 [W, S] within which patches
    attend to one another, 0 for padding.

    Args:
        config: Sizes of the tower.
        rngs: Random number generators.
        mlp: Builds the feed-forward layer.
        norm: Builds a norm.
        stack: (L,) for a stack of L blocks.
    """

    def __init__(
        self,
        config: VisionConfig,
        rngs: nnx.Rngs,
        stack: tuple[int, ...] = (),
        mlp: Callable[..., nnx.Module] = VisionMlp,
        norm: Callable[..., nnx.Module] = LayerNorm,
    ) -> None:
        self.norm1 = norm(rngs, config.width, stack=stack)
        self.attn = VisionAttention(config, rngs, stack)
        self.norm2 = norm(rngs, config.width, stack=stack)
        self.mlp = mlp(config, rngs, stack)

    def __call__(self, x_WSD: jax.Array, angles: jax.Array, segments: jax.Array) -> jax.Array:
        x_WSD = x_WSD + self.attn(self.norm1(x_WSD), angles, segments)
        return x_WSD + self.mlp(self.norm2(x_WSD))


class Merger(nnx.Module):
    """Fuses each contiguous 2x2 block of patches into one vector: [W, S, D] to [W, S / 4, out].

    Args:
        config: Sizes of the tower.
        out: The decoder's width.
        rngs: Random number generators.
        norm: Builds the norm, of each patch before the four of a block lie side by side.
    """

    def __init__(
        self,
        config: VisionConfig,
        out: int,
        rngs: nnx.Rngs,
        norm: Callable[..., nnx.Module] = LayerNorm,
    ) -> None:
        self.merged_width = config.width * config.merge_size**2
        self.norm = norm(rngs, config.width)
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
        with jax.named_scope("patch_embed"):
            x_WSD = embed_patches(patches, self.config, self.patch_embed[...])
        angles = vision_angles(rows, cols, self.config.head_dim)
        x_WSD = run_blocks(self.blocks, x_WSD, angles, pairs, remat)
        with jax.named_scope("merger"):
            return self.merger(x_WSD)


def embed_patches(patches: jax.Array, config: VisionConfig, kernel: jax.Array) -> jax.Array:
    """Maps uint8 patches [..., P] to [..., D] in the dtype of the kernel [P, D]."""
    return normalize(patches, config).astype(kernel.dtype) @ kernel


def run_blocks(
    blocks: nnx.Module,
    x: jax.Array,
    angles: jax.Array,
    segments: jax.Array,
    remat: Remat,
    span: slice = slice(None),
    other_segments: tuple[jax.Array, np.ndarray] | None = None,
) -> jax.Array:
    """Runs stacked blocks under scan.

    Args:
        blocks: The stack of `VisionBlock`.
        x: [W, S, D].
        angles: float32 [W, S, head_dim / 2], rotary angles.
        segments: int32 [W, S], within which patches attend to one another; 0 is padding.
        remat: What the backward pass recomputes.
        span: The blocks to run.
        other_segments: Segments int32 [W, S] for some blocks, and which blocks those are, as bool [L]
            for the whole stack.

    Returns:
        [W, S, D].
    """
    graph, stacked = nnx.split(blocks)
    xs: tuple[Any, ...] = (
        jax.tree.map(lambda leaf: leaf[span], stacked) if span != slice(None) else stacked,
    )
    if other_segments is not None:
        others, chosen = other_segments
        xs = (*xs, jnp.asarray(chosen[span]))

    def run_block(x_WSD: jax.Array, block: tuple[Any, ...]) -> tuple[jax.Array, None]:
        state, *choose_other = block
        within = jnp.where(choose_other[0], others, segments) if choose_other else segments
        return nnx.merge(graph, state)(x_WSD, angles, within), None

    with jax.named_scope("vision_blocks"):
        x, _ = jax.lax.scan(apply_remat(run_block, remat), x, xs)
    return x
