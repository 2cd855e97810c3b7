"""A few small pictures of a clip, for a report that holds everything it shows."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from livecc_jax.errors import MediaError
from livecc_jax.evaluate.metrics.commentary import Reference
from livecc_jax.media.pixels import resize
from livecc_jax.media.video import iter_frames, probe

log = logging.getLogger(__name__)

COUNT = 6  # of a clip
LONGER_SIDE = 128
MOST_BYTES = 12_000
QUALITIES = (70, 45, 20)  # tried in turn until a picture is small enough


@dataclass(frozen=True)
class Thumbnail:
    """A JPEG picture of a video's second."""

    jpeg: bytes
    width: int
    height: int
    second: float


def thumbnails(reference: Reference, count: int = COUNT) -> list[Thumbnail]:
    """Pictures from the middle of each of `count` equal parts of a clip, in order.

    Each is at most LONGER_SIDE pixels wide and high and MOST_BYTES long. Empty when the clip's video is
    not known or cannot be read: a report does without.
    """
    if not reference.video:
        return []
    length = reference.end_us - reference.start_us
    wanted = [reference.start_us + length * (2 * i + 1) // (2 * count) for i in range(count)]
    try:
        info = probe(reference.video)
        inside = [t for t in wanted if t <= info.frame_times_us[-1]]
        chosen = np.searchsorted(info.frame_times_us, inside, "left")
        found = []
        for second, frame in zip(inside, iter_frames(info, chosen)):
            scale = min(1.0, LONGER_SIDE / max(frame.shape[:2]))
            height, width = (max(1, round(side * scale)) for side in frame.shape[:2])
            jpeg = encode_jpeg(resize(frame[None], (height, width))[0])
            if jpeg:
                found.append(Thumbnail(jpeg, width, height, second / 1e6))
        return found
    except MediaError as error:
        log.info("no thumbnails: %s", error)
        return []


def encode_jpeg(picture: np.ndarray) -> bytes | None:
    """uint8 [H, W, 3] RGB as a JPEG of at most MOST_BYTES; None if it cannot be so small."""
    import cv2

    for quality in QUALITIES:
        done, jpeg = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        if done and len(jpeg) <= MOST_BYTES:
            return jpeg.tobytes()
    return None
