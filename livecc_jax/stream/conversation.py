"""One conversation: its queue of turns, and the bookkeeping from a turn's frames to its text.

All kinds of stream use this bookkeeping: it checks frames, makes prompts, numbers turns, carries a
pending token and reads results, whatever store holds the keys and values.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import math
import threading
from collections.abc import Callable, Sequence
from typing import Self

import jax
import numpy as np

from livecc_jax.decoding.generate import FIRST_QUESTION_NUMBER
from livecc_jax.decoding.options import StreamOptions
from livecc_jax.errors import ConfigError, LiveCCError, MediaError
from livecc_jax.stream.cache_store import CachedContext, Row
from livecc_jax.stream.model import StreamModel
from livecc_jax.stream.prompt import Prompt, encode_prompt, make_prompt
from livecc_jax.stream.turn import Answer, ContextFull, Frames, LatencyStats, QueuedTurn, SpokenTurn
from livecc_jax.timeline.turns import turn_span

NO_GRIDS = np.zeros((0, 3), np.int32)


class Conversation:
    """One stream of an engine; made by `Engine.open`.

    Args:
        model: Shared weights.
        options: Decoding options.
        prompt: Text of the first turn.
        offset_us: Microseconds of the source at which the stream's clock starts.
        context: The conversation's keys and values.
        clock: Returns the time in seconds.
        max_waiting: Number of turns that may wait before the oldest is dropped.
        max_answer_tokens: Largest number of tokens of an answer.
        upload_early: Whether pushed frames are copied to the device at once.

    Attributes:
        latency: How well the conversation keeps up.
        last_prompt: The prompt of the latest turn or question.
    """

    def __init__(
        self,
        model: StreamModel,
        options: StreamOptions,
        prompt: str,
        offset_us: int,
        context: CachedContext,
        *,
        clock: Callable[[], float],
        max_waiting: int,
        max_answer_tokens: int,
        upload_early: bool,
    ) -> None:
        self.options, self.prompt, self.offset_us, self.context = options, prompt, offset_us, context
        self.latency = LatencyStats()
        self.last_prompt: Prompt | None = None
        self._model, self._clock = model, clock
        self._max_waiting, self._max_answer_tokens = max_waiting, max_answer_tokens
        self._upload_early = upload_early
        self._closed = False
        self._pushed = 0  # number of the next turn to be pushed
        self._turns = 0  # number of the turn after the latest one that was taken
        self._answered = 0  # number of questions that were answered
        self._pushed_time = -math.inf  # capture time of the latest frame that was pushed
        self._taken_time = -math.inf  # capture time of the latest frame that was taken
        self._frame_shape: tuple[int, ...] | None = None
        self._pending: list[int] = []
        self._queue: collections.deque[QueuedTurn] = collections.deque()
        self._queue_lock = threading.Lock()

    @property
    def length(self) -> int:
        """Number of tokens in the context."""
        return self.context.length

    @property
    def turns(self) -> int:
        """Number of the next turn after those that were taken; dropped turns count."""
        return self._turns

    @property
    def pushed(self) -> int:
        """Number of the next turn to be pushed."""
        return self._pushed

    @property
    def waiting(self) -> int:
        """Number of turns and questions that wait."""
        return len(self._queue)

    @property
    def pending(self) -> tuple[int, ...]:
        """The last token of a truncated turn: it was shown but is not in the context yet."""
        return tuple(self._pending)

    @property
    def closed(self) -> bool:
        """Whether the conversation has ended."""
        return self._closed

    def push(self, frames: Frames, captured: float | None = None) -> None:
        """Queues a turn. May be called from any one thread, also while an engine step runs.

        Args:
            frames: As in `Session.push`; must not be changed afterwards.
            captured: Capture time of the last frame by the engine's clock; now by default.

        Raises:
            MediaError: The frames differ in size from those before, are an odd number, or are older
                than those before.
            LiveCCError: The conversation is closed.
        """
        self._check_open()
        captured = self._clock() if captured is None else captured
        if len(frames) == 0 or len(frames) % 2:
            raise MediaError(f"a turn takes an even number of frames, not {len(frames)}")
        if self._frame_shape not in (None, frames.shape[1:]):
            raise MediaError(
                f"frames changed size within a stream, from {self._frame_shape} to {frames.shape[1:]}"
            )
        if captured < self._pushed_time:
            raise MediaError("a turn's frames are older than those of the turn before it")
        self._frame_shape = frames.shape[1:]
        if self._upload_early and self._model.mesh is None and not isinstance(frames, jax.Array):
            # The transfer runs while the device may still be busy with other conversations.
            frames = jax.device_put(frames)
        turn = QueuedTurn(frames, self._pushed, captured, self.options.max_new_tokens)
        self._pushed_time = captured
        self._pushed += 1
        with self._queue_lock:
            self._queue.append(turn)
            with_frames = [t for t in self._queue if t.frames is not None]
            # The opening is never dropped: it contains the query.
            while len(with_frames) > self._max_waiting and with_frames[0].number:
                self._queue.remove(with_frames.pop(0))
                self.latency.dropped += 1

    def ask(
        self, question: str, max_new_tokens: int | None = None, tokens: np.ndarray | None = None
    ) -> None:
        """Queues a question behind the turns that wait; its answer is the result of an engine step.

        Args:
            question: The question's text.
            max_new_tokens: Largest number of tokens of the answer; the engine's limit by default.
            tokens: int32 [n], the encoded question where it does not continue a chat, as in the first
                question about a video.

        Raises:
            ConfigError: `max_new_tokens` is below 1 or above the engine's limit.
            LiveCCError: The conversation is closed, or nothing was shown yet.
        """
        self._check_open()
        if not self._pushed and not self.context.length:
            raise LiveCCError("a question needs frames before it: nothing was shown yet")
        limit = self._max_answer_tokens if max_new_tokens is None else max_new_tokens
        if limit < 1:
            raise ConfigError(f"max-new-tokens must be at least 1, not {limit}")
        if limit > self._max_answer_tokens:
            raise ConfigError(
                f"max-new-tokens {limit} of an answer is more than the engine's "
                f"{self._max_answer_tokens}"
            )
        with self._queue_lock:
            self._queue.append(QueuedTurn(None, None, self._clock(), limit, question, tokens))

    def next_waiting(self) -> QueuedTurn | None:
        """Returns the turn that has waited longest, or None."""
        with self._queue_lock:
            return self._queue[0] if self._queue else None

    def claim(self, turn: QueuedTurn) -> bool:
        """Takes a turn out of the queue. Returns False if it was dropped in the meantime."""
        with self._queue_lock:
            is_waiting = turn in self._queue
            if is_waiting:
                self._queue.remove(turn)
        return is_waiting

    def prepare(self, turn: QueuedTurn) -> Row:
        """Evicts what the turn must not attend to, makes its prompt, and reserves room for it.

        Raises:
            ContextFull: The turn does not fit in the context.
            PoolFull: The turn does not fit in the store.
        """
        self.context.evict()
        prompt = self._make_prompt(turn)
        fresh = len(prompt) + turn.limit
        if self.context.length + fresh > self.options.context:
            raise ContextFull(f"the context of {self.options.context} tokens is full{self._progress()}")
        self.context.reserve(len(prompt), turn.limit)
        is_question = turn.number is None
        # A question that does not fit has no number, so that it changes no later draw.
        number = FIRST_QUESTION_NUMBER + self._answered if is_question else turn.number
        return Row(self.context, prompt, self.options, number, turn.limit, is_question)

    def finish(
        self, turn: QueuedTurn, row: Row, generated: np.ndarray, latency: float, now: float
    ) -> SpokenTurn | Answer:
        """Records a turn that an engine step has taken, and returns its result.

        Args:
            turn: The turn.
            row: What `prepare` returned for it.
            generated: int32 [M], generated tokens, then -1.
            latency: Seconds that the turn took.
            now: The time by the engine's clock.
        """
        tokens = [t for t in generated.tolist() if t >= 0]
        truncated = len(tokens) == row.limit
        in_cache = tokens[:-1] if truncated else tokens
        self.context.append(row.prompt, in_cache)
        self.last_prompt = row.prompt
        # The released decoder shows the last token of a truncated turn but drops it, and `hybrid`
        # reproduces the released decoder; in the other modes it opens the next prompt.
        self._pending = tokens[-1:] if truncated and self.options.positions != "hybrid" else []
        text = self._model.tokenizer.decode(tokens)
        if turn.number is None:
            self._answered += 1
            at = (turn_span(self._turns - 1)[1] + self.offset_us) / 1e6
            return Answer(at, turn.question, text, tuple(tokens), truncated, latency)
        self._turns, self._taken_time = turn.number + 1, turn.captured
        self.latency.turns += 1
        self.latency.latest = now - turn.captured
        start, stop = turn_span(turn.number)
        return SpokenTurn(
            (start + self.offset_us) / 1e6,
            (stop + self.offset_us) / 1e6,
            text,
            tuple(tokens),
            truncated,
            latency,
        )

    def fork(self, seed: int | None = None) -> Self:
        """Returns an independent conversation with the same past, for `Engine.fork`.

        The past is what engine steps have taken: turns that wait stay with this conversation, and the
        first turn that is pushed to the other follows the last one taken.
        """
        self._check_open()
        other = copy.copy(self)
        if seed is not None:
            other.options = dataclasses.replace(self.options, seed=seed)
        other.latency = LatencyStats()
        other.context = self.context.fork()
        other._queue, other._queue_lock = collections.deque(), threading.Lock()
        other.rewind()
        return other

    def rewind(self) -> None:
        """Drops all turns that were pushed but not taken, as if they had never been pushed."""
        with self._queue_lock:
            self._queue.clear()
        self._pushed, self._pushed_time = self._turns, self._taken_time
        if not self._turns:
            self._frame_shape = None

    def skip_to(self, turn: int, pending: Sequence[int] | None = None) -> None:
        """Continues as if all turns before this number had been dropped.

        Args:
            turn: Number of the next turn.
            pending: Tokens that its prompt begins with; None leaves them as they are.
        """
        self._pushed = self._turns = turn
        if pending is not None:
            self._pending = list(pending)

    def close(self) -> None:
        """Ends the conversation and frees its context; turns that wait are dropped."""
        if not self._closed:
            self._closed = True
            self.context.release()
            with self._queue_lock:
                self._queue.clear()

    def _make_prompt(self, turn: QueuedTurn) -> Prompt:
        template, start = self._model.template, self.context.next_position
        if turn.tokens is not None:
            # Plain text has the same positions in every mode.
            return encode_prompt(template, turn.tokens, NO_GRIDS, "sequential", start)
        return make_prompt(
            template,
            turn.frames,
            None if turn.number is None else turn_span(turn.number),
            turn.question if turn.number is None else self.prompt,
            first=turn.number == 0,
            positions=self.options.positions,
            start=start,
            pending=self._pending,
        )

    def _progress(self) -> str:
        """Describes what has filled the context."""
        if self._turns or not self._answered:
            return f" after {turn_span(self._turns)[0] / 1e6:g} s of video and {self._turns} turns"
        return f" after {self._answered} answer{'' if self._answered == 1 else 's'}"

    def _check_open(self) -> None:
        if self._closed:
            raise LiveCCError("this conversation is closed")
