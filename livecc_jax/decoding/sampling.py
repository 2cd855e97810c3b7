"""Choosing the next token: repetition penalty, silence control, greedy or sampled.

The order is that of the released decoder (the logits processors of LiveCC's demo): the repetition
penalty comes first, silence is judged on penalized scores, and temperature comes last.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import jax
import jax.numpy as jnp

NO_SILENCE_CONTROL = -1.0  # a base below every probability, which never bans silence

# A context that JAX's caches of traced and compiled functions know of, None for the best token.
_CHOICE = jax.make_user_context(default_value=None)


def penalize(logits: jax.Array, seen_ids: jax.Array, penalty: jax.Array) -> jax.Array:
    """Divides positive logits of ids in the context by the penalty, and multiplies negative ones.

    This is the repetition penalty of CTRL (arXiv 1909.05858).

    Args:
        logits: float32 [B, V].
        seen_ids: bool [B, V], true for ids that the context holds.
        penalty: float32 [B]; 1 changes nothing.

    Returns:
        float32 [B, V].
    """
    penalty = penalty[:, None]
    return jnp.where(seen_ids, jnp.where(logits > 0, logits / penalty, logits * penalty), logits)


def forbid_hasty_silence(
    scores: jax.Array, silence_id: int, base: jax.Array, step: jax.Array, n: jax.Array
) -> jax.Array:
    """Bans the token ` ...` while its probability is at most base + step * n.

    Args:
        scores: float32 [B, V], after the repetition penalty.
        silence_id: Id of the token ` ...`.
        base: float32 [B]; `NO_SILENCE_CONTROL` never bans.
        step: float32 [B].
        n: Number of tokens that this turn has generated so far, starting at 0.

    Returns:
        float32 [B, V], -inf where the token is banned.
    """
    probability = jax.nn.softmax(scores, axis=-1)[:, silence_id]
    is_banned = (base >= 0) & (probability <= base + step * n)
    return scores.at[:, silence_id].set(jnp.where(is_banned, -jnp.inf, scores[:, silence_id]))


def best(scores: jax.Array) -> jax.Array:
    """Returns the best token of each sequence, int32 [B], from float32 [B, V]."""
    return jnp.argmax(scores, axis=-1).astype(jnp.int32)


def choosing(choose: Callable[[jax.Array], jax.Array]) -> AbstractContextManager[None]:
    """Makes greedy decoding choose by a function within the context.

    It serves to look at the scores of whole turns, or to force an answer. What was compiled outside of
    the context is compiled again within it.

    Args:
        choose: Takes scores float32 [B, V] and returns the chosen ids, int32 [B]. It is traced by JAX.
    """
    return _CHOICE(choose)


def greedy(scores: jax.Array) -> jax.Array:
    """Returns the token that each sequence chooses, int32 [B]: the best, unless in `choosing`.

    Args:
        scores: float32 [B, V].
    """
    return (_CHOICE.value or best)(scores)


def sample(scores: jax.Array, temperature: jax.Array, keys: jax.Array) -> jax.Array:
    """Draws the next token of each sequence, or takes the best one where the temperature is 0.

    Args:
        scores: float32 [B, V].
        temperature: float32 [B].
        keys: Random keys [B], one a sequence, so that a draw does not depend on the rest of the batch.

    Returns:
        int32 [B].
    """
    scaled = scores / jnp.where(temperature > 0, temperature, 1.0)[:, None]
    drawn = jax.vmap(jax.random.categorical)(keys, scaled).astype(jnp.int32)
    return jnp.where(temperature > 0, drawn, greedy(scores))
