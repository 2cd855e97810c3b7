"""The whole network of any family: the vision tower, the decoder, and how the two meet.

NNX modules define and name the parameters. Everything that runs them (the training step, decoding)
takes the parameters as a plain nested dict of arrays and calls `bind`, so that jit, grad, sharding and
checkpoints handle ordinary pytrees.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from livecc_jax.model.config import ModelConfig
from livecc_jax.model.decoder import Decoder
from livecc_jax.model.lora import LORA, attach_adapters
from livecc_jax.model.remat import Remat
from livecc_jax.model.towers import build_tower
from livecc_jax.parallel.rules import constrain

Params = dict[str, Any]  # nested dict of arrays; docs/formats.md lists every path and shape


class Qwen2VL(nnx.Module):
    """A streaming video-language model of the Qwen2-VL, Qwen2.5-VL or Qwen3-VL family."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        self.config = config
        self.vision = build_tower(config.vision, config.text.width, rngs)
        self.text = Decoder(config.text, rngs)

    def encode_patches(
        self,
        patches: jax.Array,
        pairs: jax.Array,
        rows: jax.Array,
        cols: jax.Array,
        remat: Remat = "none",
    ) -> jax.Array:
        """Runs the vision tower over the windows of packed rows.

        Args:
            patches: uint8 [B, W, S, P], P values a patch.
            pairs: int32 [B, W, S], the frame pair of its window that a patch belongs to; 0 is padding.
            rows: int32 [B, W, S], row of each patch in its frame.
            cols: int32 [B, W, S], column of each patch in its frame.
            remat: What the backward pass recomputes.

        Returns:
            Merged patches [B, W * S / 4, (1 + J) * D], in the order that `vision_index` counts them.
            The features of J levels of DeepStack follow each merged patch; J is 0 in families without
            it.
        """
        b, w = patches.shape[:2]

        def flatten_windows(x: jax.Array) -> jax.Array:
            x = x.reshape(b * w, *x.shape[2:])
            return constrain(x, "flat_windows", *[None] * (x.ndim - 1))

        merged = self.vision(*map(flatten_windows, (patches, pairs, rows, cols)), remat=remat)
        return constrain(merged.reshape(b, -1, merged.shape[-1]), "batch", "windows", None)

    def embed(
        self, tokens: jax.Array, merged: jax.Array | None, vision_index: jax.Array | None
    ) -> jax.Array:
        """Embeds tokens, and puts merged patches in the place of vision tokens.

        Args:
            tokens: int32 [B, T].
            merged: What `encode_patches` returned, of M merged patches; None without pictures.
            vision_index: int32 [B, T], the merged patch of a vision token, and -1 elsewhere; ignored
                without `merged`.

        Returns:
            [B, T, D] in the embedding's dtype.
        """
        x_BTD = self.text.embed[...][tokens]
        if merged is None:
            return x_BTD
        patches_BMD = merged[..., : self.config.text.width]
        patch_BTD = jnp.take_along_axis(patches_BMD, jnp.maximum(vision_index, 0)[..., None], axis=1)
        x_BTD = jnp.where(vision_index[..., None] >= 0, patch_BTD.astype(x_BTD.dtype), x_BTD)
        return constrain(x_BTD, "batch", "length", None)

    def deepstack_features(self, merged: jax.Array | None) -> jax.Array | None:
        """Returns the DeepStack features [B, M, J, D] within what `encode_patches` returned.

        None without pictures, and in families without DeepStack.
        """
        if merged is None or not self.config.vision.deepstack:
            return None
        width = self.config.text.width
        return merged[..., width:].reshape(*merged.shape[:2], -1, width)

    def hidden_states(
        self, row: dict[str, jax.Array], remat: Remat = "none", unroll: bool = False
    ) -> jax.Array:
        """Runs the whole network but the head over packed rows.

        Args:
            row: The fields of packed rows (docs/formats.md), each [B, ...].
            remat: What the backward pass recomputes, in the vision tower and in the decoder.
            unroll: Whether to compile every layer of the decoder instead of a loop over them.

        Returns:
            [B, T, D] hidden states after the final norm.
        """
        merged = self.encode_patches(
            row["patches"], row["patch_pairs"], row["patch_rows"], row["patch_cols"], remat
        )
        x_BTD = self.embed(row["tokens"], merged, row["vision_index"])
        return self.text(
            x_BTD,
            row["positions"],
            row["segment_ids"],
            remat,
            unroll,
            self.deepstack_features(merged),
            row["vision_index"],
        )

    def __call__(self, row: dict[str, jax.Array]) -> jax.Array:
        """Computes logits float32 [B, T, V] at every position, for comparisons; training never does."""
        return self.text.logits(self.hidden_states(row))


@functools.cache
def _abstract_model(config: ModelConfig) -> tuple[nnx.GraphDef, nnx.State]:
    """Returns the model's structure, and its parameters as shapes."""
    model = nnx.eval_shape(lambda: Qwen2VL(config, nnx.Rngs(0)))
    return nnx.split(model)


def abstract_params(config: ModelConfig) -> Params:
    """Returns the parameter tree as `jax.ShapeDtypeStruct`s (float32); nothing is allocated."""
    _, state = _abstract_model(config)
    return nnx.to_pure_dict(state)


def logical_axes(config: ModelConfig) -> Params:
    """Returns the parameter tree with each array's logical axes, a tuple of names, in its place."""
    _, state = _abstract_model(config)
    flat = {path: leaf.get_metadata()["axes"] for path, leaf in nnx.to_flat_state(state)}
    return nnx.traversals.unflatten_mapping(flat)


def init_params(config: ModelConfig, seed: int) -> Params:
    """Draws random float32 parameters. Under jit, `out_shardings` creates them where they belong."""
    state = nnx.state(Qwen2VL(config, nnx.Rngs(seed)), nnx.Param)
    return nnx.to_pure_dict(state)


def bind(config: ModelConfig, params: Params, adapter_scale: float = 0.0) -> Qwen2VL:
    """Returns the model with these parameters, of any dtype; only Python objects are created.

    Args:
        config: The architecture.
        params: The parameter tree, with adapters under "lora" if there are any (`model.lora`).
        adapter_scale: Factor of what adapters add, alpha / rank.
    """
    graph, state = _abstract_model(config)
    state = jax.tree.map(lambda x: x, state)  # a copy, because the next call replaces leaves in place
    nnx.replace_by_pure_dict(state, {k: v for k, v in params.items() if k != LORA})
    model = nnx.merge(graph, state)
    attach_adapters(model, params.get(LORA, {}), adapter_scale)
    return model
