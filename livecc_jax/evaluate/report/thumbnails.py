"""Small JPEG pictures of a clip, embedded in a report."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from livecc_jax.errors import MediaError
from livecc_jax.evaluate.metrics.commentary import Reference
from livecc_jax.media.pixels import resize
from livecc_jax.media.video import iter_frames, probe

log = logging.getLogger(__name__)

THUMBNAILS_PER_CLIP = 6
MAX_SIDE = 128  # pixels
MAX_BYTES = 12_000
QUALITIES = (70, 45, 20)  # JPEG qualities, tried in order until the picture is small enough


@dataclass(frozen=True)
class Thumbnail:
    """A JPEG picture of one frame, and the second of the video that it shows."""

    jpeg: bytes
    width: int
    height: int
    second: float


def thumbnails(reference: Reference, count: int = THUMBNAILS_PER_CLIP) -> list[Thumbnail]:
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
        pictures = []
        for time_us, frame in zip(available, iter_frames(info, frame_indices)):
            sides = info.height, info.width  # as displayed; a frame's pixels may not be square
            scale = min(1.0, MAX_SIDE / max(sides))
            height, width = (max(1, round(side * scale)) for side in sides)
            jpeg = encode_jpeg(resize(frame[None], (height, width))[0])
            if jpeg:
                pictures.append(Thumbnail(jpeg, width, height, time_us / 1e6))
        return pictures
    except MediaError as error:
        log.info("no thumbnails: %s", error)
        return []


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
