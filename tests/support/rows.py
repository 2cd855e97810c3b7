"""Packed rows built the slow and obvious way, independently of livecc_jax.data."""

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
    """One example: its tokens, which are targets, its pictures."""

    tokens: np.ndarray  # int32 [T]
    supervised: np.ndarray  # bool [T]
    positions: np.ndarray  # int32 [3, T]
    videos: list  # of (uint8 [pairs, rows * cols, 1176], rows, cols)


def places(rows, cols):
    """Row and column of each patch when each 2x2 block is contiguous, by four nested loops."""
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
    place = 0

    def say(ids, target):
        nonlocal place
        for i in ids:
            tokens.append(i)
            supervised.append(target)
            positions.append((place, place, place))
            place += 1

    rows, cols = grid
    for _ in range(turns):
        say([*rng.integers(0, 90, 3), VISION_START], False)
        start = place
        for p in range(pairs):
            for r in range(rows // 2):
                for c in range(cols // 2):
                    tokens.append(VIDEO_PAD)
                    supervised.append(False)
                    positions.append((start + p, start + r, start + c))
        place = max(max(x) for x in positions) + 1
        say([VISION_END, 5], False)
        say([*rng.integers(0, 90, text), IM_END], True)
        say([6], False)
        videos.append((rng.integers(0, 256, (pairs, rows * cols, 1176), dtype=np.uint8), rows, cols))
    return Segment(
        np.array(tokens, np.int32), np.array(supervised), np.array(positions, np.int32).T, videos
    )


def pack(segments, tokens, windows, patches, targets, weighting="token", video_pad=VIDEO_PAD):
    """One packed row [1, ...]: each frame pair in a window of its own unless two fit."""
    row = {
        "tokens": np.zeros(tokens, np.int32),
        "segment_ids": np.zeros(tokens, np.int32),
        "positions": np.zeros((3, tokens), np.int32),
        "patches": np.zeros((windows, patches, 1176), np.uint8),
        "patch_pairs": np.zeros((windows, patches), np.int32),
        "patch_rows": np.zeros((windows, patches), np.int32),
        "patch_cols": np.zeros((windows, patches), np.int32),
        "vision_index": np.full(tokens, -1, np.int32),
        "target_slots": np.zeros(targets, np.int32),
        "target_weights": np.zeros(targets, np.float32),
    }
    at = window = target = 0
    for number, s in enumerate(segments, 1):
        n = len(s.tokens)
        row["tokens"][at : at + n] = s.tokens
        row["segment_ids"][at : at + n] = number
        row["positions"][:, at : at + n] = s.positions
        vision_slots = iter(at + np.flatnonzero(s.tokens == video_pad))
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
                row["patch_rows"][window, span], row["patch_cols"][window, span] = places(rows, cols)
                for j in range(size // 4):
                    row["vision_index"][next(vision_slots)] = (window * patches + filled) // 4 + j
                filled += size
        window += 1 if s.videos else 0
        slots = at + np.flatnonzero(s.supervised) - 1
        row["target_slots"][target : target + len(slots)] = slots
        row["target_weights"][target : target + len(slots)] = (
            1.0 if weighting == "token" else 1.0 / len(slots)
        )
        target += len(slots)
        at += n
    assert at <= tokens
    assert window <= windows
    return {k: v[None] for k, v in row.items()}


def stack(*rows):
    """Rows [1, ...] to [B, ...]."""
    return {k: np.concatenate([r[k] for r in rows]) for k in rows[0]}
