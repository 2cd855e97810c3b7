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


def resize(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Antialiased bicubic resize, rounded back to uint8.

    Args:
        frames: uint8 [F, H, W, 3].
        size: (height, width) wanted.

    Returns:
        uint8 [F, height, width, 3], within 1/255 of the released pipeline's.
    """
    height, width = frames.shape[1:3]
    if (height, width) == size:
        return frames
    down, across = _resampling(height, size[0]), _resampling(width, size[1])
    out = np.empty((len(frames), *size, 3), np.uint8)
    for i, frame in enumerate(frames):
        # Each pass is one matrix product: rows first, as they lie together in memory.
        rows = down @ frame.reshape(height, -1).astype(np.float32)
        columns = rows.reshape(size[0], width, 3).transpose(0, 2, 1) @ across.T
        out[i] = np.clip(np.rint(columns), 0, 255).transpose(0, 2, 1)
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
    x = frames.reshape(t, 2, h // MERGE, MERGE, PATCH, w // MERGE, MERGE, PATCH, 3)
    x = x.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)
    return np.ascontiguousarray(x).reshape(t * h * w, -1), (t, h, w)


def patch_places(h: int, w: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each patch of a frame pair, in the order of `patchify`: int32 [h * w] each."""
    places = np.indices((h, w), np.int32).reshape(2, h // MERGE, MERGE, w // MERGE, MERGE)
    rows, cols = places.transpose(0, 1, 3, 2, 4).reshape(2, -1)
    return rows, cols
