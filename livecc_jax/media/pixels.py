"""Frames to patches, as Qwen2-VL's image processor makes them."""

from __future__ import annotations

import functools
import math

import numpy as np

from livecc_jax.errors import MediaError
from livecc_jax.families.qwen2_vl import IMAGE_FACTOR, MERGE, PATCH, PATCH_VALUES

MAX_ASPECT = 200
BAND = 8  # new rows or columns made by one product
STRIP_BYTES = 3 << 20  # of a frame as float32 that are worked on at once, so that caches hold them


def smart_resize(height: int, width: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """The size nearest to the original whose sides are multiples of 28 and whose area fits.

    Raises MediaError when one side is more than 200 times the other.
    """
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise MediaError(f"{width}x{height} pixels: the aspect ratio is above {MAX_ASPECT}")
    # Python rounds halves to even, and so did the models' training.
    new_h = max(IMAGE_FACTOR, round(height / IMAGE_FACTOR) * IMAGE_FACTOR)
    new_w = max(IMAGE_FACTOR, round(width / IMAGE_FACTOR) * IMAGE_FACTOR)
    if new_h * new_w > max_pixels:
        beta = math.sqrt(height * width / max_pixels)
        new_h = max(IMAGE_FACTOR, math.floor(height / beta / IMAGE_FACTOR) * IMAGE_FACTOR)
        new_w = max(IMAGE_FACTOR, math.floor(width / beta / IMAGE_FACTOR) * IMAGE_FACTOR)
    elif new_h * new_w < min_pixels:
        beta = math.sqrt(min_pixels / (height * width))
        new_h = math.ceil(height * beta / IMAGE_FACTOR) * IMAGE_FACTOR
        new_w = math.ceil(width * beta / IMAGE_FACTOR) * IMAGE_FACTOR
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
def _bands(old: int, new: int, start: int, stop: int) -> list[tuple[slice, slice, np.ndarray]]:
    """The weights of new rows start, ..., stop - 1 without most of their zeros.

    Returns:
        [(new rows, the old rows they are made of, float32 weights)], BAND new rows each. More would
        multiply more zeros, and OpenBLAS would start threads; fewer cost more in calls.
    """
    weights = _resampling(old, new)
    bands = []
    for i in range(start, stop, BAND):
        j = min(i + BAND, stop)
        used = np.flatnonzero(weights[i:j].any(axis=0))
        low, high = int(used[0]), int(used[-1]) + 1
        bands.append((slice(i, j), slice(low, high), np.ascontiguousarray(weights[i:j, low:high])))
    return bands


Product = tuple[np.ndarray, np.ndarray, np.ndarray]  # weights, what they multiply, where it goes


class _Strip:
    """Some rows of the new frame, in memory that all strips share.

    A row of pixels is a row of numbers, colours side by side, so that one product does all three; the
    transpose of such rows has each colour's beside one another, and one product does all three again.

    Args:
        old, new: height and width of the frames.
        span: first of the new frame's rows, and the one after the last.
        one, other: memory, float32.
        rounded: memory, uint8.
    """

    def __init__(
        self,
        old: tuple[int, int],
        new: tuple[int, int],
        span: tuple[int, int],
        one: np.ndarray,
        other: np.ndarray,
        rounded: np.ndarray,
    ) -> None:
        start, stop = span
        height, across = stop - start, 3 * old[1]
        down = _bands(old[0], new[0], start, stop)
        low, high = down[0][1].start, max(used.stop for _, used, _ in down)
        self.source, self.target = slice(low, high), slice(start, stop)
        # What is no longer needed gives its memory to what comes next: less falls out of the cache.
        self.values = _shaped(one, high - low, across)
        self.rows = _shaped(other, height, across)
        self.turned = _shaped(one, across, height)
        self.columns = _shaped(other, new[1], 3 * height)
        self.rounded = _shaped(rounded, new[1], 3 * height)
        self.planes = np.hsplit(self.rounded, 3)
        # The slices are made once: there are hundreds a frame.
        self.down: list[Product] = [
            (
                block,
                self.values[used.start - low : used.stop - low],
                self.rows[i.start - start : i.stop - start],
            )
            for i, used, block in down
        ]
        pixels = _shaped(one, old[1], 3 * height)
        self.across: list[Product] = [
            (block, pixels[used], self.columns[i])
            for i, used, block in _bands(old[1], new[1], 0, new[1])
        ]


def _shaped(memory: np.ndarray, rows: int, columns: int) -> np.ndarray:
    return memory[: rows * columns].reshape(rows, columns)


class Resizer:
    """Antialiased bicubic resize of frames of one size, in memory that is used again and again.

    Args:
        old, new: height and width.
    """

    def __init__(self, old: tuple[int, int], new: tuple[int, int]) -> None:
        self.old, self.new = old, new
        most = 12 * max(old[0], new[0]) * max(old[1], new[1])  # bytes, all at once
        height = -(-new[0] // -(-most // STRIP_BYTES))
        spans = [(i, min(i + height, new[0])) for i in range(0, new[0], height)]
        taken = max(
            _bands(old[0], new[0], *s)[-1][1].stop - _bands(old[0], new[0], *s)[0][1].start
            for s in spans
        )
        one = np.empty(3 * old[1] * max(taken, height), np.float32)
        other = np.empty(3 * height * max(old[1], new[1]), np.float32)
        rounded = np.empty(3 * height * new[1], np.uint8)
        self._strips = [_Strip(old, new, span, one, other, rounded) for span in spans]

    def __call__(self, frame: np.ndarray, out: np.ndarray) -> None:
        """Resize uint8 [H, W, 3] into uint8 [3, h, w], rounded; each [h, w] contiguous.

        The frame's rows may lie apart in memory, its pixels not.
        """
        import cv2

        if self.old == self.new:
            cv2.split(frame, list(out))
            return
        for strip in self._strips:
            taken = frame[strip.source]
            np.copyto(strip.values.reshape(taken.shape), taken)
            for block, values, rows in strip.down:
                np.matmul(block, values, out=rows)
            # Both passes go down the rows of a matrix, whose memory is contiguous.
            cv2.transpose(strip.rows, strip.turned)
            for block, values, columns in strip.across:
                np.matmul(block, values, out=columns)
            # Rounds halves to even and saturates, in one pass.
            cv2.addWeighted(strip.columns, 1.0, strip.columns, 0.0, 0.0, strip.rounded, cv2.CV_8U)
            for colour, plane in zip(strip.planes, out, strict=True):
                cv2.transpose(colour, plane[strip.target])


def resize(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Antialiased bicubic resize, rounded back to uint8.

    Args:
        frames: uint8 [F, H, W, 3].
        size: (height, width) wanted.

    Returns:
        uint8 [F, height, width, 3], within 1/255 of the released pipeline's. The memory behind it lies
        colour by colour, as `patchify` wants it.
    """
    if frames.shape[1:3] == tuple(size):
        return frames
    resizer = Resizer(frames.shape[1:3], size)
    planes = np.empty((len(frames), 3, *size), np.uint8)
    for frame, out in zip(frames, planes, strict=True):
        resizer(frame, out)
    return planes.transpose(0, 2, 3, 1)


def patchify(frames: np.ndarray) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Cut frames into patches two frames deep.

    Args:
        frames: uint8 [F, H, W, 3], F even, H and W multiples of 28.

    Returns:
        (uint8 [t * h * w, 1176], (t, h, w)): patches of frame pair after frame pair, each 2x2 block
        that the merger fuses contiguous; a patch's values are channel, frame, row, column.
    """
    import cv2

    f, height, width, _ = frames.shape
    grid = (f // 2, height // PATCH, width // PATCH)
    planes = frames.transpose(0, 3, 1, 2)
    if not planes.flags.c_contiguous:
        planes = np.empty(planes.shape, np.uint8)
        for frame, out in zip(frames, planes, strict=True):
            for channel, plane in enumerate(out):
                cv2.extractChannel(frame, channel, plane)
    patches = np.empty((grid[0] * grid[1] * grid[2], PATCH_VALUES), np.uint8)
    patchify_planes(planes, patches)
    return patches, grid


def patchify_planes(planes: np.ndarray, patches: np.ndarray) -> None:
    """As `patchify`, from contiguous uint8 [F, 3, H, W] into contiguous uint8 [t * h * w, 1176]."""
    f, _, height, width = planes.shape
    t, h, w = f // 2, height // PATCH, width // PATCH
    # A patch's row is moved as one item of 14 bytes.
    row = np.dtype(f"V{PATCH}")
    x = planes.view(row).reshape(t, 2, 3, h // MERGE, MERGE, PATCH, w // MERGE, MERGE)
    out = patches.view(row).reshape(t, h // MERGE, w // MERGE, MERGE, MERGE, 3, 2, PATCH)
    out[...] = x.transpose(0, 3, 6, 4, 7, 2, 1, 5)


def patch_coordinates(h: int, w: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each patch of a frame pair, in the order of `patchify`: int32 [h * w] each."""
    places = np.indices((h, w), np.int32).reshape(2, h // MERGE, MERGE, w // MERGE, MERGE)
    rows, cols = places.transpose(0, 1, 3, 2, 4).reshape(2, -1)
    return rows, cols
