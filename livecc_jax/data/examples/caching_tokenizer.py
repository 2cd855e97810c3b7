"""A tokenizer that caches encoded text: the same labels and headers recur in every example."""

from __future__ import annotations

import functools

from livecc_jax.text.tokenizer import Tokenizer

MAX_CACHED_TEXTS = 1 << 15


class CachingTokenizer:
    """Encodes like the tokenizer it wraps, with a cache of recently used texts.

    Args:
        tokenizer: The tokenizer to wrap.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.vocab_size = tokenizer.vocab_size
        self.special = tokenizer.special
        self.silence_id = tokenizer.silence_id
        self.decode = tokenizer.decode
        self.save = tokenizer.save
        self._encode = functools.lru_cache(MAX_CACHED_TEXTS)(lambda text: tuple(tokenizer.encode(text)))

    def encode(self, text: str) -> tuple[int, ...]:
        """Returns the ids of plain text."""
        return self._encode(text)
