"""Reads a source turn by turn: a file as fast as possible or in real time, a camera or stream live."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from livecc_jax.errors import ConfigError, MediaError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.clips import FrameReader, LocalFiles, MediaSlice
from livecc_jax.media.gaps import sample_moments
from livecc_jax.media.live import LiveFrame, LiveOptions, LiveSource, SourceEvent
from livecc_jax.media.rules import DEFAULT, MediaRules
from livecc_jax.media.sampling import FPS
from livecc_jax.media.sources import (
    KeepPace,
    is_live,
    pace_frames,
    read_source,
    wait_until_due,
)
from livecc_jax.media.video import probe
from livecc_jax.timeline.example import seconds_to_us
from livecc_jax.timeline.turns import OPENING_FRAMES, TURN_FRAMES

MAX_DURATION_US = 30 * 86_400_000_000  # of a file; longer ones have a wrong timestamp
ALL_CORES = LocalFiles(threads=0)

__all__ = ["TurnFrames", "is_live", "read_turns"]


@dataclass(frozen=True)
class TurnFrames:
    """Frames of one turn.

    Attributes:
        frames: uint8 [F, h, w, 3] at the budget's size, F even.
        captured_at: float64 [F], `time.time()` of each frame's arrival; None for a file that is not
            played live.
        times_us: int64 [F], microseconds since the source's first frame; frames that a live source
            lost leave gaps.
    """

    frames: np.ndarray
    captured_at: np.ndarray | None = None
    times_us: np.ndarray | None = None


def read_turns(
    source: str,
    budget: PixelBudget,
    start: float | None = None,
    end: float | None = None,
    *,
    pace: Literal["fast", "own"] = "fast",
    options: LiveOptions | None = None,
    on_event: Callable[[SourceEvent], None] | None = None,
    on_live: Callable[[LiveSource], None] | None = None,
    reader: FrameReader = ALL_CORES,
    keep_pace: KeepPace = wait_until_due,
    rules: MediaRules = DEFAULT,
) -> Iterator[TurnFrames]:
    """Yields turns at strict 2 FPS: six frames, then two each; the last turn has the remaining frames.

    Args:
        source: A file, a camera number, or the address of a network stream.
        budget: Pixels of a frame; `reference` needs a file, whose length is known.
        start: Start in seconds of a file.
        end: End in seconds of a file.
        pace: How a file is read: `fast` on demand, losing nothing, or `own` in real time as if it were
            live. Live sources are always read in real time.
        options: How live sources, and files in real time, are read.
        on_event: Called with each event of such a source, from another thread.
        on_live: Called with such a source's LiveSource, whose counts tell how many frames were dropped,
            and which another thread may close.
        reader: Reads the frames of a file.
        keep_pace: Waits until a frame is due that is read in real time.
        rules: How videos are read. A live source shows its pictures as they arrive, whatever the rule
            for gaps is.

    Raises:
        MediaError: The source cannot be read, or has fewer than two frames in the span.
        SourceLost: A live source failed too often in a row (a MediaError).
        ConfigError: An option needs a file.
    """
    if is_live(source):
        if budget.tokens is None:
            raise ConfigError(f"{source}: a live source needs a fixed pixel budget, not `reference`")
        if start is not None or end is not None:
            raise ConfigError(f"{source}: a live source has no start and end to choose")
        opener = functools.partial(read_source, keep_pace=keep_pace, rules=rules)
        live = functools.partial(LiveSource, source, budget, options, on_event, opener)
        return group_turns(_live_frames(live, on_live), source)
    media = slice_stream(source, budget, start, end, rules)
    pictures = media.resized_frames(reader)
    if pace == "fast":
        frames = (LiveFrame(p, n * 1_000_000 // FPS, None) for n, p in enumerate(pictures))
        return group_turns(frames, source)
    live = functools.partial(
        LiveSource,
        source,
        budget,
        options,
        on_event,
        lambda name, _: pace_frames(pictures, name, keep_pace),
        (media.height, media.width),
    )
    return group_turns(_live_frames(live, on_live), source)


def _live_frames(
    open_live: Callable[[], LiveSource], on_live: Callable[[LiveSource], None] | None
) -> Iterator[LiveFrame]:
    with open_live() as live:
        if on_live is not None:
            on_live(live)
        yield from live.frames()


def group_turns(frames: Iterable[LiveFrame], source: str) -> Iterator[TurnFrames]:
    """Group frames into turns: six frames, then two each.

    Args:
        frames: The frames of a source.
        source: Name of the source, for error messages.

    Raises:
        MediaError: There are fewer than two frames.
    """
    frames = iter(frames)
    size, any_turn = OPENING_FRAMES, False
    while turn := list(itertools.islice(frames, size)):
        even = len(turn) // 2 * 2  # an odd frame is dropped, as the released demo does
        if even:
            yield _stack_turn(turn[:even])
            any_turn = True
        if len(turn) < size:
            break
        size = TURN_FRAMES
    if not any_turn:
        raise MediaError(f"{source}: has fewer than two frames at {FPS} FPS")


def _stack_turn(frames: list[LiveFrame]) -> TurnFrames:
    live = frames[0].captured_at is not None
    return TurnFrames(
        np.stack([f.picture for f in frames]),
        np.array([f.captured_at for f in frames]) if live else None,
        np.array([f.time_us for f in frames], np.int64),
    )


def slice_stream(
    path: str,
    budget: PixelBudget,
    start: float | None = None,
    end: float | None = None,
    rules: MediaRules = DEFAULT,
) -> MediaSlice:
    """Choose the frames of a file at strict 2 FPS, for as long as the file lasts.

    Args:
        path: Path of the video.
        budget: Pixels of a frame.
        start: Start of the span in seconds.
        end: End of the span in seconds.
        rules: How the video is read.

    Raises:
        MediaError: The file cannot be read, has no frame in the span, or a timestamp is wrong.
    """
    info = probe(path, rules)
    span = [None if s is None else seconds_to_us(s) for s in (start, end)]
    try:
        # Frames are sampled until the file ends (frames of a slow video are repeated), but their size
        # is that of a training clip, which has at most 480 frames.
        duration = int(info.pts_us[-1])
        if duration > MAX_DURATION_US:
            raise MediaError(f"its timestamps span {duration / 86_400e6:.0f} days")
        max_frames = duration * FPS // 2_000_000 * 2 + 2
        moments = sample_moments(info, *span, max_frames=max_frames, odd="drop")
        training_frames = sample_moments(info, *span).indices
        size = budget.size(info.height, info.width, len(training_frames))
        return MediaSlice(info, *moments, *size, budget.patch)
    except MediaError as error:
        raise MediaError(f"{path}: {error}") from None
