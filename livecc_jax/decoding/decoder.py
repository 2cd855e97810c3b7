"""The language decoder as decoding runs it: one layer with prepared weights, and the head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from livecc_jax.decoding.linear import (
    ResidualStream,
    add_to_residual,
    gated_mlp,
    linear,
    prepare_input,
    resolve_residual,
)
from livecc_jax.decoding.quantize import quantized_head_logits
from livecc_jax.decoding.weights import DecodingWeights
from livecc_jax.kernels.norms import RmsNorm, rms_norm
from livecc_jax.model.config import TextConfig
from livecc_jax.model.decoder import add_features
from livecc_jax.model.qwen2_vl import Params, Qwen2VL

# Takes qkv [B, T, K, G + 2, D], each key head with its G queries, its key and its value, none rotated.
# Returns the attention output [B, T, K * G, D] and anything that the caller wants from the layer.
# Splitting and rotating are left to the function: a context that evicts turns changes the positions of
# the keys in its cache, and one kernel may split, rotate, write to the cache and attend.
AttendFn = Callable[[jax.Array], tuple[jax.Array, Any]]


def decoder_layer(
    config: TextConfig,
    weights: Params,
    x: ResidualStream,
    attend: AttendFn,
    last: jax.Array | None = None,
) -> tuple[ResidualStream, Any]:
    """Runs one decoder layer, as `model.decoder.DecoderLayer` does.

    Args:
        config: Sizes of the decoder.
        weights: One entry of `DecodingWeights.layers`.
        x: [B, T, D] residual stream.
        attend: Attention over the layer's queries, keys and values.
        last: int32 [B]. If given, the layer's output is computed for this token of each sequence only,
            and `attend` must return its attention output alone, [B, 1, H, D].

    Returns:
        The residual stream [B, T, D], or [B, 1, D] with `last`; and what `attend` returned besides.
    """
    with jax.named_scope("attn"):
        norm = RmsNorm(weights["input_norm"], config.norm_eps)
        x, attn_input, norm = prepare_input(x, norm, weights["qkv"])
        qkv_BTKGD = linear(attn_input, weights["qkv"], norm=norm, dtype=x.dtype)
        if config.qk_norm:
            qkv_BTKGD = norm_queries_and_keys(qkv_BTKGD, weights["qk_norm"], config.norm_eps)
        out_BTHD, extra = attend(qkv_BTKGD)
        x = add_to_residual(x if last is None else select_token(x, last), out_BTHD, weights["o"], 2)
    with jax.named_scope("mlp"):
        norm = RmsNorm(weights["post_norm"], config.norm_eps)
        x, mlp_input, norm = prepare_input(x, norm, weights["gate_up"])
        return gated_mlp(x, mlp_input, weights["gate_up"], weights["down"], norm), extra


def norm_queries_and_keys(qkv_BTKGD: jax.Array, scales: jax.Array, eps: float) -> jax.Array:
    """Normalises each head's queries and keys, and leaves its values.

    Args:
        qkv_BTKGD: [B, T, K, G + 2, D], each key head with its G queries, its key and its value.
        scales: [2, D], scales of queries and of keys.
        eps: Added to the mean of squares.
    """
    groups = qkv_BTKGD.shape[-2] - 2
    scale_GD = jnp.concatenate([jnp.repeat(scales[:1], groups, axis=0), scales[1:]])
    normed = rms_norm(qkv_BTKGD[..., :-1, :], scale_GD, eps)
    return jnp.concatenate([normed, qkv_BTKGD[..., -1:, :]], axis=-2)


def select_token(x: jax.Array, index: jax.Array) -> jax.Array:
    """Takes one token of each sequence: x [B, T, ...] at int32 [B] gives [B, 1, ...]."""
    return jnp.take_along_axis(x, index.reshape(-1, *[1] * (x.ndim - 1)), axis=1)


class DeepStack(NamedTuple):
    """Features of new vision tokens for the first decoder layers (`model.decoder.add_features`)."""

    features: jax.Array  # [B, M, J, D]
    vision_index: jax.Array  # int32 [B, T], the merged patch of a vision token, and -1 elsewhere

    @staticmethod
    def of(
        model: Qwen2VL, merged: jax.Array | None, vision_index: jax.Array | None
    ) -> DeepStack | None:
        """Returns the features within what the vision tower made; None if there are none."""
        features = model.deepstack_features(merged)
        return None if features is None else DeepStack(features, vision_index)


def join_deepstack(x: ResidualStream, deepstack: DeepStack | None, layer: int) -> ResidualStream:
    """Adds the features that belong after a layer, if any, to the residual stream [B, T, D]."""
    if deepstack is None or layer >= deepstack.features.shape[2]:
        return x
    return add_features(resolve_residual(x), deepstack.features, layer, deepstack.vision_index)


def logits(model: Qwen2VL, weights: DecodingWeights, hidden: jax.Array) -> jax.Array:
    """Applies the head, quantized or not, to final hidden states [..., D]: float32 [..., V]."""
    if weights.quantized_head:
        return quantized_head_logits(hidden, weights.quantized_head)
    return model.text.logits(hidden)


def split_qkv(qkv_BTKGD: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Splits [B, T, K, G + 2, D] into queries [B, T, K * G, D], keys and values [B, T, K, D]."""
    q, head_dim = qkv_BTKGD[..., :-2, :], qkv_BTKGD.shape[-1]
    q_BTHD = q.reshape(*qkv_BTKGD.shape[:2], -1, head_dim)
    return q_BTHD, qkv_BTKGD[..., -2, :], qkv_BTKGD[..., -1, :]
