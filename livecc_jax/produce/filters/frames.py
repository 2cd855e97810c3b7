"""Frames of a clip, spread evenly over its window."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from livecc_jax.errors import MediaError
from livecc_jax.produce.records import Clip


def even_frames(clip: Clip, count: int, longest_side: int = 0) -> np.ndarray:
    """Decodes frames of a clip: those in the middle of equal parts of its window.

    Args:
        clip: The clip.
        count: Number of frames; a short clip may give one twice.
        longest_side: Longest side of the frames in pixels; 0 keeps their size.

    Returns:
        uint8 [count, H, W, 3], RGB.

    Raises:
        MediaError: The video cannot be read, or ends before the window.
    """
    start, length = clip.start_ms * 1000, (clip.end_ms - clip.start_ms) * 1000
    middles = [start + length * (2 * i + 1) // (2 * count) for i in range(count)]
    return frames_at(clip.video, middles, longest_side, start)


def frames_at(
    video: str, times_us: Sequence[int], longest_side: int = 0, first_us: int = 0
) -> np.ndarray:
    """Decodes the frames that are shown at some times.

    Args:
        video: Path of the video.
        times_us: Times in microseconds, in order; one after the end gives the last frame.
        longest_side: Longest side of the frames in pixels; 0 keeps their size.
        first_us: The video must not end before this time.

    Returns:
        uint8 [times, H, W, 3], RGB.

    Raises:
        MediaError: The video cannot be read, or ends too soon.
    """
    import cv2

    from livecc_jax.media.video import iter_frames, probe

    info = probe(video)
    if int(info.pts_us[-1]) < first_us:
        raise MediaError(f"{video}: ends before {first_us / 1e6:g} s")
    numbers = np.searchsorted(info.pts_us, times_us, side="right") - 1
    frames = []
    for frame in iter_frames(info, np.maximum(numbers, 0)):
        side = max(frame.shape[:2])
        if longest_side and side > longest_side:
            size = [max(1, round(n * longest_side / side)) for n in frame.shape[1::-1]]
            frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
        frames.append(frame)
    if len({frame.shape for frame in frames}) > 1:
        raise MediaError(f"{video}: its frames change size")
    return np.stack(frames)
