"""Planned packing: which examples share a row, decided before training starts.

Best fit decreasing under three budgets at once (tokens, vision windows, supervised tokens). The plan
is a function of the index, the shape and the seed alone.
"""

from __future__ import annotations

import bisect
import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from livecc_jax.errors import DataError

log = logging.getLogger(__name__)

BLOCK = 1 << 15  # examples packed together: enough for dense rows, few enough to stay random
LOOK = 64  # open rows tried, from the tightest on


@dataclass(frozen=True)
class RowShape:
    """The budgets of a row: T tokens, W windows of S patches, N targets."""

    tokens: int
    windows: int
    window: int
    targets: int


@dataclass(frozen=True)
class PackPlan:
    """Row r holds examples members[starts[r] : starts[r + 1]]; dropped ones fit no row."""

    starts: np.ndarray  # int64 [R + 1]
    members: np.ndarray  # int64
    dropped: np.ndarray  # int64, examples larger than a row

    def __len__(self) -> int:
        return len(self.starts) - 1

    def row(self, r: int) -> list[int]:
        """The examples of row r."""
        return self.members[self.starts[r] : self.starts[r + 1]].tolist()


def plan_rows(
    tokens: np.ndarray,
    windows: np.ndarray,
    targets: np.ndarray,
    shape: RowShape,
    seed: int,
    epochs: int,
    choose: Callable[[int], np.ndarray] | None = None,
) -> PackPlan:
    """Pack every example once an epoch, or those that are chosen.

    Args:
        tokens: int [n], what each example takes.
        windows: int [n].
        targets: int [n].
        shape: what a row has.
        seed: decides who shares a row, and the order of rows.
        epochs: each packed and ordered anew.
        choose: the examples of epoch 0, 1, ...; one may come several times.

    Raises:
        DataError: no example fits a row.
    """
    need = np.stack([tokens, windows, targets], axis=1).astype(np.int64)
    room = np.array([shape.tokens, shape.windows, shape.targets])
    too_large = np.any(need > room, axis=1)
    dropped = np.flatnonzero(too_large)
    fitting = np.flatnonzero(~too_large)
    if not len(fitting):
        least = need[np.argmin(need[:, 0])]
        raise DataError(
            f"no example fits a row of {shape.tokens} tokens, {shape.windows} windows and "
            f"{shape.targets} targets; the shortest takes {least[0]}, {least[1]} and {least[2]}"
        )
    if len(dropped):
        log.warning(
            "%d of %d examples are larger than a row of %d tokens, %d windows, %d targets: left out",
            len(dropped), len(need), shape.tokens, shape.windows, shape.targets,
        )  # fmt: skip
    rows: list[list[int]] = []
    for epoch in range(epochs):
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(fitting if choose is None else _those(choose(epoch), too_large))
        packed: list[list[int]] = []
        for at in range(0, len(order), BLOCK):
            packed += _best_fit(order[at : at + BLOCK], need, room)
        rows += [packed[i] for i in rng.permutation(len(packed))]
    starts = np.cumsum([0, *map(len, rows)])
    if not rows:
        raise DataError("the mixture's shares are so small that no example is taken")
    members = np.concatenate(rows).astype(np.int64)
    return PackPlan(starts, members, dropped)


def _those(chosen: np.ndarray, too_large: np.ndarray) -> np.ndarray:
    """The chosen ones that fit a row."""
    return chosen[~too_large[chosen]]


def _best_fit(examples: np.ndarray, need: np.ndarray, room: np.ndarray) -> list[list[int]]:
    """Largest first (by the budget it strains most), each into the open row it fills best."""
    strain = (need[examples] / room).max(axis=1)
    rows: list[list[int]] = []
    left: list[tuple[int, int]] = []  # (tokens left, row), ascending
    rest: list[tuple[int, int]] = []  # (windows left, targets left) of each row
    for i in examples[np.argsort(-strain, kind="stable")].tolist():
        tokens, windows, targets = need[i].tolist()
        at = bisect.bisect_left(left, (tokens, -1))
        for slot in range(at, min(at + LOOK, len(left))):
            free, row = left[slot]
            if rest[row][0] >= windows and rest[row][1] >= targets:
                del left[slot]
                break
        else:
            free, row = int(room[0]), len(rows)
            rows.append([])
            rest.append((int(room[1]), int(room[2])))
        rows[row].append(i)
        rest[row] = (rest[row][0] - windows, rest[row][1] - targets)
        bisect.insort(left, (free - tokens, row))
    return rows
