"""The packed row: several examples in arrays of fixed shape (docs/formats.md)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from livecc_jax.data.examples.encode import EncodedExample
from livecc_jax.data.rows.packing import RowShape
from livecc_jax.families import DEFAULT
from livecc_jax.families.family import Family
from livecc_jax.families.qwen2_vl import MERGED_PATCHES
from livecc_jax.media.pixels import patch_coordinates
from livecc_jax.text.tokenizer import SpecialTokens
from livecc_jax.timeline.positions import token_positions

WEIGHTINGS = ("token", "example")

Row = dict[str, np.ndarray]


def empty_row(shape: RowShape) -> Row:
    """Returns a row of padding."""
    t, w, s, n = shape.tokens, shape.windows, shape.window, shape.targets
    return {
        "tokens": np.zeros(t, np.int32),
        "segment_ids": np.zeros(t, np.int32),
        "positions": np.zeros((3, t), np.int32),
        "patches": np.zeros((w, s, shape.patch_values), np.uint8),
        "patch_pairs": np.zeros((w, s), np.int32),
        "patch_rows": np.zeros((w, s), np.int32),
        "patch_cols": np.zeros((w, s), np.int32),
        "vision_index": np.full(t, -1, np.int32),
        "target_slots": np.zeros(n, np.int32),
        "target_weights": np.zeros(n, np.float32),
    }


def build_row(
    examples: Sequence[tuple[EncodedExample, Sequence[np.ndarray]]],
    shape: RowShape,
    special: SpecialTokens,
    positions: str,
    weighting: str,
    family: Family = DEFAULT,
    pair_positions: int | None = None,
) -> Row:
    """Writes examples into a row, one after the other.

    Args:
        examples: Each example with the patches of its media, uint8 [pairs, patches_per_pair, P].
        shape: Limits of the row.
        special: Ids of the structural tokens.
        positions: Position mode.
        weighting: `token`: every supervised token weighs 1; `example`: those of an example sum to 1.
        family: The model's family.
        pair_positions: Temporal positions from a frame pair to the next; None is the family's.

    Raises:
        ValueError: The examples do not fit.
    """
    row = empty_row(shape)
    start = window = num_targets = 0
    for segment, (example, media_patches) in enumerate(examples, 1):
        encoded = example.encoded
        span = slice(start, start + example.tokens)
        row["tokens"][span] = encoded.tokens
        row["segment_ids"][span] = segment
        row["positions"][:, span], _ = token_positions(
            encoded.tokens,
            encoded.grids,
            special,
            positions,
            family=family,
            pair_positions=pair_positions,
        )
        is_vision = (encoded.tokens == special.video_pad) | (encoded.tokens == special.image_pad)
        vision_index: list[np.ndarray] = [np.zeros(0, np.int32)]
        for media, patches in zip(example.media, media_patches, strict=True):
            window, media_index = _fill_windows(row, window, shape.window, media.rows_cols, patches)
            vision_index.append(media_index)
        row["vision_index"][start + np.flatnonzero(is_vision)] = np.concatenate(vision_index)
        # A supervised token is predicted from the hidden state of the token before it.
        slots = start + np.flatnonzero(encoded.supervised) - 1
        targets = slice(num_targets, num_targets + len(slots))
        row["target_slots"][targets] = slots
        row["target_weights"][targets] = 1.0 if weighting == "token" else 1.0 / len(slots)
        start += example.tokens
        num_targets += len(slots)
    return row


def _fill_windows(
    row: Row, window: int, size: int, rows_cols: tuple[int, int], patches: np.ndarray
) -> tuple[int, np.ndarray]:
    """Writes frame pairs into the vision windows of a row, beginning with number `window`.

    Args:
        row: Row to write into.
        window: Number of the first free window.
        size: Patches of a window.
        rows_cols: Patches of a frame, vertically and horizontally.
        patches: uint8 [pairs, patches_per_pair, P].

    Returns:
        The next free window, and int32 [tokens], where the merged vision features of the row hold each
        vision token.
    """
    pairs, pair_patches = patches.shape[:2]
    window_pairs = size // pair_patches  # a pair is never divided
    rows, cols = patch_coordinates(*rows_cols)
    pair_starts = np.zeros(pairs, np.int32)
    for first in range(0, pairs, window_pairs):
        n = min(window_pairs, pairs - first)
        used = slice(0, n * pair_patches)
        row["patches"][window, used] = patches[first : first + n].reshape(n * pair_patches, -1)
        row["patch_pairs"][window, used] = np.repeat(np.arange(1, n + 1), pair_patches)
        row["patch_rows"][window, used] = np.tile(rows, n)
        row["patch_cols"][window, used] = np.tile(cols, n)
        first_patches = window * size + pair_patches * np.arange(n)
        pair_starts[first : first + n] = first_patches // MERGED_PATCHES
        window += 1
    token_offsets = np.arange(pair_patches // MERGED_PATCHES, dtype=np.int32)
    return window, (pair_starts[:, None] + token_offsets).reshape(-1)
