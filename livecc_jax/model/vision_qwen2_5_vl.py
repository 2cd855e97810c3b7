"""The vision tower of Qwen2.5-VL (arXiv 2502.13923, section 2.1), as training runs it.

Most blocks attend within square windows of a frame pair, a few within the whole pair. Patches are put
in an order in which the windows of a pair lie one after the other, so both are contiguous segments, and
attention goes through the same door as everywhere. Windows at the right and lower edge are smaller.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from livecc_jax.model.config import VisionConfig
from livecc_jax.model.layers import Linear, RmsNorm, weight
from livecc_jax.model.remat import Remat
from livecc_jax.model.rope import vision_angles
from livecc_jax.model.vision import Merger, VisionBlock, embed_patches, run_blocks


class GatedMlp(nnx.Module):
    """SwiGLU feed-forward layer with biases: [..., D] to [..., D]."""

    def __init__(self, config: VisionConfig, rngs: nnx.Rngs, stack: tuple[int, ...]) -> None:
        def linear(inputs: int, outputs: int, axes: tuple[str, str]) -> Linear:
            return Linear(rngs, (inputs,), (outputs,), axes, bias=True, stack=stack)

        self.gate = linear(config.width, config.mlp, ("embed", "mlp"))
        self.up = linear(config.width, config.mlp, ("embed", "mlp"))
        self.down = linear(config.mlp, config.width, ("mlp", "embed"))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class WindowedVisionTower(nnx.Module):
    """Patch embedding, blocks with attention within windows or pairs stacked under scan, merger."""

    def __init__(self, config: VisionConfig, out: int, rngs: nnx.Rngs) -> None:
        self.config = config
        self.patch_embed = weight(rngs, (config.patch_values, config.width), (None, "embed"))
        self.blocks = VisionBlock(config, rngs, (config.depth,), mlp=GatedMlp, norm=RmsNorm)
        self.merger = Merger(config, out, rngs, norm=RmsNorm)

    def __call__(
        self,
        patches: jax.Array,
        pairs: jax.Array,
        rows: jax.Array,
        cols: jax.Array,
        remat: Remat = "none",
    ) -> jax.Array:
        """Encodes windows of patches, as `model.vision.VisionTower` does.

        Args:
            patches: uint8 [W, S, 1176], the patches of each 2x2 block contiguous.
            pairs: int32 [W, S], the frame pair of the window that a patch belongs to; 0 is padding.
            rows: int32 [W, S], row of each patch in its frame.
            cols: int32 [W, S], column of each patch in its frame.
            remat: What the backward pass recomputes.

        Returns:
            [W, S / 4, D] in the weights' dtype, where D is the decoder's width.
        """
        c = self.config
        order = window_order(pairs, rows, cols, c)
        patches, pairs, rows, cols = (take_blocks(x, order) for x in (patches, pairs, rows, cols))
        with jax.named_scope("patch_embed"):
            x_WSD = embed_patches(patches, c, self.patch_embed[...])
        is_full = np.isin(np.arange(c.depth), c.full_blocks)
        segments = window_segments(pairs, rows, cols, c.window)
        angles = vision_angles(rows, cols, c.head_dim)
        x_WSD = run_blocks(self.blocks, x_WSD, angles, segments, remat, other_segments=(pairs, is_full))
        with jax.named_scope("merger"):
            merged = self.merger(x_WSD)
        return jnp.take_along_axis(merged, jnp.argsort(order, axis=1)[..., None], axis=1)


def window_order(pairs: jax.Array, rows: jax.Array, cols: jax.Array, config: VisionConfig) -> jax.Array:
    """Returns the order of 2x2 blocks in which attention windows are contiguous, padding last.

    Args:
        pairs: int32 [W, S], frame pairs, 0 for padding; the four patches of a block are contiguous.
        rows: int32 [W, S], row of each patch.
        cols: int32 [W, S], column of each patch.
        config: Sizes of the tower.

    Returns:
        int32 [W, S / 4]: the number of the block that comes first, second, ...
    """
    block = config.merge_size**2
    pair, row, col = (x[:, ::block] for x in (pairs, rows, cols))
    pair = jnp.where(pair > 0, pair, jnp.iinfo(jnp.int32).max)
    return jnp.lexsort((col // config.window, row // config.window, pair), axis=1)


def take_blocks(x: jax.Array, order: jax.Array) -> jax.Array:
    """Puts the 2x2 blocks of [W, S, ...] into an order int32 [W, S / 4]."""
    blocks = x.reshape(*order.shape, -1)
    return jnp.take_along_axis(blocks, order[..., None], axis=1).reshape(x.shape)


def window_segments(pairs: jax.Array, rows: jax.Array, cols: jax.Array, window: int) -> jax.Array:
    """Numbers the attention windows of patches that `window_order` has put side by side.

    Args:
        pairs: int32 [W, S], frame pairs, 0 for padding.
        rows: int32 [W, S], row of each patch.
        cols: int32 [W, S], column of each patch.
        window: Patches along one side of a window.

    Returns:
        int32 [W, S], from 1 on in each row, and 0 for padding.
    """
    changes = jnp.zeros(pairs.shape, bool).at[:, 0].set(True)
    for x in (pairs, rows // window, cols // window):
        changes = changes.at[:, 1:].set(changes[:, 1:] | (x[:, 1:] != x[:, :-1]))
    return jnp.where(pairs > 0, jnp.cumsum(changes, axis=1, dtype=jnp.int32), 0)
