"""A turn as it waits in a queue, and its result: the commentary on a second, or an answer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import numpy as np

from livecc_jax.errors import LiveCCError
from livecc_jax.text.tokenizer import SILENCE

MAX_ANSWER_TOKENS = 128

Frames = np.ndarray | jax.Array


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


@dataclass(frozen=True, eq=False)
class QueuedTurn:
    """A turn's frames, or a question, that waits for an engine step.

    Attributes:
        frames: uint8 [F, H, W, 3]; None for a question.
        number: Number of the turn in the stream; None for a question.
        captured: Time of the last frame's capture, or of the question, by the engine's clock.
        question: The question's text.
        limit: Largest number of tokens of the answer.
        tokens: int32 [n], the encoded question where it is not a continuation in the chat template.
    """

    frames: Frames | None
    number: int | None
    captured: float
    limit: int
    question: str = ""
    tokens: np.ndarray | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the frames: turns of one shape can share a compiled program."""
        return () if self.frames is None else self.frames.shape


@dataclass
class LatencyStats:
    """How well a conversation keeps up with its source.

    Attributes:
        turns: Number of turns that were commented on.
        dropped: Number of turns that were dropped because they waited too long.
        latest: Seconds from the capture of the latest turn's last frame to its text.
    """

    turns: int = 0
    dropped: int = 0
    latest: float = math.nan
