"""One tick's turns in one compiled call: every row reads its prompt and answers.

Rows are turns of different conversations, each over its own context in the pool. What a row says does
not depend on its neighbours; a row that ends early waits for the others.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from livecc_jax.decoding.compiled import ON_GPU, Compiled
from livecc_jax.decoding.generate import Asked, Controls, StopIds, say
from livecc_jax.decoding.paged_cache import Context, Pool, keep, read_turn
from livecc_jax.decoding.session_step import TurnInput
from livecc_jax.decoding.weights import Weights
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.qwen2_vl import bind


class Places(NamedTuple):
    """Where the pool keeps a turn's tokens, each at another place; beyond the pool for padding."""

    prompt: jax.Array  # int32 [B, Q]
    answer: jax.Array  # int32 [B, M]


@functools.partial(
    Compiled,
    gpu=ON_GPU,
    static_argnames=("config", "stop", "limit", "sampled"),
    donate_argnames=("pool",),
)
def take_turns(
    config: ModelConfig,
    stop: StopIds,
    limit: int,
    weights: Weights,
    pool: Pool,
    context: Context,
    turn: TurnInput,
    places: Places,
    controls: Controls,
    limits: jax.Array,
    sampled: bool,
) -> tuple[jax.Array, Pool]:
    """Take one turn with every row.

    Args:
        config: the architecture.
        stop: end-of-turn ids, and the silence token.
        limit: M, most tokens any row may say.
        weights: for decoding.
        pool: donated.
        context: what each row remembers.
        turn: prompts, and what was seen.
        places: where the pool keeps prompt and answer.
        controls: sampling.
        limits: int32 [B], most tokens this row may say; 0 for a row that is padding.
        sampled: whether any row has a temperature.

    Returns:
        (int32 [B, M] what each row said, -1 after the end; the pool). A row that said as many tokens as
        it may was cut: its last one is not in the pool.
    """
    model = bind(config, weights.rest)
    batch, bucket = turn.tokens.shape
    rows = jnp.arange(batch)
    x = model.embed(turn.tokens, turn.pictures, turn.vision_index)
    hidden, cache, prompt = read_turn(
        model, weights.layers, pool, context, x, turn.positions, limit, last=turn.count - 1
    )
    remembered = jnp.arange(context.tokens.shape[1]) < context.length[:, None]
    real = jnp.arange(bucket) < turn.count[:, None]
    seen = jnp.zeros((batch, config.text.vocab_size), bool)
    seen = seen.at[rows[:, None], context.tokens].max(remembered)
    seen = seen.at[rows[:, None], turn.tokens].max(real)
    asked = Asked(hidden[:, 0], context.length + turn.count, turn.next_position, seen)
    said = say(
        model, weights, stop, asked, cache, controls, limits, limit, sampled=sampled, new_dtype=x.dtype
    )
    # At once, when nothing is to be read any more: in between XLA would copy parts of the pool.
    told = [
        jnp.concatenate([kv.astype(x.dtype) for kv in layer], axis=1) for layer in zip(prompt, said.new)
    ]
    return said.tokens, keep(pool, told, jnp.concatenate(places, axis=1))
