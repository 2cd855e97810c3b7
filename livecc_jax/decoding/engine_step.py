"""The compiled call of an engine: one turn of many conversations, over a paged KV cache.

Each sequence of the batch is a turn of another conversation with its own context. Its answer does not
depend on the rest of the batch; a sequence that ends early waits for the others.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from livecc_jax.decoding.compiled import GPU_COMPILER_OPTIONS, JitWithGpuOptions
from livecc_jax.decoding.decoder import DeepStack
from livecc_jax.decoding.generate import PrefillOutput, SamplingParams, StopIds, generate
from livecc_jax.decoding.paged_cache import Context, PagedCache, paged_prefill, paged_write
from livecc_jax.decoding.session_step import TurnInput
from livecc_jax.decoding.weights import DecodingWeights
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.qwen2_vl import bind


class CacheSlots(NamedTuple):
    """Slots of the paged cache that a turn's tokens are written to, each slot once.

    Numbers beyond the cache are padding and write nothing.
    """

    prompt: jax.Array  # int32 [B, Q]
    answer: jax.Array  # int32 [B, M]


@functools.partial(
    JitWithGpuOptions,
    gpu_options=GPU_COMPILER_OPTIONS,
    static_argnames=("config", "stop", "max_tokens", "is_sampled"),
    donate_argnames=("cache",),
)
def engine_step(
    config: ModelConfig,
    stop: StopIds,
    max_tokens: int,
    weights: DecodingWeights,
    cache: PagedCache,
    context: Context,
    turn: TurnInput,
    slots: CacheSlots,
    sampling: SamplingParams,
    max_tokens_B: jax.Array,
    is_sampled: bool,
) -> tuple[jax.Array, PagedCache]:
    """Takes one turn with every sequence: prefills its prompt and generates its answer.

    Args:
        config: The architecture.
        stop: Ids that end a turn, and the silence token.
        max_tokens: M, the most tokens that any sequence may generate.
        weights: Prepared weights.
        cache: Donated.
        context: The cached tokens that each sequence attends to.
        turn: The prompts and the features of their frames.
        slots: Slots of the cache that prompts and answers are written to.
        sampling: Sampling parameters.
        max_tokens_B: int32 [B], the most tokens that each sequence may generate; 0 for padding of the
            batch.
        is_sampled: Whether any sequence has a temperature. Otherwise no random numbers are drawn.

    Returns:
        The generated tokens, int32 [B, M], -1 after the end; and the cache. A sequence with as many
        tokens as it may generate was truncated: its last token is not in the cache.
    """
    model = bind(config, weights.other)
    batch, bucket = turn.tokens.shape
    batch_index = jnp.arange(batch)
    x_BTD = model.embed(turn.tokens, turn.vision_features, turn.vision_index)
    hidden_B1D, workspace, prompt_kv = paged_prefill(
        model,
        weights.layers,
        cache,
        context,
        x_BTD,
        turn.positions,
        max_tokens,
        last=turn.count - 1,
        deepstack=DeepStack.of(model, turn.vision_features, turn.vision_index),
    )
    is_context_BC = jnp.arange(context.tokens.shape[1]) < context.length[:, None]
    is_prompt_BQ = jnp.arange(bucket) < turn.count[:, None]
    seen_ids = jnp.zeros((batch, config.text.vocab_size), bool)
    seen_ids = seen_ids.at[batch_index[:, None], context.tokens].max(is_context_BC)
    seen_ids = seen_ids.at[batch_index[:, None], turn.tokens].max(is_prompt_BQ)
    prefilled = PrefillOutput(
        hidden_B1D[:, 0], context.length + turn.count, turn.next_position, seen_ids
    )
    generated = generate(
        model, weights, stop, prefilled, workspace, sampling, max_tokens_B, max_tokens,
        is_sampled=is_sampled, new_kv_dtype=x_BTD.dtype,
    )  # fmt: skip
    # Prompts and answers are written together, once nothing reads the cache any more: with a read
    # between two writes XLA would copy parts of the cache.
    turn_kv = [
        jnp.concatenate([kv.astype(x_BTD.dtype) for kv in layer], axis=1)
        for layer in zip(prompt_kv, generated.new_kv)
    ]
    return generated.tokens, paged_write(cache, turn_kv, jnp.concatenate(slots, axis=1))
