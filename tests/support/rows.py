"""Packed rows built in a slow and simple way, independently of livecc_jax.data."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from livecc_jax.model.presets import preset

VISION_START, VISION_END, VIDEO_PAD, IM_END = 100, 101, 102, 103
VOCAB = 128
TINY = preset("tiny")
MODEL = dataclasses.replace(TINY, text=dataclasses.replace(TINY.text, vocab_size=VOCAB))
SHAPE = {"tokens": 128, "windows": 6, "patches": 48, "targets": 40}


@dataclass
class Segment:
    """One example: its tokens, which of them are targets, and the patches of its videos."""

    tokens: np.ndarray  # int32 [T]
    supervised: np.ndarray  # bool [T]
    positions: np.ndarray  # int32 [3, T]
    videos: list  # of (uint8 [pairs, rows * cols, 1176], rows, cols)


def patch_coordinates(rows, cols):
    """Row and column of each patch, in the order in which each 2x2 block is contiguous."""
    order = [
        (2 * r + i, 2 * c + j)
        for r in range(rows // 2)
        for c in range(cols // 2)
        for i in range(2)
        for j in range(2)
    ]
    return np.array(order).T


def random_segment(rng, turns=2, grid=(4, 6), pairs=1, text=5):
    """A conversation of `turns` turns, each with a video and some supervised words."""
    tokens, supervised, videos, positions = [], [], [], []
    position = 0

    def append(ids, is_target):
        nonlocal position
        for i in ids:
            tokens.append(i)
            supervised.append(is_target)
            positions.append((position, position, position))
            position += 1

    rows, cols = grid
    for _ in range(turns):
        append([*rng.integers(0, 90, 3), VISION_START], False)
        start = position
        for p in range(pairs):
            for r in range(rows // 2):
                for c in range(cols // 2):
                    tokens.append(VIDEO_PAD)
                    supervised.append(False)
                    positions.append((start + p, start + r, start + c))
        position = max(max(x) for x in positions) + 1
        append([VISION_END, 5], False)
        append([*rng.integers(0, 90, text), IM_END], True)
        append([6], False)
        videos.append((rng.integers(0, 256, (pairs, rows * cols, 1176), dtype=np.uint8), rows, cols))
    return Segment(
        np.array(tokens, np.int32), np.array(supervised), np.array(positions, np.int32).T, videos
    )


def pack(segments, tokens, windows, patches, targets, weighting="token", video_pad=VIDEO_PAD):
    """One packed row [1, ...]: each frame pair in a window of its own unless two fit."""
    values = next((video.shape[-1] for s in segments for video, _, _ in s.videos), 1176)
    row = {
        "tokens": np.zeros(tokens, np.int32),
        "segment_ids": np.zeros(tokens, np.int32),
        "positions": np.zeros((3, tokens), np.int32),
        "patches": np.zeros((windows, patches, values), np.uint8),
        "patch_pairs": np.zeros((windows, patches), np.int32),
        "patch_rows": np.zeros((windows, patches), np.int32),
        "patch_cols": np.zeros((windows, patches), np.int32),
        "vision_index": np.full(tokens, -1, np.int32),
        "target_slots": np.zeros(targets, np.int32),
        "target_weights": np.zeros(targets, np.float32),
    }
    offset = window = target = 0
    for number, s in enumerate(segments, 1):
        n = len(s.tokens)
        row["tokens"][offset : offset + n] = s.tokens
        row["segment_ids"][offset : offset + n] = number
        row["positions"][:, offset : offset + n] = s.positions
        vision_slots = iter(offset + np.flatnonzero(s.tokens == video_pad))
        filled = pair_number = 0
        for video, rows, cols in s.videos:
            for pair in video:
                size = rows * cols
                if filled + size > patches:
                    window, filled, pair_number = window + 1, 0, 0
                pair_number += 1
                span = slice(filled, filled + size)
                row["patches"][window, span] = pair
                row["patch_pairs"][window, span] = pair_number
                patch_rows, patch_cols = patch_coordinates(rows, cols)
                row["patch_rows"][window, span] = patch_rows
                row["patch_cols"][window, span] = patch_cols
                for j in range(size // 4):
                    row["vision_index"][next(vision_slots)] = (window * patches + filled) // 4 + j
                filled += size
        window += 1 if s.videos else 0
        slots = offset + np.flatnonzero(s.supervised) - 1
        row["target_slots"][target : target + len(slots)] = slots
        row["target_weights"][target : target + len(slots)] = (
            1.0 if weighting == "token" else 1.0 / len(slots)
        )
        target += len(slots)
        offset += n
    assert offset <= tokens
    assert window <= windows
    return {k: v[None] for k, v in row.items()}


def stack(*rows):
    """Concatenates rows [1, ...] to a batch [B, ...]."""
    return {k: np.concatenate([r[k] for r in rows]) for k in rows[0]}
