"""The streaming engine: many conversations on one model, a batch of their turns in each step.

A conversation's commentary on a second is due one second after its last frame. A step takes the most
urgent waiting turn and others that can share its compiled program, the most urgent first, as many as
fill the batch. A conversation that falls behind loses its oldest waiting turns and counts them; the
time labels of later turns stay correct. `Session` is an engine with one conversation.
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from livecc_jax.decoding.options import StreamOptions
from livecc_jax.errors import ConfigError, LiveCCError
from livecc_jax.stream.cache_store import CacheStore, Row
from livecc_jax.stream.conversation import Conversation
from livecc_jax.stream.model import StreamModel
from livecc_jax.stream.options import EngineOptions
from livecc_jax.stream.paged_store import PagedStore
from livecc_jax.stream.scheduler import Scheduler
from livecc_jax.stream.slot_allocator import PoolFull
from livecc_jax.stream.turn import Answer, ContextFull, Frames, QueuedTurn, SpokenTurn
from livecc_jax.timeline.positions import check_positions
from livecc_jax.timeline.turns import OPENING_FRAMES, TURN_FRAMES

LATE_TURN_NUMBER = 1_000_000  # after eleven days: time labels do not get longer

StepResult = SpokenTurn | Answer | LiveCCError


class EngineFull(LiveCCError):
    """The engine has as many conversations as it may have."""


class Engine:
    """Runs conversations over one store of keys and values.

    Over a mesh, each device group along `data` and `fsdp` has an equal part of a step's batch and of
    the pool. A conversation stays on the group it opens on, the one with the fewest.

    Args:
        model: Shared weights.
        options: Capacity.
        clock: Returns the time in seconds, for latencies.
        store: Holds keys and values; a paged store of the options' capacity by default.
        single_stream: Whether the caller runs a step after each push, as `Session` does. Then frames
            stay on the host until their step, and a turn that does not fit leaves its conversation
            open.

    Raises:
        ConfigError: The batch or the pool does not divide over the device groups.
    """

    def __init__(
        self,
        model: StreamModel,
        options: EngineOptions | None = None,
        clock: Callable[[], float] = time.perf_counter,
        store: CacheStore | None = None,
        single_stream: bool = False,
    ) -> None:
        self.model, self.options, self.clock = model, options or EngineOptions(), clock
        self.store = store or PagedStore(model, self.options)
        self._single_stream = single_stream
        self._scheduler = Scheduler(model.shards, self.store.max_rows, self.store.min_rows)
        self._conversations: list[Conversation] = []
        self._adding = threading.Lock()
        # Frames that were encoded ahead of their step, by batch slot, and their vision features.
        self._prefetched: tuple[tuple[Frames, ...], jax.Array | None] = ((), None)

    @property
    def free(self) -> int:
        """Number of tokens that the store has room for."""
        return self.store.free

    @property
    def conversations(self) -> list[Conversation]:
        """The open conversations, in the order in which they were opened."""
        return [c for c in self._conversations if not c.closed]

    def open(
        self, prompt: str = "", options: StreamOptions | None = None, offset_us: int = 0
    ) -> Conversation:
        """Starts a conversation.

        Args:
            prompt: Text of the first turn.
            options: Decoding options; `max_new_tokens` is at most the engine's.
            offset_us: Microseconds of the source at which the stream's clock starts.

        Raises:
            EngineFull: There are as many conversations as the engine may have.
            ConfigError: The engine or the model cannot serve these options, or the prompt is longer
                than the context.
        """
        options = options or StreamOptions(max_new_tokens=self.options.max_new_tokens)
        if options.max_new_tokens > self.options.max_new_tokens:
            raise ConfigError(
                f"max-new-tokens {options.max_new_tokens} is more than the engine's "
                f"{self.options.max_new_tokens}"
            )
        check_positions(options.positions, self.model.config.family)
        check_silence_control(self.model, options)
        prompt_tokens = len(self.model.tokenizer.encode(prompt))
        if prompt_tokens >= options.context and not self._single_stream:
            raise ConfigError(
                f"a query of {prompt_tokens} tokens does not fit a context of {options.context}"
            )
        self._check_capacity()
        open_on = collections.Counter(c.context.group for c in self.conversations)
        group = min(range(self.model.shards), key=lambda i: open_on[i])
        return self._add(
            Conversation(
                self.model,
                options,
                prompt,
                offset_us,
                self.store.open(group),
                clock=self.clock,
                max_waiting=self.options.max_waiting,
                max_answer_tokens=self.options.max_answer_tokens,
                upload_early=not self._single_stream,
            )
        )

    def fork(self, conversation: Conversation, seed: int | None = None) -> Conversation:
        """Starts a conversation with the same past as another; they continue independently.

        Nothing is computed again, and a paged store holds the common past once. Must be called by the
        thread that runs steps. Turns that wait are not copied: the first turn that is pushed to the
        fork follows the last one taken.

        Args:
            conversation: A conversation of this engine, or of another with the same kind of store.
            seed: Random seed of the fork; by default the same as the original's.

        Raises:
            EngineFull: There are as many conversations as the engine may have.
            LiveCCError: The conversation is closed.
        """
        if not conversation.closed:
            self._check_capacity()
        return self._add(conversation.fork(seed))

    def close(self, conversation: Conversation) -> None:
        """Ends a conversation; turns that wait are dropped."""
        conversation.close()

    def warm_up(
        self,
        size: tuple[int, int],
        prompt: str = "",
        options: StreamOptions | None = None,
        questions: bool = True,
    ) -> None:
        """Compiles, before there are any streams, what streams like this one will run.

        Dummy streams take turns and are closed again: openings, later turns with short and with long
        time labels, and a short question, in steps of every batch size. With a fixed `context_size`
        nothing is left to compile but longer questions (and, over several device groups, steps of a
        group that forks have filled beyond its share); without one, contexts that outgrow their bucket
        as well.

        Args:
            size: Height and width of frames as they are pushed, multiples of 28.
            prompt: Text of the first turn.
            options: Decoding options; what matters is whether there is a temperature, and silence
                control.
            questions: Whether to compile questions too.

        Raises:
            LiveCCError: There are open conversations, or the dummy streams do not fit.
        """
        if self.conversations:
            raise LiveCCError("an engine is warmed up before it has conversations")
        opening, pair = (np.zeros((n, *size, 3), np.uint8) for n in (OPENING_FRAMES, TURN_FRAMES))
        # The shortest prompt there is, and the longest.
        turns = [(0, opening, ()), (1, pair, ()), (LATE_TURN_NUMBER, pair, (0,))]
        max_rows = min(self.options.max_conversations, self.options.max_batch)
        batches = (self.model.shards << i for i in range(max_rows.bit_length() + 1))
        for count in sorted({min(max_rows, batch) for batch in batches}):
            streams = [self.open(prompt, options) for _ in range(count)]
            for number, frames, pending in turns:
                for stream in streams:
                    stream.skip_to(number, pending)
                    stream.push(frames)
                self._run_all()
            if questions:
                for stream in streams:
                    stream.ask("?")
                self._run_all()
            for stream in streams:
                stream.close()

    def waiting(self) -> int:
        """Returns the number of turns and questions that wait."""
        return sum(c.waiting for c in self.conversations)

    def step(
        self, following: Frames | None = None, began: float | None = None
    ) -> list[tuple[Conversation, StepResult]]:
        """Takes the most urgent turns together, one of each conversation.

        Args:
            following: The frames that will be pushed next, this very array, where no other turn can be
                in the next step: they are encoded while the device is otherwise idle.
            began: Time from which the turns' latency counts; now by default.

        Returns:
            The result of each turn. If a turn does not fit in its context or in the pool the result is
            the error, and the conversation is closed unless the turn was a question.
        """
        began = self.clock() if began is None else began
        chosen = self._scheduler.choose(self.conversations, claim=True)
        if not chosen:
            return []
        vision_features = self._encode(chosen)  # runs while prompts are made
        rows: list[Row] = []
        taken: list[tuple[Conversation, QueuedTurn]] = []
        failed: list[tuple[Conversation, StepResult]] = []
        for conversation, turn in chosen:
            try:
                rows.append(conversation.prepare(turn))
                taken.append((conversation, turn))
            except (ContextFull, PoolFull) as error:
                failed.append((conversation, error))
                if turn.frames is not None and not self._single_stream:
                    conversation.close()
        if not rows:
            return failed
        if failed:
            vision_features = self._encode(taken)
        slots, batch = self._scheduler.assign([conversation for conversation, _ in taken])
        generated = self.store.run(
            rows, slots, batch, vision_features, lambda: self._prefetch(following)
        )
        now = self.clock()
        results = [
            (conversation, conversation.finish(turn, row, tokens, now - began, now))
            for (conversation, turn), row, tokens in zip(taken, rows, generated)
        ]
        return [*results, *failed]

    def _run_all(self) -> None:
        """Runs steps until nothing waits, and raises the first error."""
        while self.waiting():
            for _, result in self.step():
                if isinstance(result, LiveCCError):
                    raise result

    def _check_capacity(self) -> None:
        if len(self.conversations) >= self.options.max_conversations:
            raise EngineFull(
                f"the engine already has {self.options.max_conversations} conversations, its maximum"
            )

    def _add(self, conversation: Conversation) -> Conversation:
        with self._adding:
            # A new list: another thread may be reading the old one.
            self._conversations = [*self.conversations, conversation]
        return conversation

    def _encode(self, turns: Sequence[tuple[Conversation, QueuedTurn]]) -> jax.Array | None:
        """Returns the vision features of these turns' frames, by batch slot; None for questions."""
        if turns[0][1].frames is None:
            return None
        slots, batch = self._scheduler.assign([conversation for conversation, _ in turns])
        frames = [turns[0][1].frames] * batch
        for slot, (_, turn) in zip(slots, turns):
            frames[slot] = turn.frames
        (prefetched, vision_features), self._prefetched = self._prefetched, ((), None)
        same = len(prefetched) == batch and all(a is b for a, b in zip(frames, prefetched))
        if vision_features is not None and same:
            return vision_features
        return self.model.encode_frames(frames)

    def _prefetch(self, following: Frames | None) -> None:
        """Encodes the next step's frames, if they are known, after all that the device has to do."""
        frames = () if following is None else (following,)
        chosen = []
        if not frames and not self._single_stream:
            chosen = self._scheduler.choose(self.conversations, claim=False)
        # Only a full batch, so that no later turn joins it; and the next push must drop none of it.
        may_drop = any(c.waiting >= self.options.max_waiting for c, _ in chosen)
        if self._scheduler.is_full(len(chosen)) and not may_drop and chosen[0][1].frames is not None:
            slots, _ = self._scheduler.assign([conversation for conversation, _ in chosen])
            by_slot = dict(zip(slots, chosen))
            frames = tuple(by_slot[slot][1].frames for slot in sorted(by_slot))
        if frames:
            self._prefetched = frames, self.model.prefetch_vision(frames)


def check_silence_control(model: StreamModel, options: StreamOptions) -> None:
    """Raises ConfigError if silence control is asked of a tokenizer without a silence token."""
    if options.silence_base is not None and model.stop.silence is None:
        raise ConfigError("silence control needs a tokenizer in which ' ...' is one token")
