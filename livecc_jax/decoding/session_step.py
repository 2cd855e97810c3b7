"""The compiled calls of a session: encode frames, prefill a prompt, and take one whole turn.

Nothing returns to Python between tokens. The batch axis is the session's cache slots; a slot that ends
its turn early waits for the others without changing its state.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from livecc_jax.decoding.compiled import GPU_COMPILER_OPTIONS, JitWithGpuOptions
from livecc_jax.decoding.decoder import DeepStack
from livecc_jax.decoding.generate import PrefillOutput, SamplingParams, StopIds, generate
from livecc_jax.decoding.kv_cache import KVCache, append
from livecc_jax.decoding.vision import encode_frames
from livecc_jax.decoding.weights import DecodingWeights
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.qwen2_vl import bind


class SlotState(NamedTuple):
    """The state of each cache slot on the device, besides the cache itself."""

    length: jax.Array  # int32 [B], tokens in the cache
    seen_ids: jax.Array  # bool [B, V], ids in the context so far, for the repetition penalty


class TurnInput(NamedTuple):
    """The prompts of a batch, padded to a bucket of Q tokens, and the features of their frames."""

    tokens: jax.Array  # int32 [B, Q]
    count: jax.Array  # int32 [B], real tokens, at least 1
    positions: jax.Array  # int32 [B, 3, Q]
    next_position: jax.Array  # int32 [B], position of the first generated token
    vision_index: jax.Array  # int32 [B, Q], as in `Qwen2VL.embed`
    vision_features: jax.Array | None  # from `encode_frames_step`; None without frames


@functools.partial(jax.jit, static_argnames="config")
def encode_frames_step(
    config: ModelConfig, weights: DecodingWeights, frames: tuple[jax.Array, ...]
) -> jax.Array:
    """Encodes the frames of a batch.

    It is a call of its own, so that the device works while the host prepares the turn's call.

    Args:
        config: The architecture.
        weights: Prepared weights that include the vision tower.
        frames: uint8 [F, height, width, 3] for each sequence of the batch.

    Returns:
        Merged patches [B, P, (1 + J) * D], as `vision.encode_frames` gives them.
    """
    return encode_frames(config, weights, jnp.stack(frames))


def prefill(
    config: ModelConfig,
    weights: DecodingWeights,
    cache: KVCache,
    length: jax.Array,
    turn: TurnInput,
) -> tuple[jax.Array, KVCache]:
    """Appends prompts to the cache at int32 [B] lengths.

    Returns:
        The final hidden state of each prompt's last token [B, D], and the cache.
    """
    model = bind(config, weights.other)
    x_BTD = model.embed(turn.tokens, turn.vision_features, turn.vision_index)
    deepstack = DeepStack.of(model, turn.vision_features, turn.vision_index)
    hidden_B1D, cache = append(
        model,
        weights.layers,
        cache,
        x_BTD,
        turn.positions,
        length,
        last=turn.count - 1,
        deepstack=deepstack,
    )
    return hidden_B1D[:, 0], cache


@functools.partial(jax.jit, static_argnames="config", donate_argnames=("cache", "state"))
def prefill_step(
    config: ModelConfig,
    weights: DecodingWeights,
    cache: KVCache,
    state: SlotState,
    turn: TurnInput,
) -> tuple[KVCache, SlotState]:
    """Prefills one chunk of a long prompt and generates nothing; cache and state are donated."""
    _, cache = prefill(config, weights, cache, state.length, turn)
    state = SlotState(state.length + turn.count, seen_ids_after_prompt(state, turn))
    return cache, state


def seen_ids_after_prompt(state: SlotState, turn: TurnInput) -> jax.Array:
    """Returns bool [B, V], the ids in each context once it holds the prompt too."""
    batch, bucket = turn.tokens.shape
    is_real_BQ = jnp.arange(bucket) < turn.count[:, None]
    return state.seen_ids.at[jnp.arange(batch)[:, None], turn.tokens].max(is_real_BQ)


@functools.partial(
    JitWithGpuOptions,
    gpu_options=GPU_COMPILER_OPTIONS,
    static_argnames=("config", "stop", "max_tokens", "is_sampled"),
    donate_argnames=("cache", "state"),
)
def session_step(
    config: ModelConfig,
    stop: StopIds,
    max_tokens: int,
    weights: DecodingWeights,
    cache: KVCache,
    state: SlotState,
    turn: TurnInput,
    sampling: SamplingParams,
    is_sampled: bool = True,
) -> tuple[jax.Array, KVCache, SlotState]:
    """Takes one turn with every slot: prefills its prompt and generates its answer.

    Args:
        config: The architecture.
        stop: Ids that end a turn, and the silence token.
        max_tokens: M, the most tokens that a turn may generate.
        weights: Prepared weights.
        cache: Donated. It must have room for length + Q + M tokens.
        state: Donated.
        turn: The prompts and the features of their frames.
        sampling: Sampling parameters.
        is_sampled: Whether any slot has a temperature. Otherwise no random numbers are drawn.

    Returns:
        The generated tokens, int32 [B, M], -1 after the end; the cache; and the state. A turn with M
        tokens was truncated: its last token is not in the cache.
    """
    last_hidden, cache = prefill(config, weights, cache, state.length, turn)
    prefilled = PrefillOutput(
        last_hidden, state.length + turn.count, turn.next_position, seen_ids_after_prompt(state, turn)
    )
    model = bind(config, weights.other)
    generated = generate(
        model, weights, stop, prefilled, cache, sampling, max_tokens, max_tokens, is_sampled=is_sampled
    )
    state = SlotState(prefilled.length + generated.cached_count, generated.seen_ids)
    return generated.tokens, generated.cache, state
