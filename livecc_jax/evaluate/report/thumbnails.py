"""Small JPEG pictures of a clip or of a question's video, embedded in a report."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable

import numpy as np

from livecc_jax.errors import MediaError
from livecc_jax.evaluate.benchmarks.questions import VideoSource
from livecc_jax.evaluate.metrics.commentary import Reference
from livecc_jax.evaluate.run.sampled_video import DECODER, slice_source
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.pixels import resize
from livecc_jax.media.video import iter_frames, probe
from livecc_jax.reports.page import Picture

log = logging.getLogger(__name__)

THUMBNAILS_PER_CLIP = 6
THUMBNAILS_PER_QUESTION = 4
MAX_SIDE = 128  # pixels
MAX_BYTES = 12_000
QUALITIES = (70, 45, 20)  # JPEG qualities, tried in order until the picture is small enough
BUDGET = PixelBudget(64)  # of the choice of frames alone; pictures have their own size


def clip_thumbnails(reference: Reference, count: int = THUMBNAILS_PER_CLIP) -> list[Picture]:
    """Returns one picture from the middle of each of `count` equal parts of a clip, in order.

    Each is at most MAX_SIDE pixels wide and high and at most MAX_BYTES long. The list is empty if the
    clip's video is unknown or cannot be read, since a report is useful without pictures.

    Args:
        reference: The clip.
        count: Number of pictures.
    """
    if not reference.video:
        return []
    length = reference.end_us - reference.start_us
    times = [reference.start_us + length * (2 * i + 1) // (2 * count) for i in range(count)]
    try:
        info = probe(reference.video)
        available = [t for t in times if t <= info.frame_times_us[-1]]
        frame_indices = np.searchsorted(info.frame_times_us, available, "left")
        # As displayed; a frame's pixels may not be square.
        return _pictures(iter_frames(info, frame_indices), available, (info.height, info.width))
    except MediaError as error:
        log.info("no thumbnails: %s", error)
        return []


def question_thumbnails(source: VideoSource, count: int = THUMBNAILS_PER_QUESTION) -> list[Picture]:
    """Returns pictures of the frames that a question shows, spread evenly from the first to the last.

    Args:
        source: The question's video and span.
        count: Number of pictures, at least 2. There are fewer if fewer frames are shown.
    """
    try:
        media = slice_source(source, BUDGET)
        chosen = np.unique(np.linspace(0, len(media.indices) - 1, count).round().astype(int))
        times = media.times_us[chosen]
        few = dataclasses.replace(media, indices=media.indices[chosen], times_us=times)
        size = getattr(media.source, "height", 0), getattr(media.source, "width", 0)
        return _pictures(few.decode(DECODER), times, size if all(size) else None)
    except (MediaError, OSError) as error:
        log.info("no thumbnails: %s", error)
        return []


def _pictures(
    frames: Iterable[np.ndarray], times_us: Iterable[int], size: tuple[int, int] | None
) -> list[Picture]:
    """Returns thumbnails of frames, uint8 [H, W, 3] RGB, which are displayed at `size` if given."""
    pictures = []
    for time_us, frame in zip(times_us, frames):
        sides = size or frame.shape[:2]
        scale = min(1.0, MAX_SIDE / max(sides))
        height, width = (max(1, round(side * scale)) for side in sides)
        jpeg = encode_jpeg(resize(frame[None], (height, width))[0])
        if jpeg:
            pictures.append(Picture(jpeg, width, height, f"{time_us / 1e6:.1f} s"))
    return pictures


def encode_jpeg(picture: np.ndarray) -> bytes | None:
    """Encodes a picture as a JPEG of at most MAX_BYTES.

    Args:
        picture: RGB, uint8 [H, W, 3].

    Returns:
        None if the JPEG is larger even at the lowest quality.
    """
    import cv2

    for quality in QUALITIES:
        done, jpeg = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        if done and len(jpeg) <= MAX_BYTES:
            return jpeg.tobytes()
    return None
