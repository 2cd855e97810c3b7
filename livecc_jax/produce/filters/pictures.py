"""Perceptual hashes of clips' frames, to find clips that show the same.

The hash is pHash: signs of the lowest 8 x 8 frequencies of a 32 x 32 grey picture against their median
(C. Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010). It hardly changes
with size, compression and brightness, and does change with cropping and mirroring.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from livecc_jax.errors import MediaError
from livecc_jax.produce.filters.frames import even_frames
from livecc_jax.produce.models import Models
from livecc_jax.produce.parameters import Parameters
from livecc_jax.produce.records import Clip, Rejection, reject

SIDE, LOW = 32, 8  # pixels of the picture, frequencies of each direction
FLAT = 4.0  # a picture whose grey values have a smaller standard deviation shows nothing
MEASURE = "picture_hashes"
DECODE_SIDE = 256  # pixels that are kept of a frame's longest side


def pictures(
    clip: Clip, parameters: Parameters, models: Models | None = None
) -> list[Clip | Rejection]:
    """Adds the perceptual hashes of a clip's frames to its measures, under `picture_hashes`.

    A hash is 16 hexadecimal digits, or "" for a frame of one colour, which is like any other of them.

    Args:
        clip: A clip.
        parameters: Reads `duplicate_frames`.
        models: Not used.

    Returns:
        The clip with its hashes, or its rejection when its frames cannot be read.
    """
    try:
        frames = even_frames(clip, parameters.duplicate_frames, DECODE_SIDE)
    except MediaError as error:
        return [reject(clip, "duplicates", "frames cannot be read", str(error))]
    hashes = ["" if h is None else f"{h:016x}" for h in map(picture_hash, frames)]
    return [dataclasses.replace(clip, measures={**clip.measures, MEASURE: hashes})]


def picture_hash(frame: np.ndarray) -> int | None:
    """Returns the 64 bits of a picture's perceptual hash; None for one that shows nothing.

    Args:
        frame: uint8 [H, W, 3], RGB.
    """
    import cv2

    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    if small.std() < FLAT:
        return None
    low = cv2.dct(small)[:LOW, :LOW].ravel()
    bits = low > np.median(low[1:])  # the first is the mean brightness
    bits[0] = False
    return int("".join("1" if b else "0" for b in bits), 2)


def distance(a: int, b: int) -> int:
    """Returns the number of bits in which two hashes differ."""
    return (a ^ b).bit_count()
