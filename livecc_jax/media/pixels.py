"""Resizes frames and cuts them into patches, with the values of the families' image processors.

Ours: Pillow's bicubic rounds between both axes and OpenCV's does not antialias, but pixels must equal
those of the released processors.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from livecc_jax.errors import MediaError
from livecc_jax.families.qwen2_vl import CHANNELS, IMAGE_FACTOR, MERGE, PATCH, TEMPORAL

MAX_ASPECT = 200
BAND = 8  # output rows or columns computed by one matrix product
STRIP_BYTES = 3 << 20  # of float32 pixels that are resized at a time, so that they fit the caches


def smart_resize(
    height: int, width: int, min_pixels: int, max_pixels: int, factor: int = IMAGE_FACTOR
) -> tuple[int, int]:
    """Returns the size, with sides that are multiples of a factor, nearest to the original that fits.

    This is `smart_resize` of Qwen2-VL's image processor.

    Args:
        height: Height of the original in pixels.
        width: Width of the original in pixels.
        min_pixels: Minimum area of the result.
        max_pixels: Maximum area of the result.
        factor: Pixels that both sides are multiples of; 28, or 32 in Qwen3-VL.

    Returns:
        Height and width.

    Raises:
        MediaError: One side is more than 200 times the other.
    """
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise MediaError(f"{width}x{height} pixels: the aspect ratio is above {MAX_ASPECT}")
    # Python rounds half to even, as in the training of the released models.
    new_h = max(factor, round(height / factor) * factor)
    new_w = max(factor, round(width / factor) * factor)
    if new_h * new_w > max_pixels:
        beta = math.sqrt(height * width / max_pixels)
        new_h = max(factor, math.floor(height / beta / factor) * factor)
        new_w = max(factor, math.floor(width / beta / factor) * factor)
    elif new_h * new_w < min_pixels:
        beta = math.sqrt(min_pixels / (height * width))
        new_h = math.ceil(height * beta / factor) * factor
        new_w = math.ceil(width * beta / factor) * factor
    return new_h, new_w


@functools.lru_cache(maxsize=64)
def bicubic_weights(old: int, new: int) -> np.ndarray:
    """Returns the weights of antialiased bicubic resizing (a = -0.5) along one axis.

    They are those of `torch.nn.functional.interpolate`.

    Args:
        old: Number of pixels along the axis.
        new: Number of pixels after resizing.

    Returns:
        float32 [new, old].
    """
    scale = old / new
    filter_scale = max(scale, 1.0)  # the filter covers all pixels it averages, against aliasing
    centers = scale * (np.arange(new) + 0.5)
    support = 2.0 * filter_scale
    weights = np.zeros((new, old))
    for i, center in enumerate(centers):
        low = max(int(center - support + 0.5), 0)
        high = min(int(center + support + 0.5), old)
        x = np.abs((np.arange(low, high) - center + 0.5) / filter_scale)
        w = np.where(
            x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, ((-0.5 * x + 2.5) * x - 4) * x + 2, 0)
        )
        weights[i, low:high] = w / w.sum()
    return weights.astype(np.float32)


@functools.lru_cache(maxsize=64)
def _bands(old: int, new: int, start: int, stop: int) -> list[tuple[slice, slice, np.ndarray]]:
    """Returns the weights of output rows start, ..., stop - 1, without most of their zeros.

    Returns:
        [(output rows, input rows, float32 weights)], with BAND output rows each. Larger bands would
        multiply more zeros, and OpenBLAS would start threads; smaller ones need more calls.
    """
    weights = bicubic_weights(old, new)
    bands = []
    for i in range(start, stop, BAND):
        j = min(i + BAND, stop)
        used = np.flatnonzero(weights[i:j].any(axis=0))
        low, high = int(used[0]), int(used[-1]) + 1
        bands.append((slice(i, j), slice(low, high), np.ascontiguousarray(weights[i:j, low:high])))
    return bands


MatMul = tuple[np.ndarray, np.ndarray, np.ndarray]  # weights, right operand, output


class _Strip:
    """Computes some rows of the resized frame, in buffers that all strips share.

    A row of pixels holds the three colours of each pixel next to each other, so one matrix product
    resizes all three colours vertically. After a transpose, each colour's columns are adjacent, and one
    matrix product resizes all three horizontally.

    Args:
        old: Height and width of the original frame.
        new: Height and width of the resized frame.
        span: First row of the strip in the resized frame, and the row after the last.
        buffer_a: float32 memory.
        buffer_b: float32 memory.
        rounded: uint8 memory.
    """

    def __init__(
        self,
        old: tuple[int, int],
        new: tuple[int, int],
        span: tuple[int, int],
        buffer_a: np.ndarray,
        buffer_b: np.ndarray,
        rounded: np.ndarray,
    ) -> None:
        start, stop = span
        height, row_values = stop - start, 3 * old[1]
        bands = _bands(old[0], new[0], start, stop)
        low, high = bands[0][1].start, max(used.stop for _, used, _ in bands)
        self.source, self.target = slice(low, high), slice(start, stop)
        # The two buffers are reused for every intermediate result, so that they stay in the cache.
        self.values = _shaped(buffer_a, high - low, row_values)
        self.rows = _shaped(buffer_b, height, row_values)
        self.transposed = _shaped(buffer_a, row_values, height)
        self.columns = _shaped(buffer_b, new[1], 3 * height)
        self.rounded = _shaped(rounded, new[1], 3 * height)
        self.planes = np.hsplit(self.rounded, 3)
        # There are hundreds of slices per frame, so they are created once.
        self.vertical: list[MatMul] = [
            (
                block,
                self.values[used.start - low : used.stop - low],
                self.rows[i.start - start : i.stop - start],
            )
            for i, used, block in bands
        ]
        pixels = _shaped(buffer_a, old[1], 3 * height)
        self.horizontal: list[MatMul] = [
            (block, pixels[used], self.columns[i])
            for i, used, block in _bands(old[1], new[1], 0, new[1])
        ]


def _shaped(memory: np.ndarray, rows: int, columns: int) -> np.ndarray:
    return memory[: rows * columns].reshape(rows, columns)


class Resizer:
    """Antialiased bicubic resizing of frames of one size, in buffers that are allocated once.

    Args:
        old: Height and width of the frames.
        new: Height and width after resizing.
        strip_bytes: Bytes of float32 pixels that are resized at a time.
    """

    def __init__(
        self, old: tuple[int, int], new: tuple[int, int], strip_bytes: int = STRIP_BYTES
    ) -> None:
        self.old, self.new = old, new
        frame_bytes = 12 * max(old[0], new[0]) * max(old[1], new[1])  # of three float32 colours
        height = -(-new[0] // -(-frame_bytes // strip_bytes))
        spans = [(i, min(i + height, new[0])) for i in range(0, new[0], height)]
        input_rows = max(
            _bands(old[0], new[0], *s)[-1][1].stop - _bands(old[0], new[0], *s)[0][1].start
            for s in spans
        )
        buffer_a = np.empty(3 * old[1] * max(input_rows, height), np.float32)
        buffer_b = np.empty(3 * height * max(old[1], new[1]), np.float32)
        rounded = np.empty(3 * height * new[1], np.uint8)
        self._strips = [_Strip(old, new, span, buffer_a, buffer_b, rounded) for span in spans]

    def __call__(self, frame: np.ndarray, out: np.ndarray) -> None:
        """Resize a frame, rounding to integers.

        Args:
            frame: uint8 [H, W, 3]; its rows may be padded in memory.
            out: uint8 [3, h, w], with each [h, w] contiguous; receives the result.
        """
        import cv2

        if self.old == self.new:
            cv2.split(frame, list(out))
            return
        for strip in self._strips:
            rows_in = frame[strip.source]
            np.copyto(strip.values.reshape(rows_in.shape), rows_in)
            for weights, values, rows in strip.vertical:
                np.matmul(weights, values, out=rows)
            # Transposed, so that both passes combine rows of a matrix, which are contiguous.
            cv2.transpose(strip.rows, strip.transposed)
            for weights, values, columns in strip.horizontal:
                np.matmul(weights, values, out=columns)
            # Rounds half to even and saturates, in one pass.
            cv2.addWeighted(strip.columns, 1.0, strip.columns, 0.0, 0.0, strip.rounded, cv2.CV_8U)
            for colour, plane in zip(strip.planes, out, strict=True):
                cv2.transpose(colour, plane[strip.target])


def resize(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Antialiased bicubic resize, rounded to uint8.

    Args:
        frames: uint8 [F, H, W, 3].
        size: Height and width of the result.

    Returns:
        uint8 [F, height, width, 3], within 1/255 of the released pipeline. In memory, the colours are
        separate planes, which is the order that `patchify` reads.
    """
    if frames.shape[1:3] == tuple(size):
        return frames
    resizer = Resizer(frames.shape[1:3], size)
    planes = np.empty((len(frames), 3, *size), np.uint8)
    for frame, out in zip(frames, planes, strict=True):
        resizer(frame, out)
    return planes.transpose(0, 2, 3, 1)


