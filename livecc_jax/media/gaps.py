"""Which frames of a clip are shown at strict 2 FPS, by either rule for the gaps of a variable rate.

By the published rule (`sampling.sample_strict`) a moment shows the next frame, which across a gap comes
from the future: a word about a still screen is learnt with a picture that appears seconds later. By the
other rule the previous picture stays until the next one exists. Both agree where frames follow one
another without a gap.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from livecc_jax.errors import MediaError
from livecc_jax.media.sampling import FPS, MAX_FRAMES, frames_in_span, sample_strict
from livecc_jax.media.video import VideoInfo

STEP_US = 1_000_000 // FPS
JITTER_US = 1_000  # containers round timestamps to milliseconds


class SampledMoments(NamedTuple):
    """Frames that are shown, and when.

    Attributes:
        indices: int64 [F], frame numbers, ascending, F even.
        times_us: int64 [F], ascending: each frame's time, or the moment itself when a frame is shown
            across a gap.
    """

    indices: np.ndarray
    times_us: np.ndarray


def sample_moments(
    video: VideoInfo,
    start_us: int | None = None,
    end_us: int | None = None,
    *,
    max_frames: int = MAX_FRAMES,
    odd: Literal["repeat", "drop"] = "repeat",
) -> SampledMoments:
    """Sample frames of a video at strict 2 FPS, by the gap rule that it is read with.

    Args:
        video: The video.
        start_us: Start of the span in microseconds of the file; None is the beginning.
        end_us: End of the span; None is the end.
        max_frames: Maximum number of frames; even.
        odd: How an odd number becomes even: the last frame is repeated or dropped.

    Raises:
        MediaError: The span shows no frame.
    """
    times = video.frame_times_us
    if video.rules.gap == "next":
        indices = sample_strict(times, start_us, end_us, max_frames=max_frames, odd=odd)
        return SampledMoments(indices, times[indices])
    first_us, last_us = _shown_span(video, start_us, end_us)
    if last_us < first_us:
        sample_strict(times, start_us, end_us)  # says what is wrong
        raise MediaError("no frame is shown in the span")
    count = min(max_frames, (last_us - first_us) // STEP_US + 1)
    moments = first_us + STEP_US * np.arange(count, dtype=np.int64)
    following = np.minimum(np.searchsorted(times, moments, "left"), len(times) - 1)
    in_gap = video.pts_us[following] > moments + JITTER_US
    indices = np.where(in_gap, following - 1, following)
    moments = np.where(in_gap, moments, times[following])
    if count % 2:
        end = slice(None, -1) if odd == "drop" else [*range(count), count - 1]
        indices, moments = indices[end], moments[end]
    return SampledMoments(indices.astype(np.int64), moments.astype(np.int64))


def frames_shown(
    video: VideoInfo, start_us: int | None = None, end_us: int | None = None
) -> np.ndarray:
    """Numbers of the frames whose time lies in a span, both ends included, int64 [k].

    Where the previous picture is shown across gaps, the one that is on the screen at the start of the
    span is included.
    """
    times = video.frame_times_us
    inside = frames_in_span(times, start_us, end_us)
    if video.rules.gap == "previous" and start_us is not None:
        following = int(np.searchsorted(times, start_us, "left"))
        if 0 < following < len(times) and video.pts_us[following] > start_us + JITTER_US:
            return np.append(following - 1, inside)
    return inside


def _shown_span(video: VideoInfo, start_us: int | None, end_us: int | None) -> tuple[int, int]:
    """Returns the first and last moment of a span at which a frame is on the screen, in microseconds.

    These are the times of the first and last frame in the span, unless the span begins or ends in a
    gap. The last is before the first if no frame is shown.
    """
    times, pts = video.frame_times_us, video.pts_us
    inside = frames_in_span(times, start_us, end_us)
    first = 0 if start_us is None else int(np.searchsorted(times, start_us, "left"))
    if first == len(times):
        return 0, -1
    stop = int(inside[-1]) + 1 if len(inside) else first
    if start_us is not None and first and pts[first] > start_us + JITTER_US:
        first_us = start_us
    else:
        first_us = int(times[first])
    last_us = int(times[stop - 1]) if stop else -1
    if end_us is not None and stop < len(times):
        last_us = max(last_us, min(end_us, int(pts[stop]) - JITTER_US - 1))
    return first_us, last_us
