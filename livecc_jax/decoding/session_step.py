"""One turn in two compiled calls: see the frames; append the prompt and decode until the turn ends.

Nothing returns to Python between tokens. The batch axis is slots; a slot that ends early waits for
the others without changing its state.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from livecc_jax.decoding.compiled import ON_GPU, Compiled
from livecc_jax.decoding.generate import Asked, Controls, StopIds, say
from livecc_jax.decoding.kv_cache import Cache, append
from livecc_jax.decoding.vision import see
from livecc_jax.decoding.weights import Weights
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.qwen2_vl import bind


class SlotState(NamedTuple):
    """What the device remembers of each slot, beside the cache."""

    length: jax.Array  # int32 [B] tokens in the cache
    seen: jax.Array  # bool [B, V] ids in the context so far, for the repetition penalty


class TurnInput(NamedTuple):
    """A turn's prompt, padded to a bucket, and what was seen in its frames."""

    tokens: jax.Array  # int32 [B, Q]
    count: jax.Array  # int32 [B] real tokens, at least 1
    positions: jax.Array  # int32 [B, 3, Q]
    next_position: jax.Array  # int32 [B] of the first generated token
    vision_index: jax.Array  # int32 [B, Q]
    pictures: jax.Array | None  # [B, P, D] from `look`; None for a turn without


@functools.partial(jax.jit, static_argnames="config")
def look(config: ModelConfig, weights: Weights, frames: tuple[jax.Array, ...]) -> jax.Array:
    """What the tower makes of the frames of each row, uint8 [F, H, W, 3]: [B, P, D].

    A call of its own, so that the device is at work while the turn's call is prepared.
    """
    return see(config, weights, jnp.stack(frames))


def prefill(
    config: ModelConfig, weights: Weights, cache: Cache, length: jax.Array, turn: TurnInput
) -> tuple[jax.Array, Cache]:
    """Append the prompt: ([B, D] the hidden state of its last token, cache)."""
    model = bind(config, weights.rest)
    x = model.embed(turn.tokens, turn.pictures, turn.vision_index)
    hidden, cache = append(model, weights.layers, cache, x, turn.positions, length, last=turn.count - 1)
    return hidden[:, 0], cache


@functools.partial(jax.jit, static_argnames="config", donate_argnames=("cache", "state"))
def read(
    config: ModelConfig, weights: Weights, cache: Cache, state: SlotState, turn: TurnInput
) -> tuple[Cache, SlotState]:
    """Take part of a long prompt, to which nothing is said yet; cache and state are donated."""
    _, cache = prefill(config, weights, cache, state.length, turn)
    return cache, state._replace(length=state.length + turn.count, seen=seen_of(state, turn))


def seen_of(state: SlotState, turn: TurnInput) -> jax.Array:
    """bool [B, V] ids in the context once it holds the prompt too."""
    batch, bucket = turn.tokens.shape
    real = jnp.arange(bucket) < turn.count[:, None]
    return state.seen.at[jnp.arange(batch)[:, None], turn.tokens].max(real)


@functools.partial(
    Compiled,
    gpu=ON_GPU,
    static_argnames=("config", "stop", "limit", "sampled"),
    donate_argnames=("cache", "state"),
)
def run_turn(
    config: ModelConfig,
    stop: StopIds,
    limit: int,
    weights: Weights,
    cache: Cache,
    state: SlotState,
    turn: TurnInput,
    controls: Controls,
    sampled: bool = True,
) -> tuple[jax.Array, Cache, SlotState]:
    """Take one turn with every slot.

    Args:
        config: the architecture.
        stop: end-of-turn ids, and the silence token.
        limit: most tokens a turn may say.
        weights: for decoding.
        cache: donated; must have room for length + Q + limit tokens.
        state: donated.
        turn: the prompt, and what was seen.
        controls: sampling.
        sampled: whether any slot has a temperature; without, no randomness is spent.

    Returns:
        (int32 [B, limit] what each slot said, -1 after the end; the cache; the state). A slot that said
        as many tokens as it may was cut: its last one is not in the cache.
    """
    last, cache = prefill(config, weights, cache, state.length, turn)
    asked = Asked(last, state.length + turn.count, turn.next_position, seen_of(state, turn))
    model = bind(config, weights.rest)
    said = say(model, weights, stop, asked, cache, controls, limit, limit, sampled=sampled)
    return said.tokens, said.cache, SlotState(asked.length + said.kept, said.seen)
