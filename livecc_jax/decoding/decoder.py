"""The decoder's layers as decoding runs them, over weights a layer at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from livecc_jax.decoding.linear import Stream, before, gated_mlp, joined, product
from livecc_jax.decoding.quantize import head8
from livecc_jax.decoding.weights import Weights
from livecc_jax.kernels.norms import RmsNorm
from livecc_jax.model.config import TextConfig
from livecc_jax.model.qwen2_vl import Params, Qwen2VL

# qkv [B,T,K,G+2,D], each key head's queries, key and value -> (out [B,T,K*G,D], whatever it wants
# handed back). Nothing is rotated: a context that forgets turns moves what it keeps, and one kernel may
# take them apart, rotate, keep and attend.
Attend = Callable[[jax.Array], tuple[jax.Array, Any]]


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
