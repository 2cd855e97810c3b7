"""Frames to patches, as Qwen2-VL's image processor makes them."""

from __future__ import annotations

import functools
import math

import numpy as np

from livecc_jax.errors import MediaError

PATCH = 14
MERGE = 2
FACTOR = PATCH * MERGE  # sides are multiples of it
MAX_ASPECT = 200
BAND = 8  # rows resampled at a time


def smart_resize(height: int, width: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """The size nearest to the original whose sides are multiples of 28 and whose area fits.

    Raises MediaError when one side is more than 200 times the other.
    """
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise MediaError(f"{width}x{height} pixels: the aspect ratio is above {MAX_ASPECT}")
    # Python rounds halves to even, and so did the models' training.
    new_h = max(FACTOR, round(height / FACTOR) * FACTOR)
    new_w = max(FACTOR, round(width / FACTOR) * FACTOR)
    if new_h * new_w > max_pixels:
        beta = math.sqrt(height * width / max_pixels)
        new_h = max(FACTOR, math.floor(height / beta / FACTOR) * FACTOR)
        new_w = max(FACTOR, math.floor(width / beta / FACTOR) * FACTOR)
    elif new_h * new_w < min_pixels:
        beta = math.sqrt(min_pixels / (height * width))
        new_h = math.ceil(height * beta / FACTOR) * FACTOR
        new_w = math.ceil(width * beta / FACTOR) * FACTOR
    return new_h, new_w


@functools.lru_cache(maxsize=64)
def _resampling(old: int, new: int) -> np.ndarray:
    """float32 [new, old]: antialiased bicubic weights (a = -0.5), as torch's interpolate has them."""
    scale = old / new
    stretch = max(scale, 1.0)  # a kernel as wide as what it averages: no aliasing
    centers = scale * (np.arange(new) + 0.5)
    support = 2.0 * stretch
    weights = np.zeros((new, old))
    for i, center in enumerate(centers):
        low = max(int(center - support + 0.5), 0)
        high = min(int(center + support + 0.5), old)
        x = np.abs((np.arange(low, high) - center + 0.5) / stretch)
        w = np.where(
            x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, ((-0.5 * x + 2.5) * x - 4) * x + 2, 0)
        )
        weights[i, low:high] = w / w.sum()
    return weights.astype(np.float32)


@functools.lru_cache(maxsize=64)
def _bands(old: int, new: int) -> list[tuple[slice, slice, np.ndarray]]:
    """The weights without most of their zeros: new rows, the old rows they are made of, and weights.

    Few rows at a time: more would multiply more zeros, and OpenBLAS would start threads.
    """
    weights = _resampling(old, new)
    bands = []
    for i in range(0, new, BAND):
        used = np.flatnonzero(weights[i : i + BAND].any(axis=0))
        low, high = int(used[0]), int(used[-1]) + 1
        block = np.ascontiguousarray(weights[i : i + BAND, low:high])
        bands.append((slice(i, i + BAND), slice(low, high), block))
    return bands


def resize(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Antialiased bicubic resize, rounded back to uint8.

    Args:
        frames: uint8 [F, H, W, 3].
        size: (height, width) wanted.

    Returns:
        uint8 [F, height, width, 3], within 1/255 of the released pipeline's. The memory behind it lies
        colour by colour, as `patchify` wants it.
    """
    import cv2

    old_h, old_w = frames.shape[1:3]
    if (old_h, old_w) == size:
        return frames
    height, width = size
    planes = np.empty((len(frames), 3, height, width), np.uint8)
    rows = np.empty((3, height, old_w), np.float32)
    columns = np.empty((width, 3 * height), np.float32)
    for frame, out in zip(frames, planes, strict=True):
        colours = np.stack(cv2.split(frame)).astype(np.float32)
        for new, old, block in _bands(old_h, height):
            np.matmul(block, colours[:, old], out=rows[:, new])
        # Both passes go down the rows of a matrix, whose memory is contiguous.
        turned = cv2.transpose(rows.reshape(3 * height, old_w))
        for new, old, block in _bands(old_w, width):
            np.matmul(block, turned[old], out=columns[new])
        # Rounds halves to even and saturates, in one pass.
        rounded = cv2.addWeighted(columns, 1.0, columns, 0.0, 0.0, dtype=cv2.CV_8U)
        cv2.transpose(rounded, out.reshape(3 * height, width))
    return planes.transpose(0, 2, 3, 1)


def _by_colour(frames: np.ndarray) -> np.ndarray:
    """uint8 [F, H, W, 3] to contiguous [F, 3, H, W]: as it is if it lies so already."""
    import cv2

    planes = frames.transpose(0, 3, 1, 2)
    if planes.flags.c_contiguous:
        return planes
    out = np.empty(planes.shape, np.uint8)
    for frame, colours in zip(frames, out, strict=True):
        for channel, plane in enumerate(colours):
            cv2.extractChannel(frame, channel, plane)
    return out


def patchify(frames: np.ndarray) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Cut frames into patches two frames deep.

    Args:
        frames: uint8 [F, H, W, 3], F even, H and W multiples of 28.

    Returns:
        (uint8 [t * h * w, 1176], (t, h, w)): patches of frame pair after frame pair, each 2x2 block
        that the merger fuses contiguous; a patch's values are channel, frame, row, column.
    """
    f, height, width, _ = frames.shape
    t, h, w = f // 2, height // PATCH, width // PATCH
    # A patch's row is moved as one item of 14 bytes.
    x = _by_colour(frames).view(f"V{PATCH}")
    x = x.reshape(t, 2, 3, h // MERGE, MERGE, PATCH, w // MERGE, MERGE)
    x = np.ascontiguousarray(x.transpose(0, 3, 6, 4, 7, 2, 1, 5))
    return x.view(np.uint8).reshape(t * h * w, -1), (t, h, w)


def patch_places(h: int, w: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each patch of a frame pair, in the order of `patchify`: int32 [h * w] each."""
    places = np.indices((h, w), np.int32).reshape(2, h // MERGE, MERGE, w // MERGE, MERGE)
    rows, cols = places.transpose(0, 1, 3, 2, 4).reshape(2, -1)
    return rows, cols
