"""Generating a turn's answer after its prompt: the loop over tokens that sessions and engines share."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from livecc_jax.decoding.decoder import logits
from livecc_jax.decoding.kv_cache import KVCache, NewKV, append_returning_kv
from livecc_jax.decoding.sampling import forbid_hasty_silence, greedy, penalize, sample
from livecc_jax.decoding.weights import DecodingWeights
from livecc_jax.model.qwen2_vl import Qwen2VL

# Turns with frames are numbered from 0 and questions from here, so that their random draws differ.
FIRST_QUESTION_NUMBER = 1 << 31


class SamplingParams(NamedTuple):
    """How each sequence of a batch chooses its tokens."""

    temperature: jax.Array  # float32 [B]
    repetition_penalty: jax.Array  # float32 [B]
    silence_base: jax.Array  # float32 [B]
    silence_step: jax.Array  # float32 [B]
    # uint32 [B, 2]: a conversation's seed, and the number of this turn in it. Random draws depend on
    # these alone, not on the rest of the batch, nor on how much was drawn before.
    seeds: jax.Array


@dataclass(frozen=True)
class StopIds:
    """Token ids that the generation loop treats specially."""

    end: tuple[int, ...]  # ids that end a turn
    silence: int | None  # the id of ` ...`; None compiles the loop without silence control

    def with_silence_control(self, bases: Sequence[float | None]) -> StopIds:
        """Returns ids without the silence token unless some sequence of the batch controls silence.

        Silence control costs a softmax over the vocabulary for each token.

        Args:
            bases: The `silence_base` option of each sequence.
        """
        is_controlled = any(base is not None for base in bases)
        return self if is_controlled else dataclasses.replace(self, silence=None)


class PrefillOutput(NamedTuple):
    """The state of a batch whose prompts are in the cache."""

    last_hidden: jax.Array  # [B, D], the final hidden state of each prompt's last token
    length: jax.Array  # int32 [B], tokens in the cache
    next_position: jax.Array  # int32 [B], position of the first generated token
    seen_ids: jax.Array  # bool [B, V], ids in the context, for the repetition penalty


class Generated(NamedTuple):
    """The answers of a batch, and its state after them."""

    tokens: jax.Array  # int32 [B, M], -1 after the end
    cached_count: jax.Array  # int32 [B], tokens in the cache: all but the last one of a truncated turn
    seen_ids: jax.Array  # bool [B, V], with the generated ids
    cache: KVCache
    new_kv: NewKV  # keys and values of the cached tokens, if they were asked for


def generate(
    model: Qwen2VL,
    weights: DecodingWeights,
    stop: StopIds,
    prefilled: PrefillOutput,
    cache: KVCache,
    sampling: SamplingParams,
    max_tokens_B: jax.Array | int,
    max_tokens: int,
    *,
    is_sampled: bool,
    new_kv_dtype: jnp.dtype | None = None,
) -> Generated:
    """Generates until every sequence has ended its turn or reached its maximum number of tokens.

    A sequence that has ended waits for the others and writes past its end in the cache, where nothing
    attends.

    Args:
        model: The model, bound to `weights.other`.
        weights: Prepared weights.
        stop: Ids that end a turn, and the silence token.
        prefilled: The state of B sequences after their prompts.
        cache: The KV cache, with room for M more tokens.
        sampling: Sampling parameters.
        max_tokens_B: int32 [B], or one number for all sequences: the most tokens that a sequence may
            generate; 0 for padding of the batch.
        max_tokens: M, the largest of them.
        is_sampled: Whether any sequence has a temperature. Otherwise no random numbers are drawn.
        new_kv_dtype: Dtype of the keys and values to return; None returns none.
    """
    batch_index = jnp.arange(len(prefilled.length))
    batch = len(batch_index)
    if is_sampled:
        keys_B = jax.vmap(lambda s: jax.random.fold_in(jax.random.key(s[0]), s[1]))(sampling.seeds)
        keys_BM = jax.vmap(functools.partial(jax.random.split, num=max_tokens))(keys_B)

    def next_token(hidden_BD: jax.Array, seen_ids: jax.Array, n: jax.Array) -> jax.Array:
        scores = logits(model, weights, hidden_BD)
        scores = penalize(scores, seen_ids, sampling.repetition_penalty)
        if stop.silence is not None:
            scores = forbid_hasty_silence(
                scores, stop.silence, sampling.silence_base, sampling.silence_step, n
            )
        return sample(scores, sampling.temperature, keys_BM[:, n]) if is_sampled else greedy(scores)

    def continues(token_B: jax.Array) -> jax.Array:
        return jnp.all(token_B[:, None] != jnp.asarray(stop.end), axis=1)

    token_B = next_token(prefilled.last_hidden, prefilled.seen_ids, jnp.zeros((), jnp.int32))
    active_B = continues(token_B) & (jnp.asarray(max_tokens_B) > 0)
    tokens_BM = jnp.full((batch, max_tokens), -1, jnp.int32)
    tokens_BM = tokens_BM.at[:, 0].set(jnp.where(active_B, token_B, -1))
    kv_shape = batch, max_tokens, model.config.text.kv_heads, 2, model.config.text.head_dim
    new_kv = [jnp.zeros(kv_shape, new_kv_dtype) for _ in weights.layers if new_kv_dtype is not None]

    def any_active(carry: tuple) -> jax.Array:
        n, _, active_B = carry[:3]
        return jnp.any(active_B & (n < max_tokens_B))

    def decode_token(carry: tuple) -> tuple:
        n, token_B, active_B, tokens_BM, seen_ids, cache, new_kv = carry
        active_B = active_B & (n < max_tokens_B)
        x_BTD = model.embed(token_B[:, None], None, None)
        position_B = prefilled.next_position + n - 1
        positions = jnp.broadcast_to(position_B[:, None, None], (batch, 3, 1))
        slot_B = prefilled.length + n - 1
        hidden_BTD, cache, token_kv = append_returning_kv(
            model, weights.layers, cache, x_BTD, positions, slot_B
        )
        put = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=n - 1, axis=1)
        new_kv = [put(old, kv.astype(old.dtype)) for old, kv in zip(new_kv, token_kv)]
        seen_ids = seen_ids.at[batch_index, token_B].max(active_B)
        token_B = next_token(hidden_BTD[:, 0], seen_ids, n)
        active_B = active_B & continues(token_B)
        tokens_BM = tokens_BM.at[:, n].set(jnp.where(active_B, token_B, -1))
        return n + 1, token_B, active_B, tokens_BM, seen_ids, cache, new_kv

    carry = (
        jnp.ones((), jnp.int32), token_B, active_B, tokens_BM, prefilled.seen_ids, cache, new_kv,
    )  # fmt: skip
    *_, tokens_BM, seen_ids, cache, new_kv = jax.lax.while_loop(any_active, decode_token, carry)
    count_B = jnp.sum(tokens_BM >= 0, axis=1, dtype=jnp.int32)
    is_truncated_B = (count_B == max_tokens_B) & (count_B > 0)
    return Generated(tokens_BM, count_B - is_truncated_B, seen_ids, cache, new_kv)
