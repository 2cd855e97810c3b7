"""One stream without an end: a session over a rolling cache."""

from __future__ import annotations

import jax
import numpy as np

from livecc_jax.decoding.options import StreamOptions
from livecc_jax.errors import LiveCCError
from livecc_jax.media.pixels import PATCH
from livecc_jax.stream.conversation import Conversation
from livecc_jax.stream.engine import Engine, EngineOptions
from livecc_jax.stream.history import ROLLING, Retention
from livecc_jax.stream.session import MAX_ANSWER, Answer, SpokenTurn, StreamModel, can_follow
from livecc_jax.timeline.chat import Visual
from livecc_jax.timeline.turns import OPENING_FRAMES

QUESTION = 128  # tokens of an ordinary question, and to spare
PROMPT_TEXT = 64  # tokens of an ordinary prompt beside its pictures, and to spare


def rolling_room(
    retention: Retention, pair: int, asked: int, limit: int, opening_pairs: int = OPENING_FRAMES // 2
) -> tuple[int, int]:
    """What one stream takes at most.

    Args:
        retention: a rolling one.
        pair: tokens of a frame pair.
        asked: tokens of the first turn's text.
        limit: most new tokens a turn.
        opening_pairs: frame pairs of the first turn.

    Returns:
        (tokens of its context, tokens of the pool).
    """
    turn = max(pair + PROMPT_TEXT + limit, QUESTION + MAX_ANSWER)
    opening = opening_pairs * pair + asked + PROMPT_TEXT
    room = -(-retention.most(opening, turn) // 256) * 256
    return room, room + max(opening, turn) + max(limit, MAX_ANSWER)


class RollingSession:
    """Takes turns like `Session`, for ever: memory and time of a turn stay as they are.

    Args:
        model: weights.
        options: decoding.
        prompt: the first turn's text.
        offset_us: microseconds of the source at which its clock starts.
        retention: what is kept.
        cache_precision: of what is kept, as in `EngineOptions`.
    """

    def __init__(
        self,
        model: StreamModel,
        options: StreamOptions,
        prompt: str = "",
        offset_us: int = 0,
        retention: Retention = ROLLING,
        cache_precision: str = "weights",
    ) -> None:
        self._model, self._options, self._prompt = model, options, prompt
        self._offset_us, self._retention = offset_us, retention
        self._cache_precision = cache_precision
        self._engine: Engine | None = None
        self._conversation: Conversation | None = None
        # Frames told to follow, and as they are on the device.
        self._following: tuple[np.ndarray | None, np.ndarray | jax.Array | None] = (None, None)

    def warm_up(self, size: tuple[int, int]) -> None:
        """Compile everything that this stream will run; arguments as `Session.warm_up`."""
        self._engine = self._make_engine((OPENING_FRAMES, *size))
        self._engine.warm_up(size, self._prompt, self._options)

    def push(self, frames: np.ndarray, following: np.ndarray | None = None) -> SpokenTurn:
        """Take a turn; arguments and errors as `Session.push`."""
        if self._conversation is None:
            if self._engine is None:
                self._engine = self._make_engine(frames.shape)
            self._conversation = self._engine.open(self._prompt, self._options, self._offset_us)
        known, moved = self._following
        self._conversation.push(moved if known is frames else frames)
        self._following = (None, None)
        if can_follow(following, frames):
            moved = following if self._model.mesh else jax.device_put(following)
            self._following = following, moved
        ((_, result),) = self._engine.tick(self._following[1])
        if isinstance(result, LiveCCError):
            raise result
        return result

    def ask(self, question: str) -> Answer:
        """As `Session.ask`; the question and its answer are remembered as a turn is.

        Raises:
            LiveCCError: nothing has been seen yet, or the question is too long for what is kept.
        """
        if self._conversation is None:
            raise LiveCCError("nothing has been seen yet that a question could be about")
        self._conversation.ask(question)
        ((_, result),) = self._engine.tick()
        if isinstance(result, LiveCCError):
            raise result
        return result

    def _make_engine(self, opening: tuple[int, ...]) -> Engine:
        """An engine with room for just this stream, by the shape of its opening's frames."""
        count, height, width = opening[:3]
        pair = Visual("video", (1, height // PATCH, width // PATCH)).tokens
        limit = self._options.max_new_tokens
        asked = len(self._model.tokenizer.encode(self._prompt))
        room, pool = rolling_room(self._retention, pair, asked, limit, count // 2)
        options = EngineOptions(
            slots=1,
            batch=1,
            pool=pool,
            retention=self._retention,
            max_new_tokens=limit,
            room=room,
            cache_precision=self._cache_precision,
        )
        return Engine(self._model, options)
