"""A source, turn by turn: a file as fast as it is asked for or at its own pace, a camera live."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from livecc_jax.errors import ConfigError, MediaError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.clips import LocalFiles, MediaSlice
from livecc_jax.media.live import LiveFrame, LiveOptions, LiveSource, SourceEvent
from livecc_jax.media.sampling import FPS, sample_strict
from livecc_jax.media.sources import is_live, pace_frames
from livecc_jax.media.video import probe
from livecc_jax.timeline.example import seconds_to_us
from livecc_jax.timeline.turns import OPENING_FRAMES, TURN_FRAMES

LONGEST_US = 30 * 86_400_000_000  # of a file; beyond it, a timestamp is wrong

__all__ = ["TurnFrames", "is_live", "read_turns"]


@dataclass(frozen=True)
class TurnFrames:
    """Frames of one turn.

    Attributes:
        frames: uint8 [F, h, w, 3] at the budget's size, F even.
        captured: float64 [F], when each came, as time.time() has it; None of a file that is not live.
        times_us: int64 [F], microseconds since the source's first frame. What a live source lost in
            between shows here.
    """

    frames: np.ndarray
    captured: np.ndarray | None = None
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
) -> Iterator[TurnFrames]:
    """Six frames, then two a second, at strict 2 FPS; the last turn takes the frames there are.

    Args:
        source: a file, a camera number, or the address of a network stream.
        budget: `reference` needs a file, whose length is known.
        start: seconds of a file to start at.
        end: seconds of a file to end at.
        pace: of a file, `fast` as it is asked for, losing nothing, or `own` as if it were live. Live
            sources keep their own.
        options: of live sources, and of files at their own pace.
        on_event: hears of what happens to such sources, from another thread.
        on_live: is given such a source's reader, whose counts tell what was dropped, and which another
            thread may close.

    Raises:
        MediaError: the source cannot be read, or has no two frames in the span.
        SourceLost: a live source failed too often in a row (a MediaError).
        ConfigError: an option needs a file.
    """
    if is_live(source):
        if budget.tokens is None:
            raise ConfigError(f"{source}: a live source needs a fixed pixel budget, not `reference`")
        if start is not None or end is not None:
            raise ConfigError(f"{source}: a live source has no start and end to choose")
        live = functools.partial(LiveSource, source, budget, options, on_event)
        return _in_turns(_live_frames(live, on_live), source)
    media = slice_stream(source, budget, start, end)
    pictures = media.resized_frames(LocalFiles(threads=0))
    if pace == "fast":
        frames = (LiveFrame(p, n * 1_000_000 // FPS, None) for n, p in enumerate(pictures))
        return _in_turns(frames, source)
    live = functools.partial(
        LiveSource,
        source,
        budget,
        options,
        on_event,
        lambda name, _: pace_frames(pictures, name),
        (media.height, media.width),
    )
    return _in_turns(_live_frames(live, on_live), source)


def _live_frames(
    make: Callable[[], LiveSource], on_live: Callable[[LiveSource], None] | None
) -> Iterator[LiveFrame]:
    with make() as live:
        if on_live is not None:
            on_live(live)
        yield from live.frames()


def _in_turns(frames: Iterable[LiveFrame], source: str) -> Iterator[TurnFrames]:
    frames = iter(frames)
    size, shown = OPENING_FRAMES, False
    while held := list(itertools.islice(frames, size)):
        even = len(held) // 2 * 2  # an odd frame is dropped, as the released demo does
        if even:
            yield _turn(held[:even])
            shown = True
        if len(held) < size:
            break
        size = TURN_FRAMES
    if not shown:
        raise MediaError(f"{source}: has fewer than two frames at {FPS} FPS")


def _turn(frames: list[LiveFrame]) -> TurnFrames:
    live = frames[0].captured is not None
    return TurnFrames(
        np.stack([f.picture for f in frames]),
        np.array([f.captured for f in frames]) if live else None,
        np.array([f.time_us for f in frames], np.int64),
    )


def slice_stream(
    path: str, budget: PixelBudget, start: float | None = None, end: float | None = None
) -> MediaSlice:
    """Choose the frames of a file at strict 2 FPS, for as long as the file lasts.

    Args:
        path: Path of the video.
        budget: Pixels of a frame.
        start: Start of the span in seconds.
        end: End of the span in seconds.

    Raises:
        MediaError: The file cannot be read, has no frame in the span, or a timestamp is wrong.
    """
    info = probe(path)
    span = [None if s is None else seconds_to_us(s) for s in (start, end)]
    try:
        # As long as the source lasts (a slow video's frames come several times); but sized as training
        # sizes a clip, which ends at 480 frames.
        lasts = int(info.pts_us[-1])
        if lasts > LONGEST_US:
            raise MediaError(f"its timestamps span {lasts / 86_400e6:.0f} days")
        most = lasts * FPS // 2_000_000 * 2 + 2
        indices = sample_strict(info.frame_times_us, *span, max_frames=most, odd="drop")
        counted = sample_strict(info.frame_times_us, *span)
        size = budget.size(info.height, info.width, len(counted))
        return MediaSlice(info, indices, info.frame_times_us[indices], *size)
    except MediaError as error:
        raise MediaError(f"{path}: {error}") from None
