"""Next-token cross entropy on the supervised tokens alone.

Few tokens of a streaming row are supervised. Their hidden states are gathered first, and the head with
its 152k outputs runs on those alone, one chunk at a time, recomputed in the backward pass.

Axes in names: B rows, T tokens, D width, N targets, C targets of a chunk, K chunks, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp


def target_losses(
    head: Callable[[jax.Array], jax.Array],
    hidden_BTD: jax.Array,
    tokens_BT: jax.Array,
    slots_BN: jax.Array,
    chunk: int,
) -> jax.Array:
    """Computes the cross entropy of the token after each target slot.

    Args:
        head: Function from final hidden states [..., D] to float32 logits [..., V].
        hidden_BTD: Final hidden states.
        tokens_BT: Token ids, int32.
        slots_BN: Positions whose next token is the target, int32.
        chunk: Number of targets of a row whose logits are in memory at the same time.

    Returns:
        Losses in nats, float32 [B, N].
    """
    n = slots_BN.shape[1]
    chunk = min(chunk, n)
    slots_BN = jnp.pad(slots_BN, ((0, 0), (0, -n % chunk)))
    labels_BN = jnp.take_along_axis(tokens_BT, slots_BN + 1, axis=1)
    states_BND = jnp.take_along_axis(hidden_BTD, slots_BN[..., None], axis=1)

    def split_chunks(x_BN: jax.Array) -> jax.Array:
        return jnp.moveaxis(x_BN.reshape(x_BN.shape[0], -1, chunk, *x_BN.shape[2:]), 1, 0)

    def chunk_losses(states_and_labels: tuple[jax.Array, jax.Array]) -> jax.Array:
        states_BCD, labels_BC = states_and_labels
        logits_BCV = head(states_BCD)
        label_logits_BC = jnp.take_along_axis(logits_BCV, labels_BC[..., None], axis=-1)[..., 0]
        return jax.nn.logsumexp(logits_BCV, axis=-1) - label_logits_BC

    with jax.named_scope("head"):
        chunks = split_chunks(states_BND), split_chunks(labels_BN)
        losses_KBC = jax.lax.map(jax.checkpoint(chunk_losses), chunks)
    return jnp.moveaxis(losses_KBC, 0, 1).reshape(slots_BN.shape)[:, :n]
