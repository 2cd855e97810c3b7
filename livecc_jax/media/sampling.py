"""Frame sampling: which frames of a video are shown.

A frame's time is its presentation timestamp plus one nominal frame duration, and times are compared as
integer microseconds. The released code mixes float32 and float64, which selects a later frame at whole
seconds of a 25 FPS video.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from livecc_jax.errors import MediaError

FPS = 2
MAX_FRAMES = 480
MIN_UNIFORM_FRAMES = 4


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
    """Sample frames at strict 2 FPS, by time.

    Sample times are half a second apart, from the time of the first frame in [start_us, end_us] to the
    time of the last one. Each selects the first frame at or after it.

    Args:
        frame_times_us: int64 [n], ascending times of the frames in microseconds.
        start_us: Start of the span in microseconds; None is the beginning.
        end_us: End of the span in microseconds; None is the end.
        max_frames: Maximum number of frames; even.
        odd: How an odd number becomes even: the last frame is repeated (training) or dropped (demo).

    Returns:
        int64 [F], frame numbers, F even.

    Raises:
        MediaError: No frame lies in the span.
    """
    times = np.asarray(frame_times_us)
    in_span = frames_in_span(times, start_us, end_us)
    if not len(in_span):
        raise MediaError(
            f"there is no frame between {(start_us or 0) / 1e6:g} s and "
            f"{'the end' if end_us is None else f'{end_us / 1e6:g} s'}"
        )
    span_times = times[in_span]
    # Half a second is exact in integer microseconds. The number of sample times is limited before they
    # are created, because a wrong last timestamp may be a century away.
    step = 1_000_000 // FPS
    count = min(max_frames, (int(span_times[-1]) - int(span_times[0])) // step + 1)
    sample_times = int(span_times[0]) + step * np.arange(count, dtype=np.int64)
    indices = in_span[0] + np.searchsorted(span_times, sample_times, "left")
    if len(indices) % 2:
        indices = np.append(indices, indices[-1]) if odd == "repeat" else indices[:-1]
    return indices.astype(np.int64)


def sample_uniform(num_frames: int, duration_us: int, max_frames: int = MAX_FRAMES) -> np.ndarray:
    """Sample frames that are spread evenly over a clip, for questions about the whole clip.

    Args:
        num_frames: Number of frames of the clip.
        duration_us: Duration of the clip in microseconds.
        max_frames: Maximum number of sampled frames.

    Returns:
        int64 [k], frame numbers, k even: 2 a second, at least 4, at most `max_frames` and at most
        `num_frames` (a single frame is repeated).
    """
    count = min(max(duration_us * FPS // 1_000_000, MIN_UNIFORM_FRAMES), max_frames, num_frames)
    if count < 2:
        return np.zeros(2, np.int64)
    return np.linspace(0, num_frames - 1, count // 2 * 2).round().astype(np.int64)
