"""A session: an engine with one conversation, which returns the text of each turn as it is pushed.

What the model sees is, token for token and position for position, what a training row holds: both are
built by `livecc_jax.timeline`.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from typing import Self

import numpy as np

from livecc_jax.decoding.options import StreamOptions
from livecc_jax.errors import ConfigError, LiveCCError
from livecc_jax.stream.capacity import rolling_capacity
from livecc_jax.stream.contiguous_store import ContiguousStore
from livecc_jax.stream.conversation import Conversation
from livecc_jax.stream.engine import Engine, check_silence_control
from livecc_jax.stream.history import FULL, EvictionPolicy
from livecc_jax.stream.model import StreamModel
from livecc_jax.stream.options import EngineOptions
from livecc_jax.stream.prompt import Prompt
from livecc_jax.stream.turn import MAX_ANSWER_TOKENS, Answer, SpokenTurn
from livecc_jax.timeline.chat import Visual
from livecc_jax.timeline.turns import OPENING_FRAMES


class Session:
    """One stream.

    With the `full` policy everything stays in the context, in a contiguous cache, until the context is
    full. With a rolling policy memory and time of a turn stay constant, in a stream of any length.

    Args:
        model: Shared weights.
        options: Decoding options.
        prompt: Text of the first turn (query, title, previous commentary).
        offset_us: Microseconds of the source at which the stream's clock starts.
        eviction: What stays in the context.
        cache_precision: Precision of a rolling cache, as in `EngineOptions`.

    Raises:
        ConfigError: The model is split over devices that serve several streams, the tokenizer has no
            silence token but silence control is on, or a `full` cache has another precision.
    """

    def __init__(
        self,
        model: StreamModel,
        options: StreamOptions,
        prompt: str = "",
        offset_us: int = 0,
        eviction: EvictionPolicy = FULL,
        cache_precision: str = "weights",
    ) -> None:
        check_silence_control(model, options)
        check_one_stream(model)
        if eviction.turns is None and cache_precision != "weights":
            raise ConfigError(f"a cache in {cache_precision} needs a rolling eviction policy")
        self.model, self.options = model, options
        self.prompt, self.offset_us, self.eviction = prompt, offset_us, eviction
        self._cache_precision = cache_precision
        self._engine: Engine | None = None
        self._conversation: Conversation | None = None

    @property
    def turns(self) -> int:
        """Number of turns that were taken."""
        return self._conversation.turns if self._conversation else 0

    @property
    def length(self) -> int:
        """Number of tokens in the context."""
        return self._conversation.length if self._conversation else 0

    @property
    def next_position(self) -> int:
        """Position of the next prompt's first token."""
        return self._conversation.context.next_position if self._conversation else 0

    @property
    def conversation(self) -> Conversation | None:
        """The engine's only conversation; None before the first turn."""
        return self._conversation

    @property
    def engine(self) -> Engine | None:
        """The engine; None before the first turn or the warm-up."""
        return self._engine

    @property
    def last_prompt(self) -> Prompt | None:
        """The prompt of the latest turn or question."""
        return self._conversation.last_prompt if self._conversation else None

    def push(self, frames: np.ndarray, following: np.ndarray | None = None) -> SpokenTurn:
        """Takes a turn.

        Args:
            frames: uint8 [F, H, W, 3] RGB at the size that the pixel budget gives (sides multiples of
                28), F even: 6 to open, 2 for each later second.
            following: The next turn's frames if they are known already: the very array that will be
                pushed next, which must not be changed until then. The device encodes them as soon as
                it has nothing else to do, so that turns of a file follow each other without a pause.

        Raises:
            MediaError: The frames differ in size from those before, or are an odd number.
            ContextFull: The turn does not fit; the session is as it was before.
        """
        began = time.perf_counter()
        if self._conversation is None:
            self._start(frames.shape)
        self._conversation.push(frames)
        if following is not None and not _can_follow(following, frames):
            following = None
        return take_turn(self._engine, self._conversation, following, began)

    def ask(self, question: str, max_new_tokens: int = MAX_ANSWER_TOKENS) -> Answer:
        """Answers a question between two turns, as one more turn of the conversation.

        Args:
            question: What the user asks.
            max_new_tokens: Largest number of tokens of the answer.

        Raises:
            LiveCCError: Nothing was shown yet.
            ContextFull: The question does not fit; the session is as it was before.
        """
        began = time.perf_counter()
        if self._conversation is None:
            raise LiveCCError("a question needs frames before it: nothing was shown yet")
        self._conversation.ask(question, max_new_tokens)
        return take_turn(self._engine, self._conversation, None, began)

    def fork(self, seed: int | None = None) -> Self:
        """Returns a session with the same past, which continues independently.

        Nothing is computed again, but the cache is copied.

        Args:
            seed: Random seed of the fork; by default it draws as this session does.

        Raises:
            LiveCCError: The session has a rolling cache, whose pool has room for one stream; an
                `Engine` forks such streams.
        """
        if self.eviction.turns is not None:
            raise LiveCCError("a session with a rolling cache cannot fork; fork it in an engine")
        other = copy.copy(self)
        if seed is not None:
            other.options = dataclasses.replace(self.options, seed=seed)
        if self._conversation is not None:
            other._engine = contiguous_engine(self.model, self.options)
            other._conversation = other._engine.fork(self._conversation, seed)
        return other

    def warm_up(self, size: tuple[int, int]) -> None:
        """Compiles what the turns will run, with turns of a dummy stream; this session stays as it is.

        A contiguous cache that outgrows `options.reserve` still compiles, once each time it doubles.

        Args:
            size: Height and width of frames as they are pushed, multiples of 28.
        """
        engine = self._make_engine((OPENING_FRAMES, *size))
        engine.warm_up(size, self.prompt, self.options, questions=self.eviction.turns is not None)
        if self._conversation is None:
            self._engine = engine

    def _start(self, opening_shape: tuple[int, ...]) -> None:
        if self._engine is None:
            self._engine = self._make_engine(opening_shape)
        self._conversation = self._engine.open(self.prompt, self.options, self.offset_us)

    def _make_engine(self, opening_shape: tuple[int, ...]) -> Engine:
        """Returns an engine with room for this stream, given the shape of its first turn's frames."""
        if self.eviction.turns is None:
            return contiguous_engine(self.model, self.options)
        count, height, width = opening_shape[:3]
        patch = self.model.config.vision.patch_size
        pair_tokens = Visual("video", (1, height // patch, width // patch)).tokens
        query_tokens = len(self.model.tokenizer.encode(self.prompt))
        limit = self.options.max_new_tokens
        context, pool = rolling_capacity(self.eviction, pair_tokens, query_tokens, limit, count // 2)
        options = EngineOptions(
            max_conversations=1,
            max_batch=1,
            pool_tokens=pool,
            eviction=self.eviction,
            max_new_tokens=limit,
            context_size=context,
            cache_precision=self._cache_precision,
        )
        return Engine(self.model, options, single_stream=True)


def contiguous_engine(model: StreamModel, options: StreamOptions) -> Engine:
    """Returns an engine for one conversation in a contiguous cache.

    Args:
        model: Shared weights.
        options: Decoding options of the conversation.
    """
    capacity = EngineOptions(
        max_conversations=1,
        max_batch=1,
        max_new_tokens=options.max_new_tokens,
        max_answer_tokens=max(1, options.context),
    )
    store = ContiguousStore(model, options.reserve)
    return Engine(model, capacity, store=store, single_stream=True)


def take_turn(
    engine: Engine,
    conversation: Conversation,
    following: np.ndarray | None = None,
    began: float | None = None,
) -> SpokenTurn | Answer:
    """Runs the only waiting turn of a single-stream engine.

    Args:
        engine: The engine.
        conversation: Its conversation, with one turn or question that waits.
        following: The frames that will be pushed next, if they are known.
        began: Time from which the latency counts.

    Raises:
        LiveCCError: The turn does not fit; the conversation is as it was before.
    """
    try:
        ((_, result),) = engine.step(following, began)
        if isinstance(result, LiveCCError):
            raise result
    except Exception:
        conversation.rewind()
        raise
    return result


def check_one_stream(model: StreamModel) -> None:
    """Raises ConfigError if the model is split over devices that serve several streams."""
    if model.shards > 1:
        raise ConfigError(
            "one stream is split over mesh.tensor alone: mesh.data and mesh.fsdp split an engine's "
            "streams"
        )


def _can_follow(following: np.ndarray, frames: np.ndarray) -> bool:
    """Returns whether frames can be the next turn; if not, pushing them raises the error."""
    return following.shape[1:] == frames.shape[1:] and len(following) > 0 and len(following) % 2 == 0
