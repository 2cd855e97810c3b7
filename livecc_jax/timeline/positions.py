"""Rotary positions of a conversation's tokens, in three modes.

sequential: 0, 1, 2, ... for every token, vision tokens included. The released LiveCC checkpoints were
    trained with it (a cached delta in the training code prevented 3-D positions).
hybrid: 3-D positions up to the first answer, 1-D afterwards, as in the released streaming demo.
mrope: 3-D positions everywhere (M-RoPE, Qwen2-VL section 2.1), for new training runs.

After a video or an image, text continues from the largest of the three axes plus one, as in
transformers 4.50 to 4.57. transformers 5 uses only height and width, which differs when a video has
more frame pairs than half its longer side in patches (docs/positions.md).

Families differ in how a video is placed. In Qwen2-VL each frame pair is one temporal position after the
pair before; in Qwen2.5-VL positions follow absolute time (arXiv 2502.13923, section 2.1.3); in Qwen3-VL
each pair is a visual of its own, with text between, so that time stands in the text alone.
"""

from __future__ import annotations

import numpy as np

from livecc_jax.errors import ConfigError
from livecc_jax.families import DEFAULT
from livecc_jax.families.family import Family
from livecc_jax.families.qwen2_vl import MERGE
from livecc_jax.text.tokenizer import SpecialTokens
from livecc_jax.timeline.position_modes import POSITION_MODES


def check_positions(mode: str, family: Family) -> None:
    """Raises ConfigError when a family does not have a position mode.

    `hybrid` reproduces the released LiveCC demo, which is Qwen2-VL.
    """
    if mode == "hybrid" and family is not DEFAULT:
        raise ConfigError(
            f"positions 'hybrid' are those of the released {DEFAULT.name} demo; {family.name} has "
            "'mrope' and 'sequential'"
        )


def token_positions(
    tokens: np.ndarray,
    grids: np.ndarray,
    special: SpecialTokens,
    mode: str,
    start: int = 0,
    family: Family = DEFAULT,
    pair_positions: int | None = None,
) -> tuple[np.ndarray, int]:
    """Returns the positions of tokens that follow `start` earlier positions.

    Args:
        tokens: int32 [T], token ids.
        grids: int [n, 3], frame pairs, patch rows and patch columns of each video or image, in order.
        special: Ids of the special tokens.
        mode: One of POSITION_MODES. `hybrid` finds the first answer in `tokens`, so it needs a whole
            conversation; a stream uses `mrope` for its first turn and `sequential` for later turns.
        start: Position of the first token.
        family: The model's family.
        pair_positions: Temporal positions from a frame pair to the next; None is the family's.

    Returns:
        (int32 [3, T] temporal, height and width positions; position of the next token).

    Raises:
        ValueError: The mode is unknown, or the grids do not match the vision tokens.
    """
    if mode not in POSITION_MODES:
        raise ValueError(f"positions {mode!r} is not one of {', '.join(POSITION_MODES)}")
    vision = np.flatnonzero((tokens == special.video_pad) | (tokens == special.image_pad))
    step = family.pair_positions if pair_positions is None else pair_positions
    if family.timestamps:
        grids = np.array([(1, h, w) for t, h, w in grids for _ in range(t)], int).reshape(-1, 3)
    sizes = [int(t) * (int(h) // MERGE) * (int(w) // MERGE) for t, h, w in grids]
    if sum(sizes) != len(vision):
        raise ValueError(f"grids make {sum(sizes)} vision tokens, but there are {len(vision)}")
    end_of_3d = len(tokens)  # tokens from here on have 1-D positions
    if mode == "sequential":
        end_of_3d = 0
    elif mode == "hybrid":
        headers = np.flatnonzero(tokens == special.im_start)  # system, user, assistant, ...
        end_of_3d = int(headers[2]) if len(headers) > 2 else end_of_3d

    spans: list[np.ndarray] = []
    num_done, position, vision_done = 0, start, 0
    for grid, size in zip(grids, sizes):
        first = int(vision[vision_done])
        vision_done += size
        if first >= end_of_3d:
            break
        spans.append(_sequential(position, first - num_done))
        position += first - num_done
        t, h, w = (int(x) for x in grid)
        shape = (t, h // MERGE, w // MERGE)
        offsets = np.indices(shape, np.int32).reshape(3, -1)
        offsets[0] *= step
        spans.append(position + offsets)
        position += max((t - 1) * step + 1, *shape[1:])
        num_done = first + size
    spans.append(_sequential(position, len(tokens) - num_done))
    return np.concatenate(spans, axis=1).astype(np.int32), position + len(tokens) - num_done


def _sequential(start: int, length: int) -> np.ndarray:
    """Returns int32 [3, length]: start, start + 1, ... on every axis."""
    return np.broadcast_to(np.arange(start, start + length, dtype=np.int32), (3, length))
