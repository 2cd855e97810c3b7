"""The capacity of an engine: conversations, batch, cache and limits."""

from __future__ import annotations

from dataclasses import dataclass

from livecc_jax.errors import ConfigError
from livecc_jax.kernels.quantized import KV_PRECISIONS
from livecc_jax.stream.history import FULL, EvictionPolicy
from livecc_jax.stream.turn import MAX_ANSWER_TOKENS


@dataclass(frozen=True)
class EngineOptions:
    """The capacity of an engine.

    Attributes:
        max_conversations: Largest number of conversations at a time.
        max_batch: Largest number of turns in one engine step.
        pool_tokens: Number of tokens whose keys and values the pool holds, for all conversations.
        eviction: What stays in the context of each conversation.
        max_new_tokens: Largest number of tokens that any conversation may generate in a turn.
        max_answer_tokens: Largest number of tokens of the answer to a question.
        max_waiting: Number of turns that a conversation may queue before the oldest is dropped.
        context_size: Number of context tokens that programs are compiled for. 0 uses several sizes as
            contexts grow. With a fixed size a context compiles once, and again if it outgrows it.
        cache_precision: Precision of keys and values in the pool, as in
            `decoding.paged_cache.empty_paged_cache`.

    Raises:
        ConfigError: A number is below 1, or the precision is unknown.
    """

    max_conversations: int = 8
    max_batch: int = 8
    pool_tokens: int = 32768
    eviction: EvictionPolicy = FULL
    max_new_tokens: int = 16
    max_answer_tokens: int = MAX_ANSWER_TOKENS
    max_waiting: int = 2
    context_size: int = 0
    cache_precision: str = "weights"

    def __post_init__(self) -> None:
        if self.cache_precision not in KV_PRECISIONS:
            raise ConfigError(
                f"cache-precision {self.cache_precision!r} is not one of {', '.join(KV_PRECISIONS)}"
            )
        for name in (
            "max_conversations", "max_batch", "pool_tokens", "max_new_tokens", "max_answer_tokens",
            "max_waiting",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ConfigError(f"an engine's {name} must be at least 1, not {getattr(self, name)}")
