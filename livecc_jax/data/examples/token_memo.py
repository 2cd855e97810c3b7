"""A tokenizer that remembers: the same labels and headers come in every example."""

from __future__ import annotations

import functools

from livecc_jax.text.tokenizer import Tokenizer

REMEMBERED = 1 << 15


class Remembering:
    """Encodes like the tokenizer it wraps, texts of late from memory."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.vocab_size = tokenizer.vocab_size
        self.special = tokenizer.special
        self.silence_id = tokenizer.silence_id
        self.decode = tokenizer.decode
        self.save = tokenizer.save
        self._known = functools.lru_cache(REMEMBERED)(lambda text: tuple(tokenizer.encode(text)))

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of plain text."""
        return self._known(text)
