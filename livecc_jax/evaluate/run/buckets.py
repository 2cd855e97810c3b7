"""Bucketed sizes for multiple choice and teacher forcing: arrays are padded to few distinct sizes, so
that few programs are compiled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ShapeBuckets:
    """Sizes of the programs that score multiple-choice questions.

    Attributes:
        prefill_chunk: Tokens of the shared prefix that are prefilled at a time, and the smallest
            capacity of the cache.
        max_first_chunk: Maximum tokens of the first chunk, in steps of half a `prefill_chunk`, where
            attention is fused; elsewhere the scores of a long chunk would need too much memory.
        min_question_tokens: Smallest bucket of the questions' own tokens.
        max_question_tokens: Maximum tokens of several questions that are scored in one call; a longer
            question is scored alone.
        vision_patches: Approximate number of patches that the vision tower encodes at a time.
    """

    prefill_chunk: int = 1024
    max_first_chunk: int = 32768
    min_question_tokens: int = 256
    max_question_tokens: int = 1024
    vision_patches: int = 16384


DEFAULT_BUCKETS = ShapeBuckets()


def bucket_size(size: int, smallest: int) -> int:
    """Returns the smallest of smallest * (1, 1.5, 2, 3, 4, 6, 8, 12, ...) that is at least `size`.

    Args:
        size: Size to round up.
        smallest: Smallest bucket, an even number.
    """
    bucket = smallest
    while True:
        if size <= bucket:
            return bucket
        if size <= bucket * 3 // 2:
            return bucket * 3 // 2
        bucket *= 2


def window_bucket(patches: int) -> int:
    """Rounds up the number of patches of a frame pair by a sixteenth at most: there are 16 buckets
    between two powers of two."""
    step = max(4, 1 << max(0, patches.bit_length() - 5))
    return -(-patches // step) * step


def vision_calls(frame_pairs: int, max_windows: int) -> list[tuple[int, int]]:
    """Divides the frame pairs of a video into calls of the vision tower.

    Args:
        frame_pairs: Number of frame pairs; each is a window.
        max_windows: Windows a call.

    Returns:
        (first frame pair, windows) of each call; the last call has half of `max_windows` where that is
        enough.
    """
    calls = [(first, max_windows) for first in range(0, frame_pairs, max_windows)]
    first, half = calls[-1][0], -(-max_windows // 2)
    if frame_pairs - first <= half:
        calls[-1] = first, half
    return calls


def pad_last_axis(x: np.ndarray, size: int, fill: int) -> np.ndarray:
    """Returns int32 [1, ..., size]: the array with a batch axis, padded at the end of its last axis."""
    return pad_and_stack([x], size, fill)


def pad_and_stack(arrays: Sequence[np.ndarray], size: int, fill: int) -> np.ndarray:
    """Returns int32 [B, ..., size]: B arrays, each padded at the end of its last axis."""
    pads = ([(0, 0)] * (x.ndim - 1) + [(0, size - x.shape[-1])] for x in arrays)
    return np.stack([np.pad(x, p, constant_values=fill) for x, p in zip(arrays, pads)]).astype(np.int32)
