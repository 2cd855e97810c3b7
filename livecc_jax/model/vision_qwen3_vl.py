"""The vision tower of Qwen3-VL, as training runs it: learned positions, and DeepStack features.

Features after some blocks go through mergers of their own and are added to the hidden states of the
first decoder layers at vision tokens (DeepStack, arXiv 2406.04334).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from livecc_jax.model.config import VisionConfig
from livecc_jax.model.layers import LayerNorm, Linear, weight
from livecc_jax.model.remat import Remat
from livecc_jax.model.rope import vision_angles
from livecc_jax.model.vision import Merger, VisionBlock, VisionMlp, embed_patches, run_blocks

_mlp = functools.partial(VisionMlp, activation=functools.partial(jax.nn.gelu, approximate=True))


class DeepStackMerger(nnx.Module):
    """Fuses each 2x2 block of features into one vector: [W, S, D] to [W, S / 4, out].

    Unlike `model.vision.Merger` it normalises the four patches of a block together.
    """

    def __init__(
        self, config: VisionConfig, out: int, rngs: nnx.Rngs, stack: tuple[int, ...] = ()
    ) -> None:
        self.merged_width = width = config.width * config.merge_size**2
        self.norm = LayerNorm(rngs, width, stack=stack)
        self.fc1 = Linear(rngs, (width,), (width,), ("embed", "mlp"), bias=True, stack=stack)
        self.fc2 = Linear(rngs, (width,), (out,), ("mlp", "embed"), bias=True, stack=stack)

    def __call__(self, x_WSD: jax.Array) -> jax.Array:
        x = self.norm(x_WSD.reshape(*x_WSD.shape[:-2], -1, self.merged_width))
        return self.fc2(jax.nn.gelu(self.fc1(x), approximate=False))


class PatchEmbedding(nnx.Module):
    """Linear map of patches with a bias: uint8 [..., P] to [..., D]."""

    def __init__(self, config: VisionConfig, rngs: nnx.Rngs) -> None:
        self.config = config
        self.kernel = weight(rngs, (config.patch_values, config.width), (None, "embed"))
        self.bias = weight(rngs, (config.width,), ("embed",), fill=0.0)

    def __call__(self, patches: jax.Array) -> jax.Array:
        return embed_patches(patches, self.config, self.kernel[...]) + self.bias[...]


class DeepStackVisionTower(nnx.Module):
    """Patch embedding, learned positions, blocks stacked under scan, mergers."""

    def __init__(self, config: VisionConfig, out: int, rngs: nnx.Rngs) -> None:
        self.config = config
        self.patch_embed = PatchEmbedding(config, rngs)
        self.pos_embed = weight(rngs, (config.position_grid**2, config.width), (None, "embed"))
        self.blocks = VisionBlock(config, rngs, (config.depth,), mlp=_mlp)
        self.merger = Merger(config, out, rngs)
        self.deepstack = DeepStackMerger(config, out, rngs, stack=(len(config.deepstack),))

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
            patches: uint8 [W, S, 1536], the patches of each 2x2 block contiguous.
            pairs: int32 [W, S], the frame pair of the window that a patch belongs to; 0 is padding.
            rows: int32 [W, S], row of each patch in its frame.
            cols: int32 [W, S], column of each patch in its frame.
            remat: What the backward pass recomputes.

        Returns:
            [W, S / 4, (1 + J) * D] in the weights' dtype, where D is the decoder's width: the merged
            patches, then their features for each of the first J decoder layers.
        """
        c = self.config
        with jax.named_scope("patch_embed"):
            x_WSD = self.patch_embed(patches)
            table = self.pos_embed[...]
            heights, widths = grid_sizes(pairs, rows, cols)
            x_WSD += interpolate_positions(table, rows, cols, heights, widths).astype(x_WSD.dtype)
        angles = vision_angles(rows, cols, c.head_dim)
        graph, mergers = nnx.split(self.deepstack)
        outputs, first = [], 0
        for level, block in enumerate(c.deepstack):
            span = slice(first, block + 1)
            x_WSD = run_blocks(self.blocks, x_WSD, angles, pairs, remat, span)
            merger = nnx.merge(graph, jax.tree.map(lambda leaf, level=level: leaf[level], mergers))
            with jax.named_scope("deepstack"):
                outputs.append(merger(x_WSD))
            first = block + 1
        if first < c.depth:
            x_WSD = run_blocks(self.blocks, x_WSD, angles, pairs, remat, slice(first, c.depth))
        with jax.named_scope("merger"):
            return jnp.concatenate([self.merger(x_WSD), *outputs], axis=-1)


def grid_sizes(pairs: jax.Array, rows: jax.Array, cols: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns height and width, in patches, of the frame that each patch belongs to.

    Args:
        pairs: int32 [W, S], the frame pair of the window that a patch belongs to.
        rows: int32 [W, S], row of each patch in its frame.
        cols: int32 [W, S], column of each patch in its frame.

    Returns:
        int32 [W, S] each.
    """
    most = pairs.shape[1] // 4 + 1  # a frame pair has four patches at least; 0 is padding

    def largest(values: jax.Array, pairs: jax.Array) -> jax.Array:
        return jax.ops.segment_max(values + 1, pairs, most)[pairs]

    return jax.vmap(largest)(rows, pairs), jax.vmap(largest)(cols, pairs)


def interpolate_positions(
    table: jax.Array, rows: jax.Array, cols: jax.Array, heights: jax.Array, widths: jax.Array
) -> jax.Array:
    """Interpolates learned positions bilinearly, so that the corners of frame and table coincide.

    Args:
        table: [G * G, D], row by row.
        rows: int32 [...], row of each patch in its frame.
        cols: int32 [...], column of each patch in its frame.
        heights: int32 [...], rows of its frame.
        widths: int32 [...], columns of its frame.

    Returns:
        float32 [..., D].
    """
    side = round(len(table) ** 0.5)

    def neighbours(index: jax.Array, size: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        place = index.astype(jnp.float32) * (side - 1) / jnp.maximum(size - 1, 1)
        low = jnp.clip(place.astype(jnp.int32), 0, side - 1)
        return low, jnp.minimum(low + 1, side - 1), place - low

    top, bottom, down = neighbours(rows, heights)
    left, right, across = neighbours(cols, widths)
    down, across = down[..., None], across[..., None]

    def corner(row: jax.Array, col: jax.Array) -> jax.Array:
        return table[row * side + col].astype(jnp.float32)

    upper = (1 - across) * corner(top, left) + across * corner(top, right)
    lower = (1 - across) * corner(bottom, left) + across * corner(bottom, right)
    return (1 - down) * upper + down * lower
