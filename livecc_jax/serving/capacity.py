"""An engine with room for so many streams, each of which has its whole context."""

from __future__ import annotations

from collections.abc import Sequence

from livecc_jax.decoding.options import StreamOptions
from livecc_jax.errors import ConfigError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.stream.capacity import rolling_capacity
from livecc_jax.stream.engine import Engine
from livecc_jax.stream.history import FULL, ROLLING
from livecc_jax.stream.model import StreamModel
from livecc_jax.stream.options import EngineOptions


def make_engine(
    model: StreamModel,
    options: StreamOptions,
    budget: PixelBudget,
    prompts: Sequence[str],
    max_batch: int,
    cache: str,
    cache_precision: str,
) -> Engine:
    """Returns an engine with room for the context of each stream, equally many per device group.

    Args:
        model: Shared weights.
        options: Decoding options of the streams.
        budget: Pixel budget of their frames.
        prompts: The first turn's text of each stream.
        max_batch: Largest number of turns in an engine step.
        cache: What stays in a context, "full" or "rolling".
        cache_precision: Precision of keys and values, as in `EngineOptions`.

    Raises:
        ConfigError: There is no such cache, or a number is below 1.
    """
    if cache not in ("full", "rolling"):
        raise ConfigError(f"cache {cache!r} is not one of full, rolling")
    context_size, pool_tokens = 0, options.context
    if cache == "rolling":
        query_tokens = max(len(model.tokenizer.encode(prompt)) for prompt in prompts)
        context_size, pool_tokens = rolling_capacity(
            ROLLING, budget.max_pair_patches // 4, query_tokens, options.max_new_tokens
        )
    groups, sources = model.shards, len(prompts)
    rounded_up = -(-sources // groups) * groups
    return Engine(
        model,
        EngineOptions(
            max_conversations=sources,
            max_batch=min(-(-max_batch // groups) * groups, rounded_up),
            pool_tokens=rounded_up * pool_tokens,
            eviction=ROLLING if cache == "rolling" else FULL,
            max_new_tokens=options.max_new_tokens,
            context_size=context_size,
            cache_precision=cache_precision,
        ),
    )
