"""The tokenizer protocol that the rest of the code uses, and the special tokens."""

from __future__ import annotations

import hashlib
import json
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Protocol

from livecc_jax.families.qwen2_vl import SPECIAL_TOKENS

SILENCE = " ..."  # the mark that ends each answer; an answer without words is only this mark


@dataclass(frozen=True)
class SpecialTokens:
    """Ids of the tokens that structure a conversation."""

    endoftext: int
    im_start: int
    im_end: int
    vision_start: int
    vision_end: int
    image_pad: int
    video_pad: int

    @staticmethod
    def spellings() -> dict[str, str]:
        """Returns the spelling of each token in the vocabulary, as `<|im_start|>`, by field name."""
        return dict(SPECIAL_TOKENS)


class Tokenizer(Protocol):
    """Converts text to token ids and back.

    Attributes:
        vocab_size: The largest id plus one.
        special: Ids of the special tokens.
        silence_id: Id of " ..." if it is one token, else None.
    """

    vocab_size: int
    special: SpecialTokens
    silence_id: int | None

    def encode(self, text: str) -> list[int]:
        """Returns the ids of plain text; spellings of special tokens in it stay text."""

    def decode(self, ids: list[int]) -> str:
        """Returns the text of ids, without special ids and ids beyond the vocabulary."""

    def save(self, directory: Path) -> None:
        """Write the files that `open_tokenizer` and HuggingFace read."""


def fingerprint(tokenizer: Tokenizer) -> str:
    """Returns a short digest of a tokenizer's behaviour, which does not depend on its files."""
    probe = "Time=0.0-3.0s Hello, world! Naïve 日本語 1234567890\n\tdef f(x): return x**2 ..."
    facts = [tokenizer.vocab_size, astuple(tokenizer.special), tokenizer.encode(probe)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
