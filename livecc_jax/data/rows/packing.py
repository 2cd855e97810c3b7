"""Packing: which examples share a row, decided before training starts.

Examples are packed best fit decreasing under three limits at once: tokens, vision windows and
supervised tokens of a row. The result depends only on the index, the shape of a row, the seed and the
number of epochs.
"""

from __future__ import annotations

import bisect
import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from livecc_jax.errors import DataError
from livecc_jax.families.qwen2_vl import CHANNELS, PATCH, TEMPORAL

log = logging.getLogger(__name__)

BLOCK_EXAMPLES = 1 << 15  # packed together: enough for dense rows, few enough to stay random
MAX_PACKED = 400_000_000  # examples of all epochs together: their rows take 20 GB
MAX_ROWS_TRIED = 64  # open rows that are tried for an example, beginning with the fullest


@dataclass(frozen=True)
class RowShape:
    """The limits of a packed row.

    Attributes:
        tokens: Tokens of a row, T.
        windows: Vision windows of a row, W.
        window: Patches of a vision window, S.
        targets: Supervised tokens of a row, N.
        patch: Pixels along one side of a patch.
    """

    tokens: int
    windows: int
    window: int
    targets: int
    patch: int = PATCH

    @property
    def patch_values(self) -> int:
        """Values of a patch, P."""
        return CHANNELS * TEMPORAL * self.patch**2


@dataclass(frozen=True)
class Packing:
    """Which examples share a row.

    Attributes:
        starts: int64 [R + 1]; row r holds examples members[starts[r] : starts[r + 1]].
        members: int64 [M], example numbers.
        dropped: int64 [D], numbers of examples that are larger than a row.
    """

    starts: np.ndarray
    members: np.ndarray
    dropped: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1

    def row(self, r: int) -> list[int]:
        """Returns the examples of row r."""
        return self.members[self.starts[r] : self.starts[r + 1]].tolist()


def pack_rows(
    tokens: np.ndarray,
    windows: np.ndarray,
    targets: np.ndarray,
    shape: RowShape,
    seed: int,
    epochs: int,
    choose: Callable[[int], np.ndarray] | None = None,
) -> Packing:
    """Packs every example once an epoch, or the chosen examples of each epoch.

    Args:
        tokens: int [n], tokens of each example.
        windows: int [n], vision windows of each example.
        targets: int [n], supervised tokens of each example.
        shape: Limits of a row.
        seed: Seed of the assignment to rows and of the order of rows.
        epochs: Number of epochs, each packed and ordered anew.
        choose: Returns the examples of epoch 0, 1, ...; an example may occur several times.

    Raises:
        DataError: No example fits a row, or no example is chosen.
    """
    sizes = np.stack([tokens, windows, targets], axis=1).astype(np.int64)
    limits = np.array([shape.tokens, shape.windows, shape.targets])
    too_large = np.any(sizes > limits, axis=1)
    dropped = np.flatnonzero(too_large)
    fitting = np.flatnonzero(~too_large)
    if not len(fitting):
        shortest = sizes[np.argmin(sizes[:, 0])].tolist()
        raise DataError(
            f"no example fits a row of {shape.tokens} tokens, {shape.windows} windows and "
            f"{shape.targets} targets; the shortest takes {' and '.join(map(str, shortest))}"
        )
    if len(dropped):
        log.warning(
            "%d of %d examples are larger than a row of %d tokens, %d windows, %d targets: left out",
            len(dropped), len(sizes), shape.tokens, shape.windows, shape.targets,
        )  # fmt: skip
    rows: list[list[int]] = []
    for epoch in range(epochs):
        rng = np.random.default_rng([seed, epoch])
        examples = fitting
        if choose is not None:
            chosen = choose(epoch)
            examples = chosen[~too_large[chosen]]
        if epochs * len(examples) > MAX_PACKED:  # found in the first epoch, before memory is taken
            raise DataError(
                f"{epochs} epochs of {len(examples)} examples are more than the {MAX_PACKED} examples "
                "that one run can pack"
            )
        order = rng.permutation(examples)
        epoch_rows: list[list[int]] = []
        for start in range(0, len(order), BLOCK_EXAMPLES):
            epoch_rows += _best_fit(order[start : start + BLOCK_EXAMPLES], sizes, limits)
        rows += [epoch_rows[i] for i in rng.permutation(len(epoch_rows))]
    starts = np.cumsum([0, *map(len, rows)])
    if not rows:
        raise DataError("the mixture's shares are so small that no example is chosen")
    members = np.concatenate(rows).astype(np.int64)
    return Packing(starts, members, dropped)


def _best_fit(examples: np.ndarray, sizes: np.ndarray, limits: np.ndarray) -> list[list[int]]:
    """Packs examples, the largest first, each into the open row that it leaves the fewest tokens.

    An example's size is the largest share that it takes of any limit.
    """
    share = (sizes[examples] / limits).max(axis=1)
    rows: list[list[int]] = []
    free_tokens: list[tuple[int, int]] = []  # (free tokens, row), ascending
    free_others: list[tuple[int, int]] = []  # (free windows, free targets) of each row
    for i in examples[np.argsort(-share, kind="stable")].tolist():
        tokens, windows, targets = sizes[i].tolist()
        first = bisect.bisect_left(free_tokens, (tokens, -1))
        for candidate in range(first, min(first + MAX_ROWS_TRIED, len(free_tokens))):
            free, row = free_tokens[candidate]
            if free_others[row][0] >= windows and free_others[row][1] >= targets:
                del free_tokens[candidate]
                break
        else:
            free, row = int(limits[0]), len(rows)
            rows.append([])
            free_others.append((int(limits[1]), int(limits[2])))
        rows[row].append(i)
        free_others[row] = (free_others[row][0] - windows, free_others[row][1] - targets)
        bisect.insort(free_tokens, (free - tokens, row))
    return rows
