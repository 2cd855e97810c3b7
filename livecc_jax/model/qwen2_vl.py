"""Qwen2-VL: the vision tower, the decoder, and how the two meet.

NNX modules define and name the parameters. Everything that runs them (training step, decoder) takes
the parameters as a plain nested dict of arrays and calls `bind`, so that jit, grad, sharding and
checkpoints see ordinary pytrees.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from livecc_jax.model.config import ModelConfig
from livecc_jax.model.decoder import Decoder
from livecc_jax.model.lora import LORA, attach
from livecc_jax.model.remat import Remat
from livecc_jax.model.vision import VisionTower
from livecc_jax.parallel.rules import constrain

Params = dict[str, Any]  # nested dict of arrays; see docs/formats.md for every path and shape


class Qwen2VL(nnx.Module):
    """A streaming video-language model of the Qwen2-VL family."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs) -> None:
        self.config = config
        self.vision = VisionTower(config.vision, config.text.width, rngs)
        self.text = Decoder(config.text, rngs)

    def encode(
        self,
        patches: jax.Array,
        pairs: jax.Array,
        rows: jax.Array,
        cols: jax.Array,
        remat: Remat = "none",
    ) -> jax.Array:
        """Vision tower over rows of windows.

        Args:
            patches: uint8 [B, W, S, 1176].
            pairs: int32 [B, W, S].
            rows: int32 [B, W, S].
            cols: int32 [B, W, S].
            remat: what the backward pass recomputes.

        Returns:
            [B, W * S / 4, D] merged patches, numbered as `vision_index` does.
        """
        b, w = patches.shape[:2]

        def flat(x: jax.Array) -> jax.Array:
            x = x.reshape(b * w, *x.shape[2:])
            return constrain(x, "flat_windows", *[None] * (x.ndim - 1))

        merged = self.vision(flat(patches), flat(pairs), flat(rows), flat(cols), remat=remat)
        return constrain(merged.reshape(b, -1, merged.shape[-1]), "batch", "windows", None)

    def embed(
        self, tokens: jax.Array, merged: jax.Array | None, vision_index: jax.Array | None
    ) -> jax.Array:
        """Token embeddings with vision tokens replaced by what the tower saw.

        Args:
            tokens: int32 [B, T].
            merged: [B, M, D] from `encode`, or None when there is no picture.
            vision_index: int32 [B, T], the merged patch of a vision token, -1 elsewhere; not used
                without `merged`.

        Returns:
            [B, T, D] in the embedding's dtype.
        """
        x = self.text.embed[...][tokens]
        if merged is None:
            return x
        seen = jnp.take_along_axis(merged, jnp.maximum(vision_index, 0)[..., None], axis=1)
        x = jnp.where(vision_index[..., None] >= 0, seen.astype(x.dtype), x)
        return constrain(x, "batch", "length", None)

    def hidden(
        self, row: dict[str, jax.Array], remat: Remat = "none", unroll: bool = False
    ) -> jax.Array:
        """Hidden states [B, T, D] of packed rows (the fields of docs/formats.md).

        `remat` is for tower and decoder, `unroll` for the decoder; see there.
        """
        merged = self.encode(
            row["patches"], row["patch_pairs"], row["patch_rows"], row["patch_cols"], remat
        )
        x = self.embed(row["tokens"], merged, row["vision_index"])
        return self.text(x, row["positions"], row["segment_ids"], remat, unroll)

    def __call__(self, row: dict[str, jax.Array]) -> jax.Array:
        """Logits float32 [B, T, V] at every position: for comparison; training never makes them."""
        return self.text.logits(self.hidden(row))


@functools.cache
def _abstract(config: ModelConfig) -> tuple[nnx.GraphDef, nnx.State]:
    model = nnx.eval_shape(lambda: Qwen2VL(config, nnx.Rngs(0)))
    return nnx.split(model)


def abstract_params(config: ModelConfig) -> Params:
    """The parameter tree as `jax.ShapeDtypeStruct`s (float32); nothing is allocated."""
    _, state = _abstract(config)
    return nnx.to_pure_dict(state)


def logical_axes(config: ModelConfig) -> Params:
    """The parameter tree with each leaf's logical axes, a tuple of names, in place of the array."""
    _, state = _abstract(config)
    flat = {path: leaf.get_metadata()["axes"] for path, leaf in nnx.to_flat_state(state)}
    return nnx.traversals.unflatten_mapping(flat)


def init_params(config: ModelConfig, seed: int) -> Params:
    """Random float32 parameters; jit with `out_shardings` to make them where they belong."""
    state = nnx.state(Qwen2VL(config, nnx.Rngs(seed)), nnx.Param)
    return nnx.to_pure_dict(state)


def bind(config: ModelConfig, params: Params, adapter_scale: float = 0.0) -> Qwen2VL:
    """The model with these parameters, of any dtype. Free: only Python objects are made.

    Args:
        config: the architecture.
        params: its tree, with adapters under "lora" if it has any (`model.lora`).
        adapter_scale: what adapters add is multiplied by.
    """
    graph, state = _abstract(config)
    state = jax.tree.map(lambda x: x, state)  # a copy: replacing writes in place
    nnx.replace_by_pure_dict(state, {k: v for k, v in params.items() if k != LORA})
    model = nnx.merge(graph, state)
    attach(model, params.get(LORA, {}), adapter_scale)
    return model
