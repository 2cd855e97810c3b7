"""Choosing the next token: repetition penalty, silence control, greedy or sampled.

Order as in the released decoder (LiveCC section 6 of its code's processors): penalty first, silence
judged on penalised scores, temperature last.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

NO_SILENCE_CONTROL = -1.0  # no probability is at or below it


def penalize(logits: jax.Array, seen: jax.Array, penalty: jax.Array) -> jax.Array:
    """Divide a seen token's logit by the penalty if positive, multiply it if negative.

    Args:
        logits: float32 [B, V].
        seen: bool [B, V].
        penalty: float32 [B]; 1 changes nothing.
    """
    penalty = penalty[:, None]
    return jnp.where(seen, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)


def forbid_hasty_silence(
    scores: jax.Array, silence_id: int, base: jax.Array, step: jax.Array, n: jax.Array
) -> jax.Array:
    """Ban ` ...` while its probability is at most base + step * n.

    Args:
        scores: float32 [B, V], after the repetition penalty.
        silence_id: the token of ` ...`.
        base: float32 [B]; `NO_SILENCE_CONTROL` never bans.
        step: float32 [B].
        n: tokens this turn has generated so far, from 0.
    """
    probability = jax.nn.softmax(scores, axis=-1)[:, silence_id]
    banned = (base >= 0) & (probability <= base + step * n)
    return scores.at[:, silence_id].set(jnp.where(banned, -jnp.inf, scores[:, silence_id]))


def greedy(scores: jax.Array) -> jax.Array:
    """The best token of each row of float32 [B, V]: int32 [B]."""
    return jnp.argmax(scores, axis=-1).astype(jnp.int32)


def choose(scores: jax.Array, temperature: jax.Array, keys: jax.Array) -> jax.Array:
    """The next token of each row: the best where temperature is 0, else drawn.

    Args:
        scores: float32 [B, V].
        temperature: float32 [B].
        keys: [B] random keys, one a row, so that a row's draw does not depend on its neighbours.

    Returns:
        int32 [B].
    """
    scaled = scores / jnp.where(temperature > 0, temperature, 1.0)[:, None]
    drawn = jax.vmap(jax.random.categorical)(keys, scaled).astype(jnp.int32)
    return jnp.where(temperature > 0, drawn, greedy(scores))
