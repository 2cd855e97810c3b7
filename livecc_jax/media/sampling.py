"""Which frames of a video are shown.

A frame's time is its presentation timestamp plus one nominal frame duration, and all comparisons are
between integer microseconds: the released code mixes float32 and float64, which makes whole-second
frames of a 25 FPS video come one late.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from livecc_jax.errors import MediaError

FPS = 2
MAX_FRAMES = 480
MIN_UNIFORM = 4


def frames_in_span(
    frame_times_us: np.ndarray, start_us: int | None = None, end_us: int | None = None
) -> np.ndarray:
    """Numbers of the frames whose time lies in a span, both ends included.

    Args:
        frame_times_us: int64 [n], ascending times of the frames in microseconds.
        start_us: Start of the span in microseconds; None is the beginning.
        end_us: End of the span in microseconds; None is the end.

    Returns:
        int64 [k], consecutive frame numbers; empty when no frame lies in the span.
    """
    first = 0 if start_us is None else int(np.searchsorted(frame_times_us, start_us, "left"))
    stop = len(frame_times_us)
    if end_us is not None:
        stop = int(np.searchsorted(frame_times_us, end_us, "right"))
    return np.arange(first, max(first, stop), dtype=np.int64)


def sample_strict(
    frame_times_us: np.ndarray,
    start_us: int | None = None,
    end_us: int | None = None,
    *,
    max_frames: int = MAX_FRAMES,
    odd: Literal["repeat", "drop"] = "repeat",
) -> np.ndarray:
    """Frames at strict 2 FPS, by time.

    From the first frame whose time lies inside [start_us, end_us], every half second up to the last
    such frame's time: the first frame at or after it.

    Args:
        frame_times_us: int64 [n], ascending.
        start_us: of the window; None is the beginning.
        end_us: of the window; None is the end.
        max_frames: most frames; even.
        odd: what makes an odd number even: the last frame is repeated (training) or dropped (demo).

    Returns:
        int64 [F] frame numbers, F even.

    Raises:
        MediaError: no frame is inside the window.
    """
    times = np.asarray(frame_times_us)
    in_span = frames_in_span(times, start_us, end_us)
    if not len(in_span):
        raise MediaError(
            f"there is no frame between {(start_us or 0) / 1e6:g} s and "
            f"{'the end' if end_us is None else f'{end_us / 1e6:g} s'}"
        )
    inside = times[in_span]
    # Kept as integers: half a second is exact in microseconds. Counted before they are made: a wild
    # last timestamp may be a century away.
    step = 1_000_000 // FPS
    count = min(max_frames, (int(inside[-1]) - int(inside[0])) // step + 1)
    expected = int(inside[0]) + step * np.arange(count, dtype=np.int64)
    frames = in_span[0] + np.searchsorted(inside, expected, "left")
    if len(frames) % 2:
        frames = np.append(frames, frames[-1]) if odd == "repeat" else frames[:-1]
    return frames.astype(np.int64)


def sample_uniform(frames: int, duration_us: int, most: int = MAX_FRAMES) -> np.ndarray:
    """Frames spread evenly over a clip, for questions about all of it.

    Args:
        frames: how many the clip has.
        duration_us: its duration.
        most: frames.

    Returns:
        int64 [k] frame numbers, k even: 2 a second, at least 4, at most `most` and no more than there
        are (a single frame comes twice).
    """
    k = min(max(duration_us * FPS // 1_000_000, MIN_UNIFORM), most, frames)
    if k < 2:
        return np.zeros(2, np.int64)
    return np.linspace(0, frames - 1, k // 2 * 2).round().astype(np.int64)
