"""Rotary positions of a conversation's tokens, in three modes.

sequential: 0, 1, 2, ... for every token, vision included: what the released LiveCC checkpoints were
    trained with (a cached delta in the training code kept 3-D positions from being computed).
hybrid: 3-D up to the first answer, 1-D afterwards: what the released streaming demo computes.
mrope: 3-D everywhere (M-RoPE, Qwen2-VL section 2.1): for new training runs.

After a picture, text continues from the largest of the three axes plus one, as in transformers 4.50
(5.x looks at height and width only, which differs when a video has more frame pairs than half its
longer side in patches).
"""

from __future__ import annotations

import numpy as np

from livecc_jax.families.qwen2_vl import MERGE
from livecc_jax.text.tokenizer import SpecialTokens
from livecc_jax.timeline.position_modes import POSITION_MODES


def token_positions(
    tokens: np.ndarray, grids: np.ndarray, special: SpecialTokens, mode: str, start: int = 0
) -> tuple[np.ndarray, int]:
    """Positions of tokens that follow `start` earlier positions.

    Args:
        tokens: int32 [T].
        grids: int [n, 3], (frame pairs, rows, columns) in patches of each video or image in order.
        special: ids of the structural tokens.
        mode: one of MODES. `hybrid` finds the first answer in `tokens`, so give it a whole
            conversation; a stream calls with `mrope` for its first turn and `sequential` after.
        start: the first token's position.

    Returns:
        (int32 [3, T] temporal, height and width positions, position of the next token).

    Raises:
        ValueError: an unknown mode, or grids that do not account for the vision tokens.
    """
    if mode not in POSITION_MODES:
        raise ValueError(f"positions {mode!r} is not one of {', '.join(POSITION_MODES)}")
    vision = np.flatnonzero((tokens == special.video_pad) | (tokens == special.image_pad))
    sizes = [int(t) * (int(h) // MERGE) * (int(w) // MERGE) for t, h, w in grids]
    if sum(sizes) != len(vision):
        raise ValueError(f"grids make {sum(sizes)} vision tokens, but there are {len(vision)}")
    limit = len(tokens)  # tokens from here on are 1-D
    if mode == "sequential":
        limit = 0
    elif mode == "hybrid":
        headers = np.flatnonzero(tokens == special.im_start)  # system, user, assistant, ...
        limit = int(headers[2]) if len(headers) > 2 else limit

    pieces: list[np.ndarray] = []
    done, at, seen = 0, start, 0
    for grid, size in zip(grids, sizes):
        first = int(vision[seen])
        seen += size
        if first >= limit:
            break
        pieces.append(_line(at, first - done))
        at += first - done
        t, h, w = (int(x) for x in grid)
        shape = (t, h // MERGE, w // MERGE)
        pieces.append(at + np.indices(shape, np.int32).reshape(3, -1))
        at += max(shape)
        done = first + size
    pieces.append(_line(at, len(tokens) - done))
    return np.concatenate(pieces, axis=1).astype(np.int32), at + len(tokens) - done


def _line(start: int, length: int) -> np.ndarray:
    """[3, length]: start, start + 1, ... on every axis."""
    return np.broadcast_to(np.arange(start, start + length, dtype=np.int32), (3, length))
