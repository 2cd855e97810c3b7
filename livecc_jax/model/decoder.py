"""The language decoder of Qwen2-VL, as training runs it: layers under scan, over packed rows.

What attention does with keys and values is an argument of a layer, so that `verify` can run one layer
by itself. Decoding has a layer of its own, over weights prepared for it (`decoding.decoder`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from livecc_jax.kernels.norms import rms_norm
from livecc_jax.model.attention import attend
from livecc_jax.model.config import TextConfig
from livecc_jax.model.layers import Linear, RmsNorm, weight
from livecc_jax.model.remat import Remat, apply_remat
from livecc_jax.model.rope import rotate, text_angles
from livecc_jax.parallel.rules import constrain

# Takes q [B, T, H, D] rotated, and k [B, T, K, D] not rotated and v [B, T, K, D]. Returns the attention
# output [B, T, H, D] and anything that the caller wants from the layer.
AttendFn = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, Any]]


class Attention(nnx.Module):
    """Grouped-query attention with rotary positions, with biases or norms of q and k as configured.

    It maps [B, T, D] to [B, T, D], and returns what `attend` returned besides.
    """

    def __init__(self, config: TextConfig, rngs: nnx.Rngs, stack: tuple[int, ...]) -> None:
        def projection(heads: int, axis: str) -> Linear:
            outputs = (heads, config.head_dim)
            return Linear(
                rngs,
                (config.width,),
                outputs,
                ("embed", axis, "head_dim"),
                bias=config.qkv_bias,
                stack=stack,
            )

        self.q = projection(config.heads, "heads")
        self.k = projection(config.kv_heads, "kv_heads")
        self.v = projection(config.kv_heads, "kv_heads")
        self.o = Linear(
            rngs,
            (config.heads, config.head_dim),
            (config.width,),
            ("heads", "head_dim", "embed"),
            stack=stack,
        )
        self.qk_norm = config.qk_norm
        if config.qk_norm:
            self.q_norm = RmsNorm(rngs, config.head_dim, eps=config.norm_eps, stack=stack)
            self.k_norm = RmsNorm(rngs, config.head_dim, eps=config.norm_eps, stack=stack)

    def __call__(self, x_BTD: jax.Array, angles: jax.Array, attend: AttendFn) -> tuple[jax.Array, Any]:
        q, k = self.q(x_BTD), self.k(x_BTD)
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        out_BTHD, extra = attend(rotate(q, angles), k, self.v(x_BTD))
        return self.o(out_BTHD), extra


class Mlp(nnx.Module):
    """SwiGLU feed-forward layer: [..., D] to [..., D]."""

    def __init__(self, config: TextConfig, rngs: nnx.Rngs, stack: tuple[int, ...]) -> None:
        self.gate = Linear(rngs, (config.width,), (config.mlp,), ("embed", "mlp"), stack=stack)
        self.up = Linear(rngs, (config.width,), (config.mlp,), ("embed", "mlp"), stack=stack)
        self.down = Linear(rngs, (config.mlp,), (config.width,), ("mlp", "embed"), stack=stack)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class DecoderLayer(nnx.Module):
    """Pre-norm block: attention, then feed-forward.

    It maps the residual stream [B, T, D], with rotary angles float32 [B, T, head_dim / 2], to the next
    layer's, and returns what `attend` returned besides.
    """

    def __init__(self, config: TextConfig, rngs: nnx.Rngs, stack: tuple[int, ...] = ()) -> None:
        self.eps = config.norm_eps
        self.input_norm = weight(rngs, (config.width,), ("norm",), stack=stack, fill=1.0)
        self.attn = Attention(config, rngs, stack)
        self.post_norm = weight(rngs, (config.width,), ("norm",), stack=stack, fill=1.0)
        self.mlp = Mlp(config, rngs, stack)

    def __call__(self, x_BTD: jax.Array, angles: jax.Array, attend: AttendFn) -> tuple[jax.Array, Any]:
        with jax.named_scope("attn"):
            normed_BTD = rms_norm(x_BTD, self.input_norm[...], self.eps)
            out_BTD, extra = self.attn(normed_BTD, angles, attend)
        x_BTD = x_BTD + out_BTD
        with jax.named_scope("mlp"):
            return x_BTD + self.mlp(rms_norm(x_BTD, self.post_norm[...], self.eps)), extra


class Decoder(nnx.Module):
    """Embedding, layers stacked under scan, final norm, and a head of its own or the embedding's."""

    def __init__(self, config: TextConfig, rngs: nnx.Rngs) -> None:
        self.config = config
        self.embed = weight(rngs, (config.vocab_size, config.width), ("vocab", "embed"))
        self.layers = DecoderLayer(config, rngs, stack=(config.layers,))
        self.norm = weight(rngs, (config.width,), ("norm",), fill=1.0)
        if not config.tied:
            self.head = weight(rngs, (config.width, config.vocab_size), ("embed", "vocab"))

    def angles(self, positions: jax.Array) -> jax.Array:
        """Returns rotary angles float32 [B, T, head_dim / 2] for positions int32 [B, 3, T]."""
        c = self.config
        return text_angles(positions, c.head_dim, c.rope_theta, c.mrope_section, c.interleaved)

    def __call__(
        self,
        x: jax.Array,
        positions: jax.Array,
        segment_ids: jax.Array,
        remat: Remat = "none",
        unroll: bool = False,
        deepstack: jax.Array | None = None,
        vision_index: jax.Array | None = None,
    ) -> jax.Array:
        """Runs every layer over packed rows.

        Args:
            x: [B, T, D] embedded tokens.
            positions: int32 [B, 3, T].
            segment_ids: int32 [B, T]; 0 is padding.
            remat: What the backward pass recomputes.
            unroll: Whether to compile every layer instead of a loop over them. Nothing is then copied
                into and out of stacks, but the program is as many times larger.
            deepstack: [B, M, J, D], features of merged patches that join the output of the first J
                layers at vision tokens; None without DeepStack.
            vision_index: int32 [B, T], the merged patch of a vision token, and -1 elsewhere; needed
                with `deepstack`.

        Returns:
            [B, T, D] hidden states after the final norm.
        """
        angles = self.angles(positions)
        graph, layers = nnx.split(self.layers)

        def attend_within_segments(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, None]:
            return attend(q, rotate(k, angles), v, segment_ids, causal=True), None

        def run_layer(
            x_BTD: jax.Array, numbered: tuple[jax.Array, nnx.State]
        ) -> tuple[jax.Array, None]:
            number, layer = numbered
            x_BTD, _ = nnx.merge(graph, layer)(x_BTD, angles, attend_within_segments)
            if deepstack is not None:
                # A branch, so that later layers pay nothing although all run the same program.
                x_BTD = jax.lax.cond(
                    number < deepstack.shape[2],
                    lambda x: add_features(x, deepstack, number, vision_index),
                    lambda x: x,
                    x_BTD,
                )
            return constrain(x_BTD, "batch", "length", None), None

        numbers = jnp.arange(self.config.layers)
        with jax.named_scope("decoder_layers"):
            x, _ = jax.lax.scan(apply_remat(run_layer, remat), x, (numbers, layers), unroll=unroll)
        return self.final(x)

    def final(self, x: jax.Array) -> jax.Array:
        """Applies the norm after the last layer to [..., D]."""
        return rms_norm(x, self.norm[...], self.config.norm_eps)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Applies the head to normed hidden states [..., D]: float32 [..., V]."""
        weights, dims = (self.embed, "vd") if self.config.tied else (self.head, "dv")
        return jnp.einsum(
            f"...d,{dims}->...v", hidden, weights[...], preferred_element_type=jnp.float32
        )


def add_features(
    x: jax.Array, deepstack: jax.Array, level: jax.Array | int, vision_index: jax.Array
) -> jax.Array:
    """Adds one level of DeepStack features to the hidden states of vision tokens.

    Args:
        x: [B, T, D].
        deepstack: [B, M, J, D], features of merged patches.
        level: The level, from 0 to J - 1.
        vision_index: int32 [B, T], the merged patch of a vision token, and -1 elsewhere.
    """
    features_BMD = jax.lax.dynamic_index_in_dim(deepstack, level, axis=2, keepdims=False)
    taken_BTD = jnp.take_along_axis(features_BMD, jnp.maximum(vision_index, 0)[..., None], axis=1)
    return x + jnp.where(vision_index[..., None] >= 0, taken_BTD.astype(x.dtype), 0)
