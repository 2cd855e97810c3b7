"""The results of a turn: what was generated for a second of video, or in answer to a question."""

from __future__ import annotations

from dataclasses import dataclass

from livecc_jax.errors import LiveCCError
from livecc_jax.text.tokenizer import SILENCE

MAX_ANSWER_TOKENS = 128


class ContextFull(LiveCCError):
    """The next turn does not fit in the context."""


@dataclass(frozen=True)
class SpokenTurn:
    """The commentary of one turn.

    Attributes:
        start: Seconds of the source at which the turn starts.
        stop: Seconds of the source at which the turn ends.
        text: The decoded text, with its closing ` ...`.
        tokens: The generated token ids, without end-of-sequence ids.
        truncated: Whether the token limit ended the turn.
        latency: Seconds from `push` to the text. With prefetched frames this does not include the
            vision tower.
    """

    start: float
    stop: float
    text: str
    tokens: tuple[int, ...]
    truncated: bool
    latency: float

    @property
    def words(self) -> str:
        """The text without silence marks; empty for a silent turn."""
        return " ".join(self.text.replace(SILENCE, " ").split())


@dataclass(frozen=True)
class Answer:
    """The answer to a question.

    Attributes:
        at: Seconds of the source that had been shown when the question was asked.
        question: The user's question.
        text: The decoded answer.
        tokens: The generated token ids, without end-of-sequence ids.
        truncated: Whether the token limit ended the answer.
        latency: Seconds from the question to the answer.
    """

    at: float
    question: str
    text: str
    tokens: tuple[int, ...]
    truncated: bool
    latency: float