def patchify(frames: np.ndarray, patch: int = PATCH) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Cut frames into patches that span two frames.

    Args:
        frames: uint8 [F, H, W, 3], F even, H and W multiples of two patches.
        patch: Pixels along one side of a patch.

    Returns:
        (uint8 [t * h * w, P], (t, h, w)): the patches, frame pair by frame pair, with each 2x2 block
        that the merger fuses contiguous; the P values of a patch (1176 where it has 14 pixels a side)
        are ordered channel, frame, row, column. The grid is frame pairs, patch rows and patch columns.
    """
    import cv2

    f, height, width, _ = frames.shape
    grid = (f // TEMPORAL, height // patch, width // patch)
    planes = frames.transpose(0, 3, 1, 2)
    if not planes.flags.c_contiguous:
        planes = np.empty(planes.shape, np.uint8)
        for frame, out in zip(frames, planes, strict=True):
            for channel, plane in enumerate(out):
                cv2.extractChannel(frame, channel, plane)
    patches = np.empty((grid[0] * grid[1] * grid[2], CHANNELS * TEMPORAL * patch**2), np.uint8)
    patchify_planes(planes, patches, patch)
    return patches, grid


def patchify_planes(planes: np.ndarray, patches: np.ndarray, patch: int = PATCH) -> None:
    """As `patchify`, from contiguous uint8 [F, 3, H, W] into contiguous uint8 [t * h * w, P]."""
    f, _, height, width = planes.shape
    t, h, w = f // TEMPORAL, height // patch, width // patch
    # A row of a patch is copied as one item of 14 or 16 bytes.
    row = np.dtype(f"V{patch}")
    x = planes.view(row).reshape(t, TEMPORAL, CHANNELS, h // MERGE, MERGE, patch, w // MERGE, MERGE)
    out = patches.view(row).reshape(t, h // MERGE, w // MERGE, MERGE, MERGE, CHANNELS, TEMPORAL, patch)
    out[...] = x.transpose(0, 3, 6, 4, 7, 2, 1, 5)


def patch_coordinates(h: int, w: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns row and column of each patch of a frame pair in `patchify` order, int32 [h * w] each."""
    indices = np.indices((h, w), np.int32).reshape(2, h // MERGE, MERGE, w // MERGE, MERGE)
    rows, cols = indices.transpose(0, 1, 3, 2, 4).reshape(2, -1)
    return rows, cols
