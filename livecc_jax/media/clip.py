"""A clip as patches: decoded, resized and cut frame pair by frame pair, in the memory of two frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from livecc_jax.families.qwen2_vl import PATCH, PATCH_VALUES
from livecc_jax.media.pixels import Resizer, cut, resize
from livecc_jax.media.video import VideoInfo, iter_frames


def resized_frames(
    info: VideoInfo, indices: Sequence[int] | np.ndarray, size: tuple[int, int], threads: int = 1
) -> Iterator[np.ndarray]:
    """Frames by number, each uint8 [h, w, 3] RGB of this size; a repeated one is resized once.

    Raises MediaError, as `iter_frames` does.
    """
    before, resized = None, None
    for frame in iter_frames(info, indices, threads):
        if frame is not before:
            before, resized = frame, resize(frame[None], size)[0]
        yield resized


def clip_patches(
    info: VideoInfo, indices: Sequence[int] | np.ndarray, size: tuple[int, int], threads: int = 1
) -> tuple[np.ndarray, tuple[int, int, int]]:
    """What `patchify(resize(read_frames(info, indices), size))` gives, without holding the frames.

    Args:
        info: from `probe`.
        indices: frame numbers, ascending, an even number of them; they may repeat.
        size: height and width, multiples of 28.
        threads: of the decoder, 0 for as many as cores.

    Returns:
        (uint8 [t * h * w, 1176], (t, h, w)).

    Raises:
        MediaError: a frame cannot be decoded.
    """
    grid = (len(indices) // 2, size[0] // PATCH, size[1] // PATCH)
    patches = np.empty((grid[0], grid[1] * grid[2], PATCH_VALUES), np.uint8)
    pair = np.empty((2, 3, *size), np.uint8)
    before, resizer = None, None
    for i, frame in enumerate(iter_frames(info, indices, threads)):
        if frame is before:
            pair[i % 2] = pair[(i + 1) % 2]
        else:
            if resizer is None or resizer.old != frame.shape[:2]:
                resizer = Resizer(frame.shape[:2], size)
            resizer(frame, pair[i % 2])
        before = frame
        if i % 2:
            cut(pair, patches[i // 2])
    return patches.reshape(-1, patches.shape[-1]), grid
