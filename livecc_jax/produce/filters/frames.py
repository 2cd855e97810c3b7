"""Frames of a clip, spread evenly over its window."""

from __future__ import annotations

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
        MediaError: The video cannot be read, or has no frame in the window.
    """
    import cv2

    from livecc_jax.media.video import iter_frames, probe

    info = probe(clip.video)
    times = info.pts_us
    first, last = np.searchsorted(times, (clip.start_ms * 1000, clip.end_ms * 1000))
    if first >= last:
        raise MediaError(f"{clip.video}: has no frame between {clip.start_ms} and {clip.end_ms} ms")
    middles = (
        clip.start_ms * 1000 + (np.arange(count) + 0.5) * (clip.end_ms - clip.start_ms) * 1000 / count
    )
    numbers = np.clip(np.searchsorted(times, middles, side="right") - 1, first, last - 1)
    frames = []
    for frame in iter_frames(info, numbers):
        side = max(frame.shape[:2])
        if longest_side and side > longest_side:
            size = [max(1, round(n * longest_side / side)) for n in frame.shape[1::-1]]
            frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
        frames.append(frame)
    if len({frame.shape for frame in frames}) > 1:
        raise MediaError(f"{clip.video}: its frames change size")
    return np.stack(frames)
