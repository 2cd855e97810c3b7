"""Next-token loss on the supervised tokens alone.

Few tokens of a streaming row are supervised, so their hidden states are gathered first and the
152k-wide head runs on those, a chunk at a time, recomputed in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp


def target_losses(
    logits_of: Callable[[jax.Array], jax.Array],
    hidden: jax.Array,
    tokens: jax.Array,
    slots: jax.Array,
    chunk: int,
) -> jax.Array:
    """Cross entropy of the token after each slot.

    Args:
        logits_of: the head, [..., D] final hidden states to float32 [..., V].
        hidden: [B, T, D] final hidden states.
        tokens: int32 [B, T].
        slots: int32 [B, N] positions whose next token is the target.
        chunk: how many targets of a row have logits at once.

    Returns:
        float32 [B, N], in nats.
    """
    n = slots.shape[1]
    chunk = min(chunk, n)
    slots = jnp.pad(slots, ((0, 0), (0, -n % chunk)))
    labels = jnp.take_along_axis(tokens, slots + 1, axis=1)
    states = jnp.take_along_axis(hidden, slots[..., None], axis=1)

    def split(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x.reshape(x.shape[0], -1, chunk, *x.shape[2:]), 1, 0)

    def one(states_and_labels: tuple[jax.Array, jax.Array]) -> jax.Array:
        states, labels = states_and_labels
        logits = logits_of(states)
        picked = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
        return jax.nn.logsumexp(logits, axis=-1) - picked

    with jax.named_scope("head"):
        losses = jax.lax.map(jax.checkpoint(one), (split(states), split(labels)))
    return jnp.moveaxis(losses, 0, 1).reshape(slots.shape)[:, :n]
