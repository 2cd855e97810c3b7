"""What a conversation remembers, and at which positions: bookkeeping on the host, exact for ever.

A context is chronological: the opening prompt, then each turn's answer and the next turn's prompt.
Under the `full` policy it only grows. Under `rolling` it keeps

- the first turn's prompt (system, first frames, query), always;
- the last `turns` turns whole, prompts with their frames and answers;
- of older answers their words: the first `sink` tokens ever said, and the latest `window` of the rest.
  Marks of silence are not words.

What is kept closes up: every piece starts where the one before it ends, in each position mode, so that
positions stay small however long the stream. A piece keeps its positions relative to its own start. So
`rolling` is `full` until the first turn is forgotten.
"""

from __future__ import annotations

import collections
import copy
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from livecc_jax.errors import ConfigError


@dataclass(frozen=True)
class Retention:
    """How much is kept. `turns` None keeps everything (`full`)."""

    turns: int | None = None
    sink: int = 512
    window: int = 512

    def __post_init__(self) -> None:
        if (self.turns is not None and self.turns < 1) or self.sink < 0 or self.window < 0:
            raise ConfigError(
                f"a rolling cache keeps at least 1 turn, not {self.turns}, and no fewer than 0 words, "
                f"not {self.sink} and {self.window}"
            )

    def most(self, opening: int, turn: int) -> int:
        """The most tokens ever kept, given those of the opening prompt and of a turn and answer."""
        if self.turns is None:
            raise ConfigError("what a full cache keeps has no bound")
        # The first turn's answer is kept whole too, as long as it is recent.
        return opening + self.sink + self.window + (self.turns + 1) * turn


FULL = Retention()
ROLLING = Retention(turns=16)


@dataclass(frozen=True)
class Piece:
    """Tokens that stay or go together.

    places: int32 [n] in the pool; tokens: int32 [n]; positions: int32 [3, n] from the piece's start;
    span: positions it takes up.
    """

    places: np.ndarray
    tokens: np.ndarray
    positions: np.ndarray
    span: int

    @classmethod
    def words(cls, places: np.ndarray, tokens: np.ndarray) -> Piece:
        """Plain text: one position a token."""
        line = np.broadcast_to(np.arange(len(tokens), dtype=np.int32), (3, len(tokens)))
        return cls(np.asarray(places, np.int32), np.asarray(tokens, np.int32), line, len(tokens))

    def select(self, which: slice | np.ndarray) -> Piece:
        """Some tokens of plain text, closed up."""
        return Piece.words(self.places[which], self.tokens[which])

    def __len__(self) -> int:
        """Tokens."""
        return len(self.tokens)


NOTHING = Piece.words(np.zeros(0), np.zeros(0))


def _joined(*pieces: Piece) -> Piece:
    """Pieces of plain text, one after the other."""
    places = np.concatenate([p.places for p in pieces])
    return Piece.words(places, np.concatenate([p.tokens for p in pieces]))


class Remembered:
    """One conversation's context.

    Args:
        retention: how much is kept.
        silence: the id of the mark of silence, which is not a word.
    """

    def __init__(self, retention: Retention, silence: int | None = None) -> None:
        self._retention, self._silence = retention, silence
        self._opening = NOTHING
        self._sink = NOTHING
        self._window = NOTHING
        # (prompt, answer) of each turn that is whole; the first turn's prompt is the opening.
        self._recent: collections.deque[tuple[Piece, Piece]] = collections.deque()

    def pieces(self) -> Iterable[Piece]:
        """In order."""
        yield self._opening
        yield self._sink
        yield self._window
        for prompt, answer in self._recent:
            yield prompt
            yield answer

    @property
    def length(self) -> int:
        """Tokens kept."""
        return sum(map(len, self.pieces()))

    @property
    def next_position(self) -> int:
        """Of the next prompt's first token."""
        return sum(piece.span for piece in self.pieces())

    def gather(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(places int32 [n], tokens int32 [n], positions int32 [3, n]) of what is kept, in order."""
        pieces = [p for p in self.pieces() if len(p)]
        if not pieces:
            return NOTHING.places, NOTHING.tokens, NOTHING.positions
        starts = np.cumsum([0, *(p.span for p in pieces[:-1])])
        positions = [p.positions + start for p, start in zip(pieces, starts)]
        return (
            np.concatenate([p.places for p in pieces]),
            np.concatenate([p.tokens for p in pieces]),
            np.concatenate(positions, axis=1).astype(np.int32),
        )

    def make_room(self) -> np.ndarray:
        """Forget what the next turn may not see; returns the places that are free again."""
        freed: list[np.ndarray] = []
        keep = self._retention.turns
        while keep is not None and len(self._recent) > keep:
            prompt, answer = self._recent.popleft()
            freed.append(prompt.places)
            spoken = np.ones(len(answer), bool)
            if self._silence is not None:
                spoken = answer.tokens != self._silence
            freed.append(answer.places[~spoken])
            words = answer.select(spoken)
            room = self._retention.sink - len(self._sink)
            self._sink = _joined(self._sink, words.select(slice(0, room)))
            window = _joined(self._window, words.select(slice(room, None)))
            over = max(0, len(window) - self._retention.window)
            freed.append(window.places[:over])
            self._window = window.select(slice(over, None))
        return np.concatenate([np.zeros(0, np.int32), *freed])

    def add(self, prompt: Piece, answer: Piece) -> None:
        """A turn was taken."""
        if not len(self._opening):
            self._opening, prompt = prompt, NOTHING
        self._recent.append((prompt, answer))

    def fork(self) -> Remembered:
        """The same memory, to be gone on with apart; it holds the same places."""
        other = copy.copy(self)
        other._recent = self._recent.copy()  # pieces themselves never change
        return other

    def places(self) -> np.ndarray:
        """Everything that the conversation holds in the pool."""
        return np.concatenate([p.places for p in self.pieces()])
