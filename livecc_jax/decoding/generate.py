"""What a turn says after its prompt: the loop over tokens, the same for one stream and for many."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from livecc_jax.decoding.decoder import logits
from livecc_jax.decoding.kv_cache import Cache, New, append_new
from livecc_jax.decoding.sampling import choose, forbid_hasty_silence, greedy, penalize
from livecc_jax.decoding.weights import Weights
from livecc_jax.model.qwen2_vl import Qwen2VL

QUESTIONS = 1 << 31  # the first number of a question: turns with frames have theirs from 0


class Controls(NamedTuple):
    """How each row says its turn; all [B] but the last."""

    temperature: jax.Array
    repetition_penalty: jax.Array
    silence_base: jax.Array
    silence_step: jax.Array
    # uint32 [B, 2]: a conversation's seed, and the number of this turn in it. Randomness follows from
    # both alone, not from who else speaks, nor from how much was drawn before.
    seeds: jax.Array


@dataclass(frozen=True)
class StopIds:
    """Token ids with a meaning to the loop."""

    end: tuple[int, ...]
    silence: int | None  # None: nobody's silence is controlled

    def watching(self, bases: Sequence[float | None]) -> StopIds:
        """These ids, with silence only where some row controls it (which costs a softmax a token)."""
        controlled = any(base is not None for base in bases)
        return self if controlled else dataclasses.replace(self, silence=None)


class Asked(NamedTuple):
    """Rows whose prompts are read."""

    last: jax.Array  # [B, D] the hidden state of each prompt's last token
    length: jax.Array  # int32 [B] tokens in the cache
    next_position: jax.Array  # int32 [B]
    seen: jax.Array  # bool [B, V] ids in the context, for the repetition penalty


class Said(NamedTuple):
    """What rows said."""

    tokens: jax.Array  # int32 [B, M], -1 after the end
    kept: jax.Array  # int32 [B], how many are in the cache: not the last of a turn that was cut short
    seen: jax.Array  # bool [B, V], with them
    cache: Cache
    new: New  # keys and values of what is kept, [B, M, K, 2, D], if they were asked for


def say(
    model: Qwen2VL,
    weights: Weights,
    stop: StopIds,
    asked: Asked,
    cache: Cache,
    controls: Controls,
    limits: jax.Array | int,
    limit: int,
    *,
    sampled: bool,
    new_dtype: jnp.dtype | None = None,
) -> Said:
    """Say what follows, until every row has ended its turn or may say no more.

    A row that has ended waits for the others, and writes past its end in the cache, where none looks.

    Args:
        model: bound to `weights.rest`.
        weights: for decoding.
        stop: end-of-turn ids, and the silence token.
        asked: B rows.
        cache: with room for M more tokens.
        controls: sampling.
        limits: int32 [B], most tokens this row may say, or of all rows; 0 for a row that is padding.
        limit: M, the largest of them.
        sampled: whether any row has a temperature; without, no randomness is spent.
        new_dtype: of the keys and values that are handed back; None for none.
    """
    rows = jnp.arange(len(asked.length))
    if sampled:
        keys = jax.vmap(lambda s: jax.random.fold_in(jax.random.key(s[0]), s[1]))(controls.seeds)
        draws = jax.vmap(functools.partial(jax.random.split, num=limit))(keys)

    def pick(last: jax.Array, seen: jax.Array, n: jax.Array) -> jax.Array:
        scores = penalize(logits(model, weights, last), seen, controls.repetition_penalty)
        if stop.silence is not None:
            scores = forbid_hasty_silence(
                scores, stop.silence, controls.silence_base, controls.silence_step, n
            )
        return choose(scores, controls.temperature, draws[:, n]) if sampled else greedy(scores)

    def speaks(token: jax.Array) -> jax.Array:
        return jnp.all(token[:, None] != jnp.asarray(stop.end), axis=1)

    token = pick(asked.last, asked.seen, jnp.zeros((), jnp.int32))
    speaking = speaks(token) & (jnp.asarray(limits) > 0)
    said = jnp.full((len(rows), limit), -1, jnp.int32).at[:, 0].set(jnp.where(speaking, token, -1))
    shape = len(rows), limit, model.config.text.kv_heads, 2, model.config.text.head_dim
    told = [jnp.zeros(shape, new_dtype) for _ in weights.layers if new_dtype is not None]

    def unfinished(carry: tuple) -> jax.Array:
        n, _, speaking = carry[:3]
        return jnp.any(speaking & (n < limits))

    def following(carry: tuple) -> tuple:
        n, token, speaking, said, seen, cache, told = carry
        going = speaking & (n < limits)
        x = model.embed(token[:, None], None, None)
        at = asked.next_position + n - 1
        positions = jnp.broadcast_to(at[:, None, None], (len(rows), 3, 1))
        place = asked.length + n - 1
        hidden, cache, new = append_new(model, weights.layers, cache, x, positions, place)
        put = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=n - 1, axis=1)
        told = [put(old, kv.astype(old.dtype)) for old, kv in zip(told, new)]
        seen = seen.at[rows, token].max(going)
        token = pick(hidden[:, 0], seen, n)
        speaking = going & speaks(token)
        said = said.at[:, n].set(jnp.where(speaking, token, -1))
        return n + 1, token, speaking, said, seen, cache, told

    carry = jnp.ones((), jnp.int32), token, speaking, said, asked.seen, cache, told
    *_, said, seen, cache, told = jax.lax.while_loop(unfinished, following, carry)
    count = jnp.sum(said >= 0, axis=1, dtype=jnp.int32)
    return Said(said, count - ((count == limits) & (count > 0)), seen, cache, told)
