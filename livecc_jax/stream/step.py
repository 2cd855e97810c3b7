"""One turn in two compiled calls: see the frames; append the prompt and decode until the turn ends.

Nothing returns to Python between tokens. The batch axis is slots; a slot that ends early waits for
the others without changing its state.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from livecc_jax.model.cache import Cache, append
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.inference import Weights, logits, see
from livecc_jax.model.qwen2_vl import bind
from livecc_jax.stream.compiled import ON_GPU, Compiled
from livecc_jax.stream.sampling import choose, forbid_hasty_silence, greedy, penalize


class SlotState(NamedTuple):
    """What the device remembers of each slot, beside the cache."""

    length: jax.Array  # int32 [B] tokens in the cache
    seen: jax.Array  # bool [B, V] ids in the context so far, for the repetition penalty
    keys: jax.Array  # [B] random keys


class TurnInput(NamedTuple):
    """A turn's prompt, padded to a bucket, and what was seen in its frames."""

    tokens: jax.Array  # int32 [B, Q]
    count: jax.Array  # int32 [B] real tokens, at least 1
    positions: jax.Array  # int32 [B, 3, Q]
    next_position: jax.Array  # int32 [B] of the first generated token
    vision_index: jax.Array  # int32 [B, Q]
    pictures: jax.Array | None  # [B, P, D] from `look`; None for a turn without


class Controls(NamedTuple):
    """How each slot samples; all [B]."""

    temperature: jax.Array
    repetition_penalty: jax.Array
    silence_base: jax.Array
    silence_step: jax.Array


@dataclass(frozen=True)
class StopIds:
    """Token ids with a meaning to the loop."""

    end: tuple[int, ...]
    silence: int | None  # None: nobody's silence is controlled

    def watching(self, bases: Sequence[float | None]) -> StopIds:
        """These ids, with silence only where some slot controls it (which costs a softmax a token)."""
        controlled = any(base is not None for base in bases)
        return self if controlled else dataclasses.replace(self, silence=None)


@functools.partial(jax.jit, static_argnames="config")
def look(config: ModelConfig, weights: Weights, frames: tuple[jax.Array, ...]) -> jax.Array:
    """What the tower makes of the frames of each row, uint8 [F, H, W, 3]: [B, P, D].

    A call of its own, so that the device is at work while the turn's call is prepared.
    """
    return see(config, weights, jnp.stack(frames))


def prefill(
    config: ModelConfig, weights: Weights, cache: Cache, length: jax.Array, turn: TurnInput
) -> tuple[jax.Array, Cache]:
    """Append the prompt: ([B, Q, D] hidden states, cache)."""
    model = bind(config, weights.rest)
    x = model.embed(turn.tokens, turn.pictures, turn.vision_index)
    return append(model, weights.layers, cache, x, turn.positions, length)


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
    model = bind(config, weights.rest)
    batch = len(turn.tokens)
    rows = jnp.arange(batch)

    hidden, cache = prefill(config, weights, cache, state.length, turn)
    seen = seen_of(state, turn)
    length = state.length + turn.count
    last = jnp.take_along_axis(hidden, (turn.count - 1)[:, None, None], axis=1)[:, 0]

    def pick(
        last: jax.Array, seen: jax.Array, keys: jax.Array, n: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        scores = penalize(logits(model, weights, last), seen, controls.repetition_penalty)
        if stop.silence is not None:
            scores = forbid_hasty_silence(
                scores, stop.silence, controls.silence_base, controls.silence_step, n
            )
        if not sampled:
            return greedy(scores), keys
        keys, use = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        return choose(scores, controls.temperature, use), keys

    def speaks(token: jax.Array) -> jax.Array:
        return jnp.all(token[:, None] != jnp.asarray(stop.end), axis=1)

    token, keys = pick(last, seen, state.keys, jnp.zeros((), jnp.int32))
    speaking = speaks(token)
    said = jnp.full((batch, limit), -1, jnp.int32).at[:, 0].set(jnp.where(speaking, token, -1))
    carry = (jnp.ones((), jnp.int32), token, speaking, said, cache, length, seen, keys)

    def unfinished(carry: tuple) -> jax.Array:
        n, _, speaking = carry[:3]
        return (n < limit) & jnp.any(speaking)

    def say(carry: tuple) -> tuple:
        n, token, speaking, said, cache, length, seen, keys = carry
        at = turn.next_position + n - 1
        x = model.embed(token[:, None], None, None)
        positions = jnp.broadcast_to(at[:, None, None], (batch, 3, 1))
        hidden, cache = append(model, weights.layers, cache, x, positions, length)
        # A slot that has finished writes past its length, where nothing looks.
        length = length + speaking
        seen = seen.at[rows, token].max(speaking)
        token, spent = pick(hidden[:, 0], seen, keys, n)
        keys = jnp.where(speaking, spent, keys)  # waiting for others costs a slot no randomness
        speaking &= speaks(token)
        said = said.at[:, n].set(jnp.where(speaking, token, -1))
        return n + 1, token, speaking, said, cache, length, seen, keys

    _, _, speaking, said, cache, length, seen, keys = jax.lax.while_loop(unfinished, say, carry)
    return said, cache, SlotState(length, seen, keys)
