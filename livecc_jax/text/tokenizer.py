"""What the rest of the code needs of a tokenizer, and opening one from its files."""

from __future__ import annotations

import hashlib
import json
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Protocol

from livecc_jax.families.qwen2_vl import SPECIAL_TOKENS

SILENCE = " ..."  # a turn's closing mark; alone, it says that nothing is said


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
    """Text to ids and back.

    Attributes:
        vocab_size: one more than the largest id.
        special: ids of the structural tokens.
        silence_id: the id of " ..." when it is one token, else None.
    """

    vocab_size: int
    special: SpecialTokens
    silence_id: int | None

    def encode(self, text: str) -> list[int]:
        """Ids of plain text: the spelling of a special token in it stays text."""

    def decode(self, ids: list[int]) -> str:
        """Text of ids; special ids, and those beyond the vocabulary, are left out."""

    def save(self, directory: Path) -> None:
        """Write the files that `open_tokenizer` and HuggingFace read."""


def fingerprint(tokenizer: Tokenizer) -> str:
    """A short digest that tells tokenizers apart by what they do, whatever file they came from."""
    probe = "Time=0.0-3.0s Hello, world! Naïve 日本語 1234567890\n\tdef f(x): return x**2 ..."
    facts = [tokenizer.vocab_size, astuple(tokenizer.special), tokenizer.encode(probe)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
