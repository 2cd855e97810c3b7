"""A whole video, or an image, as a question about it shows it: as questions are trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from livecc_jax.errors import ConfigError, MediaError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.clip import resized_frames
from livecc_jax.media.pixels import resize
from livecc_jax.media.sampling import MAX_FRAMES, sample_uniform
from livecc_jax.media.video import probe, read_image
from livecc_jax.timeline.example import microseconds

IMAGE_ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Shown:
    """Frames of one video or image.

    frames: uint8 [F, h, w, 3] RGB, F even, h and w multiples of 28 (an image comes twice); until: time
    of the last one, in seconds of the file.
    """

    kind: Literal["video", "image"]
    frames: np.ndarray
    until: float = 0.0


def show(
    path: str | Path,
    budget: PixelBudget,
    start: float | None = None,
    end: float | None = None,
    max_frames: int = MAX_FRAMES,
) -> Shown:
    """Read a file.

    Args:
        path: of a video; or of an image, by its ending.
        budget: pixels a frame.
        start: seconds of a video to start at.
        end: seconds of a video to end at.
        max_frames: of a video; they are spread evenly, 2 a second, at least 4.

    Raises:
        MediaError: it cannot be read, or has no frame in the span.
        ConfigError: a span of an image; or fewer than two frames.
    """
    path = str(path)
    if max_frames < 2:
        raise ConfigError(f"max-frames must be at least 2, not {max_frames}")
    if Path(path).suffix.lower() in IMAGE_ENDINGS:
        if start is not None or end is not None:
            raise ConfigError(f"{path}: an image has no start and end to choose")
        picture = read_image(path)
        frame = resize(picture[None], _size(path, budget, *picture.shape[:2], 2))
        return Shown("image", np.concatenate([frame, frame]))
    info = probe(path)
    times = info.frame_times_us
    first = times[0] if start is None else microseconds(start)
    last = times[-1] if end is None else microseconds(end)
    inside = np.flatnonzero((times >= first) & (times <= last))
    if not len(inside):
        raise MediaError(f"{path}: has no frame between {first / 1e6:g} s and {last / 1e6:g} s")
    duration = int(times[inside[-1]] - times[inside[0]]) + info.frame_duration_us
    chosen = inside[sample_uniform(len(inside), duration, max_frames)]
    size = _size(path, budget, info.height, info.width, len(chosen))
    frames = np.empty((len(chosen), *size, 3), np.uint8)
    for out, frame in zip(frames, resized_frames(info, chosen, size, threads=0), strict=True):
        out[:] = frame
    return Shown("video", frames, float(times[chosen[-1]]) / 1e6)


def _size(path: str, budget: PixelBudget, height: int, width: int, frames: int) -> tuple[int, int]:
    try:
        return budget.size(height, width, frames)
    except MediaError as error:
        raise MediaError(f"{path}: {error}") from None
