"""The packed row: several examples side by side in arrays of fixed shape (docs/formats.md)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from livecc_jax.data.examples.example import ExamplePlan
from livecc_jax.data.rows.packing import RowShape
from livecc_jax.media.pixels import patch_places
from livecc_jax.text.tokenizer import SpecialTokens
from livecc_jax.timeline.positions import token_positions

PATCH_VALUES = 1176
WEIGHTINGS = ("token", "example")

Row = dict[str, np.ndarray]


def empty_row(shape: RowShape) -> Row:
    """A row of padding."""
    t, w, s, n = shape.tokens, shape.windows, shape.window, shape.targets
    return {
        "tokens": np.zeros(t, np.int32),
        "segment_ids": np.zeros(t, np.int32),
        "positions": np.zeros((3, t), np.int32),
        "patches": np.zeros((w, s, PATCH_VALUES), np.uint8),
        "patch_pairs": np.zeros((w, s), np.int32),
        "patch_rows": np.zeros((w, s), np.int32),
        "patch_cols": np.zeros((w, s), np.int32),
        "vision_index": np.full(t, -1, np.int32),
        "target_slots": np.zeros(n, np.int32),
        "target_weights": np.zeros(n, np.float32),
    }


def build_row(
    examples: Sequence[tuple[ExamplePlan, Sequence[np.ndarray]]],
    shape: RowShape,
    special: SpecialTokens,
    positions: str,
    weighting: str,
) -> Row:
    """Lay examples out in a row.

    Args:
        examples: (plan, patches of each of its media as uint8 [pairs, patches_per_pair, 1176]).
        shape: they fit it.
        special: ids of the structural tokens.
        positions: position mode.
        weighting: `token`: every supervised token weighs 1; `example`: those of an example sum to 1.

    Raises:
        ValueError: the examples do not fit.
    """
    row = empty_row(shape)
    at = window = target = 0
    for segment, (plan, media) in enumerate(examples, 1):
        encoded = plan.encoded
        span = slice(at, at + plan.tokens)
        row["tokens"][span] = encoded.tokens
        row["segment_ids"][span] = segment
        row["positions"][:, span], _ = token_positions(
            encoded.tokens, encoded.grids, special, positions
        )
        is_vision = (encoded.tokens == special.video_pad) | (encoded.tokens == special.image_pad)
        merged: list[np.ndarray] = []
        for item, patches in zip(plan.media, media, strict=True):
            window, places = _fill_windows(row, window, shape.window, item.rows_cols, patches)
            merged.append(places)
        row["vision_index"][at + np.flatnonzero(is_vision)] = np.concatenate(
            [np.zeros(0, np.int32), *merged]
        )
        # The hidden state before a supervised token is what predicts it.
        slots = at + np.flatnonzero(encoded.supervised) - 1
        row["target_slots"][target : target + len(slots)] = slots
        row["target_weights"][target : target + len(slots)] = (
            1.0 if weighting == "token" else 1.0 / len(slots)
        )
        at += plan.tokens
        target += len(slots)
    return row


def _fill_windows(
    row: Row, window: int, size: int, rows_cols: tuple[int, int], patches: np.ndarray
) -> tuple[int, np.ndarray]:
    """Put frame pairs into windows from `window` on: (next free window, merged index of each token)."""
    pairs, each = patches.shape[:2]
    share = size // each  # whole pairs a window holds
    rows, cols = patch_places(*rows_cols)
    starts = np.zeros(pairs, np.int32)
    for first in range(0, pairs, share):
        n = min(share, pairs - first)
        used = slice(0, n * each)
        row["patches"][window, used] = patches[first : first + n].reshape(n * each, -1)
        row["patch_pairs"][window, used] = np.repeat(np.arange(1, n + 1), each)
        row["patch_rows"][window, used] = np.tile(rows, n)
        row["patch_cols"][window, used] = np.tile(cols, n)
        starts[first : first + n] = (window * size + each * np.arange(n)) // 4
        window += 1
    return window, (starts[:, None] + np.arange(each // 4, dtype=np.int32)).reshape(-1)
