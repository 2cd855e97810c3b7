"""One stream of an engine: what waits to be seen or answered, and what is remembered of it."""

from __future__ import annotations

import collections
import dataclasses
import math
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import numpy as np

from livecc_jax.decoding.options import StreamOptions
from livecc_jax.errors import LiveCCError, MediaError
from livecc_jax.stream.history import Remembered

if TYPE_CHECKING:
    from livecc_jax.stream.engine import Engine


@dataclass(frozen=True, eq=False)
class Waiting:
    """A turn's frames, and when they were captured; or a question, and when it was asked."""

    frames: np.ndarray | jax.Array | None
    number: int | None  # of a turn with frames
    captured: float
    question: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the frames: turns of one shape can share a program."""
        return () if self.frames is None else self.frames.shape


@dataclass
class Lateness:
    """How a conversation keeps up: turns taken and dropped, and the last one's lateness in seconds."""

    taken: int = 0
    dropped: int = 0
    last: float = 0.0


class Conversation:
    """One stream in an engine; made by `Engine.open`."""

    def __init__(
        self,
        engine: Engine,
        options: StreamOptions,
        prompt: str,
        offset_us: int,
        serial: int,
        shard: int,
    ) -> None:
        self.options, self.prompt, self.offset_us = options, prompt, offset_us
        self.lateness = Lateness()
        self._engine = engine
        self._serial = serial
        self._pushed = 0
        self._taken = 0  # the turn after the last one taken
        self._answered = 0  # questions
        self._captured = -math.inf  # the latest frame
        self._seen = -math.inf  # the latest frame taken
        self._waiting: collections.deque[Waiting] = collections.deque()
        self._changing = threading.Lock()  # of what waits
        self._memory = Remembered(engine.options.retention, engine.model.stop.silence)
        self._shard = shard
        self._places = engine._places[shard]
        self._unkept: list[int] = []
        self._frame_shape: tuple[int, ...] | None = None

    @property
    def length(self) -> int:
        """Tokens that it remembers."""
        return self._memory.length

    @property
    def waiting(self) -> int:
        """Turns and questions that wait."""
        return len(self._waiting)

    @property
    def closed(self) -> bool:
        """Whether it has given its slot back."""
        return self._engine._open.get(self._serial) is not self

    def push(self, frames: np.ndarray, captured: float | None = None) -> None:
        """Queue a turn; from any one thread, while the engine may be busy.

        Args:
            frames: as in `Session.push`; not to be written to afterwards.
            captured: when its last frame was, by the engine's clock; now by default.

        Raises:
            MediaError: frames of another size than before, an odd number, or of an earlier time.
            LiveCCError: the conversation is closed.
        """
        self._engine._check_open(self)
        captured = self._engine.clock() if captured is None else captured
        if len(frames) == 0 or len(frames) % 2:
            raise MediaError(f"a turn takes an even number of frames, not {len(frames)}")
        if self._frame_shape not in (None, frames.shape[1:]):
            raise MediaError(
                f"frames changed size within a stream, from {self._frame_shape} to {frames.shape[1:]}"
            )
        if captured < self._captured:
            raise MediaError("a turn's frames are older than those of the turn before it")
        self._frame_shape = frames.shape[1:]
        if self._engine.model.mesh is None and not isinstance(frames, jax.Array):
            # On their way to the device at once, while it may be busy with others.
            frames = jax.device_put(frames)
        turn = Waiting(frames, self._pushed, captured)
        self._captured = captured
        self._pushed += 1
        with self._changing:
            self._waiting.append(turn)
            shown = [w for w in self._waiting if w.frames is not None]
            # The opening is never dropped: the query is in it.
            while len(shown) > self._engine.options.waiting and shown[0].number:
                self._waiting.remove(shown.pop(0))
                self.lateness.dropped += 1

    def ask(self, question: str) -> None:
        """Queue a question behind the turns that wait. Its answer comes out of a tick as one more turn
        of the conversation, which then goes on.

        Raises LiveCCError when the conversation is closed, or nothing was pushed yet.
        """
        self._engine._check_open(self)
        if not self._pushed:
            raise LiveCCError("nothing has been seen yet that a question could be about")
        with self._changing:
            self._waiting.append(Waiting(None, None, self._engine.clock(), question))

    def fork(self, seed: int | None = None) -> Conversation:
        """Another conversation with the same past, which then goes its own way; from the thread that
        ticks. Nothing is computed again, and what both remember is in the pool once.

        The past is what has been taken: what waits stays with this one, and the first turn pushed to
        the other follows the last one taken.

        Args:
            seed: of its randomness; by default this one's.

        Raises:
            SlotsFull: there are as many conversations as slots.
            LiveCCError: the conversation is closed.
        """
        self._engine._check_open(self)
        options = self.options if seed is None else dataclasses.replace(self.options, seed=seed)
        other = self._engine._add(options, self.prompt, self.offset_us, self._shard)
        other._pushed = other._taken = self._taken
        other._answered = self._answered
        other._captured = other._seen = self._seen
        other._frame_shape = self._frame_shape if self._taken else None
        other._unkept = self._unkept
        other._memory = self._memory.fork()
        self._places.share(other._memory.places())
        return other

    def _claim(self, turn: Waiting) -> bool:
        """Take a turn out of those that wait; False if it was dropped meanwhile."""
        with self._changing:
            there = turn in self._waiting
            if there:
                self._waiting.remove(turn)
        return there

    def close(self) -> None:
        """Give its slot and places back; nothing that waits is said."""
        self._engine._close(self)
