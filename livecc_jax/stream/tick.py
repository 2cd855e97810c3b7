"""One tick's turns in one compiled call: every row reads its prompt and answers.

Rows are turns of different conversations, each over its own context in the pool. What a row says does
not depend on its neighbours; a row that ends early waits for the others.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from livecc_jax.model.cache import append_new
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.inference import Weights, logits
from livecc_jax.model.pool import Context, Pool, keep, read_turn
from livecc_jax.model.qwen2_vl import bind
from livecc_jax.stream.compiled import ON_GPU, Compiled
from livecc_jax.stream.sampling import choose, forbid_hasty_silence, greedy, penalize
from livecc_jax.stream.step import Controls, StopIds, TurnInput


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
    seeds: jax.Array,
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
        seeds: uint32 [B, 2], what a row's randomness follows from: its conversation's seed, and which
            turn this is.
        sampled: whether any row has a temperature.

    Returns:
        (int32 [B, M] what each row said, -1 after the end; the pool). A row that said as many tokens as
        it may was cut: its last one is not in the pool.
    """
    model = bind(config, weights.rest)
    batch, bucket = turn.tokens.shape
    rows = jnp.arange(batch)
    x = model.embed(turn.tokens, turn.pictures, turn.vision_index)
    hidden, cache, prompt = read_turn(model, weights.layers, pool, context, x, turn.positions, limit)
    last = jnp.take_along_axis(hidden, (turn.count - 1)[:, None, None], axis=1)[:, 0]

    remembered = jnp.arange(context.tokens.shape[1]) < context.length[:, None]
    real = jnp.arange(bucket) < turn.count[:, None]
    seen = jnp.zeros((batch, config.text.vocab_size), bool)
    seen = seen.at[rows[:, None], context.tokens].max(remembered)
    seen = seen.at[rows[:, None], turn.tokens].max(real)
    if sampled:
        keys = jax.vmap(lambda s: jax.random.fold_in(jax.random.key(s[0]), s[1]))(seeds)
        split = jax.vmap(functools.partial(jax.random.split, num=limit))(keys)

    def pick(last: jax.Array, seen: jax.Array, n: jax.Array) -> jax.Array:
        scores = penalize(logits(model, weights, last), seen, controls.repetition_penalty)
        if stop.silence is not None:
            scores = forbid_hasty_silence(
                scores, stop.silence, controls.silence_base, controls.silence_step, n
            )
        return choose(scores, controls.temperature, split[:, n]) if sampled else greedy(scores)

    def speaks(token: jax.Array) -> jax.Array:
        return jnp.all(token[:, None] != jnp.asarray(stop.end), axis=1)

    token = pick(last, seen, jnp.zeros((), jnp.int32))
    speaking = speaks(token) & (limits > 0)
    said = jnp.full((batch, limit), -1, jnp.int32).at[:, 0].set(jnp.where(speaking, token, -1))
    begin = context.length + turn.count  # of the answer in the cache
    shape = batch, limit, config.text.kv_heads, 2, config.text.head_dim
    answers = [jnp.zeros(shape, x.dtype) for _ in weights.layers]
    carry = (jnp.ones((), jnp.int32), token, speaking, said, seen, cache, answers)

    def unfinished(carry: tuple) -> jax.Array:
        n, _, speaking = carry[:3]
        return jnp.any(speaking & (n < limits))

    def say(carry: tuple) -> tuple:
        n, token, speaking, said, seen, cache, answers = carry
        going = speaking & (n < limits)
        x = model.embed(token[:, None], None, None)
        at = turn.next_position + n - 1
        positions = jnp.broadcast_to(at[:, None, None], (batch, 3, 1))
        hidden, cache, new = append_new(model, weights.layers, cache, x, positions, begin + n - 1)
        put = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=n - 1, axis=1)
        answers = [put(old, kv.astype(old.dtype)) for old, kv in zip(answers, new)]
        seen = seen.at[rows, token].max(going)
        following = pick(hidden[:, 0], seen, n)
        ended = going & ~speaks(following)
        token = jnp.where(going, following, token)
        said = said.at[:, n].set(jnp.where(going & ~ended, following, -1))
        return n + 1, token, speaking & ~ended, said, seen, cache, answers

    _, _, _, said, _, _, answers = jax.lax.while_loop(unfinished, say, carry)
    # At once, when nothing is to be read any more: in between XLA would copy parts of the pool.
    told = [
        jnp.concatenate([kv.astype(x.dtype) for kv in layer], axis=1) for layer in zip(prompt, answers)
    ]
    return said, keep(pool, told, jnp.concatenate(places, axis=1))
