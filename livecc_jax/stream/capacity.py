"""The number of tokens that a stream with a rolling cache needs at most."""

from __future__ import annotations

from livecc_jax.stream.history import EvictionPolicy
from livecc_jax.stream.turn import MAX_ANSWER_TOKENS
from livecc_jax.timeline.turns import OPENING_FRAMES

QUESTION_TOKENS = 128  # tokens of an ordinary question, with a margin
PROMPT_TEXT_TOKENS = 64  # tokens of an ordinary prompt's text, with a margin


def rolling_capacity(
    policy: EvictionPolicy,
    pair_tokens: int,
    query_tokens: int,
    max_new_tokens: int,
    opening_pairs: int = OPENING_FRAMES // 2,
) -> tuple[int, int]:
    """Returns the largest context of one stream, and the pool that it needs, in tokens.

    Args:
        policy: A rolling eviction policy.
        pair_tokens: Number of tokens of a frame pair.
        query_tokens: Number of tokens of the first turn's text.
        max_new_tokens: Largest number of generated tokens in a turn.
        opening_pairs: Number of frame pairs of the first turn.

    Raises:
        ConfigError: The policy keeps everything, so that there is no bound.
    """
    turn = max(pair_tokens + PROMPT_TEXT_TOKENS + max_new_tokens, QUESTION_TOKENS + MAX_ANSWER_TOKENS)
    opening = opening_pairs * pair_tokens + query_tokens + PROMPT_TEXT_TOKENS
    context = -(-policy.max_tokens(opening, turn) // 256) * 256
    return context, context + max(opening, turn) + max(max_new_tokens, MAX_ANSWER_TOKENS)
