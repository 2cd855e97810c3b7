"""Compares the rotary positions that transformers gives a conversation with ours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PositionReport:
    """Result of `compare_positions`.

    Attributes:
        tokens: Number of tokens.
        differing: Indices of the tokens whose positions differ on some axis.
        largest: The largest difference of a position.
        next_ours: Our position of the token that would come next.
        next_theirs: transformers' position of it: its largest one plus one.
    """

    tokens: int
    differing: np.ndarray
    largest: int
    next_ours: int
    next_theirs: int

    @property
    def same(self) -> bool:
        """Whether these tokens, and those that would come next, have the same positions."""
        return not len(self.differing) and self.next_ours == self.next_theirs


def compare_positions(ours: np.ndarray, theirs: np.ndarray, next_ours: int) -> PositionReport:
    """Compare the positions of one conversation.

    Args:
        ours: int [3, T], temporal, height and width positions.
        theirs: int [3, T], those of transformers.
        next_ours: Our position of the next token.
    """
    difference = np.abs(ours.astype(np.int64) - theirs)
    differing = np.flatnonzero(difference.max(axis=0))
    next_theirs = int(theirs.max()) + 1  # as `generate` continues
    return PositionReport(ours.shape[1], differing, int(difference.max()), next_ours, next_theirs)
