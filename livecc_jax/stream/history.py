"""The KV history of a conversation: which tokens it keeps in its context, where, at which positions.

This is exact bookkeeping on the host. A context is chronological: the opening prompt, then each turn's
answer and the next turn's prompt. Under the `full` policy it only grows. Under `rolling` it keeps

- the first turn's prompt (system message, first frames, query), always;
- the last `turns` turns completely, their prompts with frames and their answers;
- of older answers only the words: the first `sink` tokens ever generated, and the latest `window` of
  the others (attention sinks: Xiao et al. 2023, "Efficient Streaming Language Models with Attention
  Sinks"). Silence tokens are dropped.

After an eviction the gap is closed: each segment starts at the position where the one before it ends,
in every position mode, so that positions stay small in a stream of any length. A segment stores its
positions relative to its own start. Therefore `rolling` equals `full` until the first eviction.
"""

from __future__ import annotations

import collections
import copy
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from livecc_jax.errors import ConfigError


@dataclass(frozen=True)
class EvictionPolicy:
    """How much of a conversation stays in its context.

    Attributes:
        turns: Number of latest turns that are kept completely. None keeps everything (`full`).
        sink: Number of the first generated tokens that are kept from evicted turns.
        window: Number of the latest generated tokens that are kept from evicted turns.

    Raises:
        ConfigError: `turns` is below 1, or another number is negative.
    """

    turns: int | None = None
    sink: int = 512
    window: int = 512

    def __post_init__(self) -> None:
        if (self.turns is not None and self.turns < 1) or self.sink < 0 or self.window < 0:
            raise ConfigError(
                f"a rolling cache keeps at least 1 turn, not {self.turns}, and no fewer than 0 words, "
                f"not {self.sink} and {self.window}"
            )

    def max_tokens(self, opening: int, turn: int) -> int:
        """Returns the largest number of tokens that a context can hold under this policy.

        Args:
            opening: Number of tokens of the opening prompt.
            turn: Largest number of tokens of a later turn's prompt and answer together.

        Raises:
            ConfigError: The policy keeps everything.
        """
        if self.turns is None:
            raise ConfigError("the context of a full cache has no bound")
        # The first turn's answer also stays complete while it is recent.
        return opening + self.sink + self.window + (self.turns + 1) * turn


FULL = EvictionPolicy()
ROLLING = EvictionPolicy(turns=16)


@dataclass(frozen=True)
class Segment:
    """Consecutive tokens that are kept or evicted together.

    Attributes:
        slots: int32 [n], cache slots of the tokens.
        tokens: int32 [n], token ids.
        positions: int32 [3, n], positions relative to the segment's start.
        span: Number of positions that the segment takes up.
    """

    slots: np.ndarray
    tokens: np.ndarray
    positions: np.ndarray
    span: int

    @classmethod
    def of_text(cls, slots: np.ndarray, tokens: np.ndarray) -> Segment:
        """Returns a segment of plain text: each token takes up one position."""
        positions = np.broadcast_to(np.arange(len(tokens), dtype=np.int32), (3, len(tokens)))
        return cls(np.asarray(slots, np.int32), np.asarray(tokens, np.int32), positions, len(tokens))

    def select(self, index: slice | np.ndarray) -> Segment:
        """Returns some tokens of a plain-text segment, with the gaps between them closed."""
        return Segment.of_text(self.slots[index], self.tokens[index])

    def __len__(self) -> int:
        """Returns the number of tokens."""
        return len(self.tokens)


EMPTY = Segment.of_text(np.zeros(0), np.zeros(0))


def _concatenate(*segments: Segment) -> Segment:
    """Returns plain-text segments as one."""
    slots = np.concatenate([s.slots for s in segments])
    return Segment.of_text(slots, np.concatenate([s.tokens for s in segments]))


class KVHistory:
    """The tokens in the context of one conversation, with their cache slots and positions.

    Args:
        policy: Decides what is evicted.
        silence: Token id of the silence mark, which is dropped from evicted turns; None keeps it.
    """

    def __init__(self, policy: EvictionPolicy, silence: int | None = None) -> None:
        self.policy, self._silence = policy, silence
        self._opening = EMPTY
        self._sink = EMPTY
        self._window = EMPTY
        # (prompt, answer) of each complete turn; the first turn's prompt is stored as the opening.
        self._turns: collections.deque[tuple[Segment, Segment]] = collections.deque()

    def segments(self) -> Iterable[Segment]:
        """Yields all segments in order."""
        yield self._opening
        yield self._sink
        yield self._window
        for prompt, answer in self._turns:
            yield prompt
            yield answer

    @property
    def length(self) -> int:
        """Number of tokens in the context."""
        return sum(map(len, self.segments()))

    @property
    def next_position(self) -> int:
        """Position of the next prompt's first token."""
        return sum(segment.span for segment in self.segments())

    def latest_turn(self) -> tuple[Segment, Segment]:
        """Returns the (prompt, answer) of the turn that was added last."""
        prompt, answer = self._turns[-1]
        return (prompt if len(prompt) else self._opening), answer

    def gather(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the context in order: (slots int32 [n], tokens int32 [n], positions int32 [3, n])."""
        segments = [s for s in self.segments() if len(s)]
        if not segments:
            return EMPTY.slots, EMPTY.tokens, EMPTY.positions
        starts = np.cumsum([0, *(s.span for s in segments[:-1])])
        positions = [s.positions + start for s, start in zip(segments, starts)]
        return (
            np.concatenate([s.slots for s in segments]),
            np.concatenate([s.tokens for s in segments]),
            np.concatenate(positions, axis=1).astype(np.int32),
        )

    def evict(self) -> np.ndarray:
        """Evicts what the next turn must not attend to, and returns the freed slots, int32 [n]."""
        freed: list[np.ndarray] = []
        max_turns = self.policy.turns
        while max_turns is not None and len(self._turns) > max_turns:
            prompt, answer = self._turns.popleft()
            freed.append(prompt.slots)
            is_word = np.ones(len(answer), bool)
            if self._silence is not None:
                is_word = answer.tokens != self._silence
            freed.append(answer.slots[~is_word])
            words = answer.select(is_word)
            sink_room = self.policy.sink - len(self._sink)
            self._sink = _concatenate(self._sink, words.select(slice(0, sink_room)))
            window = _concatenate(self._window, words.select(slice(sink_room, None)))
            excess = max(0, len(window) - self.policy.window)
            freed.append(window.slots[:excess])
            self._window = window.select(slice(excess, None))
        return np.concatenate([np.zeros(0, np.int32), *freed])

    def add(self, prompt: Segment, answer: Segment) -> None:
        """Appends a turn."""
        if not len(self._opening):
            self._opening, prompt = prompt, EMPTY
        self._turns.append((prompt, answer))

    def fork(self) -> KVHistory:
        """Returns an independent history with the same contents; both refer to the same slots."""
        other = copy.copy(self)
        other._turns = self._turns.copy()  # segments are immutable
        return other

    def slots(self) -> np.ndarray:
        """Returns int32 [n], all cache slots in use."""
        return np.concatenate([s.slots for s in self.segments()])
