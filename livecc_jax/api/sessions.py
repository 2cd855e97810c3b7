"""A stream of frames that the caller brings: from a camera of one's own, a simulator, a screen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np

from livecc_jax.api.comments import choose_policy
from livecc_jax.api.models import Model
from livecc_jax.errors import ConfigError, MediaError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.pixels import resize
from livecc_jax.media.sampling import FPS
from livecc_jax.stream.session import Session
from livecc_jax.stream.turn import MAX_ANSWER_TOKENS, Answer, SpokenTurn
from livecc_jax.timeline.example import seconds_to_us
from livecc_jax.timeline.turns import OPENING_FRAMES, TURN_FRAMES, stream_prompt

STEP_US = 1_000_000 // FPS


class FrameSession:
    """A stream that is fed with frames; `open_session` makes it.

    Frames are resized to the pixel budget as those of a file are, and gathered into turns: six frames
    open, two more make each later turn.
    """

    def __init__(self, session: Session, budget: PixelBudget) -> None:
        self._session, self._budget = session, budget
        self._waiting: list[np.ndarray] = []  # resized frames of the turn that is not complete yet
        self._picture_shape: tuple[int, ...] | None = None
        self._next_us: int | None = None  # the time for which the next frame is wanted
        self._latest_us = 0  # time of the latest frame

    @property
    def turns(self) -> int:
        """Number of turns that were taken."""
        return self._session.turns

    def push(
        self, frames: np.ndarray, times: float | Sequence[float] | np.ndarray | None = None
    ) -> list[SpokenTurn]:
        """Takes frames, and comments on every turn that they complete.

        Args:
            frames: uint8 [H, W, 3] or [F, H, W, 3], RGB, of any size that stays the same.
            times: Seconds at which the frames were taken, ascending over all calls, for a source of any
                rate: shown is, each half second from the first frame on, the first frame at or after
                it, as of a file. None means that the frames are half a second apart.

        Returns:
            The commentary on each turn that is now complete: often none, or one.

        Raises:
            MediaError: The frames are not such arrays, change their size, or run backwards.
            ContextFull: The turn does not fit; open the session with cache="rolling".
        """
        frames = self._checked(frames)
        if times is not None:
            frames = self._sampled(frames, np.atleast_1d(np.asarray(times, np.float64)))
        spoken = []
        for frame in frames:
            size = self._budget.size(*frame.shape[:2], OPENING_FRAMES)
            self._waiting.append(resize(frame[None], size)[0])
            if len(self._waiting) >= (TURN_FRAMES if self.turns else OPENING_FRAMES):
                spoken.append(self._take_turn())
        return spoken

    def finish(self) -> list[SpokenTurn]:
        """Comments on the frames that wait for others; an odd last one is dropped, as of a file.

        Returns:
            The last turn, or nothing if fewer than two frames wait.
        """
        del self._waiting[len(self._waiting) // 2 * 2 :]
        return [self._take_turn()] if self._waiting else []

    def ask(self, question: str, max_new_tokens: int = MAX_ANSWER_TOKENS) -> Answer:
        """Answers a question about what was shown, as one more turn of the conversation.

        Args:
            question: The question.
            max_new_tokens: Largest number of tokens of the answer.

        Raises:
            LiveCCError: No turn was complete before it.
            ContextFull: The question does not fit; the session is as it was before.
        """
        return self._session.ask(question, max_new_tokens)

    def fork(self, seed: int | None = None) -> Self:
        """Returns a session with the same past that continues independently, for another question.

        Args:
            seed: Random seed of the fork; by default it draws as this session does.

        Raises:
            LiveCCError: The session has a rolling cache.
        """
        other = type(self)(self._session.fork(seed), self._budget)
        other._waiting = list(self._waiting)
        other._picture_shape = self._picture_shape
        other._next_us, other._latest_us = self._next_us, self._latest_us
        return other

    def _take_turn(self) -> SpokenTurn:
        spoken = self._session.push(np.stack(self._waiting))
        self._waiting.clear()  # only now: a turn that does not fit still waits
        return spoken

    def _checked(self, frames: np.ndarray) -> np.ndarray:
        """Returns frames as uint8 [F, H, W, 3]. Raises MediaError if they are no such frames."""
        frames = np.asarray(frames)
        if frames.ndim == 3:
            frames = frames[None]
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
            raise MediaError(
                f"frames are uint8 [F, H, W, 3], RGB, not {frames.dtype} {list(frames.shape)}"
            )
        if self._picture_shape not in (None, frames.shape[1:]):
            raise MediaError(
                f"frames changed size within a stream, from {self._picture_shape} to {frames.shape[1:]}"
            )
        self._picture_shape = frames.shape[1:]
        return frames

    def _sampled(self, frames: np.ndarray, times: np.ndarray) -> list[np.ndarray]:
        """Returns the frame to show at each half second that these frames reach."""
        if times.shape != (len(frames),):
            raise MediaError(f"there are {len(frames)} frames but {times.size} times")
        shown = []
        for frame, seconds in zip(frames, times.tolist()):
            if not math.isfinite(seconds):
                raise MediaError(f"a frame's time must be a number of seconds, not {seconds}")
            time_us = seconds_to_us(seconds)
            if self._next_us is None:
                self._next_us = self._latest_us = time_us
            if time_us < self._latest_us:
                raise MediaError(f"frames run backwards: {seconds:g} s after a later one")
            self._latest_us = time_us
            while self._next_us <= time_us:  # a gap in the source repeats the frame after it
                shown.append(frame)
                self._next_us += STEP_US
        return shown


def open_session(
    model: Model,
    *,
    query: str = "",
    title: str = "",
    previous: str = "",
    start: float = 0.0,
    cache: Literal["full", "rolling"] = "rolling",
    cache_precision: Literal["weights", "int8"] = "weights",
    pixel_budget: str | int | None = None,
    **decoding: Any,
) -> FrameSession:
    """Opens a stream into which frames are pushed; nothing is read from a file or a camera.

    Args:
        model: What `open_model` returned.
        query: What to do, in words.
        title: The video's title; unused if there is previous commentary.
        previous: Commentary before the start.
        start: Second of the source at which the stream's clock starts.
        cache: What stays in the context: the first turn, the latest turns and words between them, for
            streams of any length, or everything until the context is full ("full", which can fork).
        cache_precision: Precision of a rolling cache.
        pixel_budget: Largest number of vision tokens of a frame pair; None is the model's.
        **decoding: Fields of `StreamOptions`, as in `comment`.

    Raises:
        ConfigError: An option is unknown or out of range, or the budget is "reference", which needs a
            file, whose length is known.
        CheckpointError, TokenizerError: The model cannot be loaded.

    Example:
        >>> session = livecc_jax.open_session(model, query="Comment on the match.")
        >>> for frame, seconds in my_camera():  # uint8 [H, W, 3] and its time
        ...     for turn in session.push(frame, seconds):
        ...         print(turn.start, turn.words)
        >>> session.ask("Who has the ball?").text
    """
    eviction = choose_policy(cache, cache_precision)
    options, budget = model.stream_options(**decoding), model.budget(pixel_budget)
    if budget.tokens is None:
        raise ConfigError("frames that are pushed need a fixed pixel budget, not `reference`")
    session = Session(
        model.load(),
        options,
        stream_prompt(query, title, previous),
        seconds_to_us(start),
        eviction,
        cache_precision,
    )
    return FrameSession(session, budget)
