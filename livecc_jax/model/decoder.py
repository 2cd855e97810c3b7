"""The language decoder of Qwen2-VL.

The same layer serves both of its uses, which differ only in what `attend` does with keys and values:
training attends within packed segments, streaming appends to a cache first.
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
from livecc_jax.model.layers import Linear, weight
from livecc_jax.model.remat import Remat, checkpointed
from livecc_jax.model.rope import rotate, text_angles
from livecc_jax.parallel.rules import constrain

# (q [B,T,H,D] rotated, k [B,T,K,D] not yet, v [B,T,K,D]) -> (out [B,T,H,D], whatever it wants handed
# back). Keys come as they are because what is kept of them may be rotated later.
Attend = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, Any]]


class Attention(nnx.Module):
    """Grouped-query attention with biased q, k, v and rotary positions."""

    def __init__(self, config: TextConfig, rngs: nnx.Rngs, stack: tuple[int, ...]) -> None:
        def project(heads: int, name: str) -> Linear:
            outputs = (heads, config.head_dim)
            return Linear(
                rngs, (config.width,), outputs, ("embed", name, "head_dim"), bias=True, stack=stack
            )

        self.q = project(config.heads, "heads")
        self.k = project(config.kv_heads, "kv_heads")
        self.v = project(config.kv_heads, "kv_heads")
        self.o = Linear(
            rngs,
            (config.heads, config.head_dim),
            (config.width,),
            ("heads", "head_dim", "embed"),
            stack=stack,
        )

    def __call__(self, x: jax.Array, angles: jax.Array, attend: Attend) -> tuple[jax.Array, Any]:
        out, kept = attend(rotate(self.q(x), angles), self.k(x), self.v(x))
        return self.o(out), kept


class Mlp(nnx.Module):
    """SwiGLU feed-forward."""

    def __init__(self, config: TextConfig, rngs: nnx.Rngs, stack: tuple[int, ...]) -> None:
        self.gate = Linear(rngs, (config.width,), (config.mlp,), ("embed", "mlp"), stack=stack)
        self.up = Linear(rngs, (config.width,), (config.mlp,), ("embed", "mlp"), stack=stack)
        self.down = Linear(rngs, (config.mlp,), (config.width,), ("mlp", "embed"), stack=stack)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class DecoderLayer(nnx.Module):
    """Pre-norm block: attention, then feed-forward."""

    def __init__(self, config: TextConfig, rngs: nnx.Rngs, stack: tuple[int, ...] = ()) -> None:
        self.eps = config.norm_eps
        self.input_norm = weight(rngs, (config.width,), ("norm",), stack=stack, fill=1.0)
        self.attn = Attention(config, rngs, stack)
        self.post_norm = weight(rngs, (config.width,), ("norm",), stack=stack, fill=1.0)
        self.mlp = Mlp(config, rngs, stack)

    def __call__(self, x: jax.Array, angles: jax.Array, attend: Attend) -> tuple[jax.Array, Any]:
        with jax.named_scope("attn"):
            out, kept = self.attn(rms_norm(x, self.input_norm[...], self.eps), angles, attend)
        x = x + out
        with jax.named_scope("mlp"):
            return x + self.mlp(rms_norm(x, self.post_norm[...], self.eps)), kept


class Decoder(nnx.Module):
    """Embedding, layers stacked under scan, final norm, head (its own or the embedding's)."""

    def __init__(self, config: TextConfig, rngs: nnx.Rngs) -> None:
        self.config = config
        self.embed = weight(rngs, (config.vocab_size, config.width), ("vocab", "embed"))
        self.layers = DecoderLayer(config, rngs, stack=(config.layers,))
        self.norm = weight(rngs, (config.width,), ("norm",), fill=1.0)
        if not config.tied:
            self.head = weight(rngs, (config.width, config.vocab_size), ("embed", "vocab"))

    def angles(self, positions: jax.Array) -> jax.Array:
        """int32 [B, 3, T] positions to float32 [B, T, head_dim / 2] rotary angles."""
        c = self.config
        return text_angles(positions, c.head_dim, c.rope_theta, c.mrope_section)

    def __call__(
        self,
        x: jax.Array,
        positions: jax.Array,
        segment_ids: jax.Array,
        remat: Remat = "none",
        unroll: bool = False,
    ) -> jax.Array:
        """Run every layer over packed rows.

        Args:
            x: [B, T, D] embedded tokens.
            positions: int32 [B, 3, T].
            segment_ids: int32 [B, T]; 0 is padding.
            remat: what the backward pass recomputes.
            unroll: compile every layer instead of a loop over them: nothing is copied into and out of
                stacks, for a program as many times as large.

        Returns:
            [B, T, D] hidden states after the final norm.
        """
        angles = self.angles(positions)
        graph, layers = nnx.split(self.layers)

        def within_segments(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, None]:
            return attend(q, rotate(k, angles), v, segment_ids, causal=True), None

        def body(x: jax.Array, layer: nnx.State) -> tuple[jax.Array, None]:
            x, _ = nnx.merge(graph, layer)(x, angles, within_segments)
            return constrain(x, "batch", "length", None), None

        with jax.named_scope("decoder_layers"):
            x, _ = jax.lax.scan(checkpointed(body, remat), x, layers, unroll=unroll)
        return self.final(x)

    def final(self, x: jax.Array) -> jax.Array:
        """The norm after the last layer."""
        return rms_norm(x, self.norm[...], self.config.norm_eps)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """[..., D] normed hidden states to [..., V] logits in float32."""
        weights, letters = (self.embed, "vd") if self.config.tied else (self.head, "dv")
        return jnp.einsum(
            f"...d,{letters}->...v", hidden, weights[...], preferred_element_type=jnp.float32
        )
