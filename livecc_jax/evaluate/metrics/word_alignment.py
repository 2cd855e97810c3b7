"""Alignment of predicted words with reference words, in order and within a time window."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WINDOW_US = 10_000_000  # words further apart in time than this are never matched
_MATCH_GAIN = 10**12  # one more match outweighs any sum of time differences


@dataclass(frozen=True)
class WordMatch:
    """A predicted word that matches a reference word.

    Attributes:
        text: The normalized word.
        emitted_us: When the prediction says it, microseconds.
        due_us: When the reference word ends, microseconds.
    """

    text: str
    emitted_us: int
    due_us: int

    @property
    def onset_error_us(self) -> int:
        """Emission time minus due time; negative if the word is said early."""
        return self.emitted_us - self.due_us


def normalize_words(text: str) -> list[str]:
    """Returns the lower-case words without punctuation; an apostrophe inside a word stays."""
    return re.findall(r"[^\W_]+(?:['’][^\W_]+)*", text.lower())


def align_words(
    predicted: Sequence[tuple[str, int]], reference: Sequence[tuple[str, int]]
) -> list[WordMatch]:
    """Aligns two word sequences in order, by dynamic programming.

    The alignment has the most equal words, none further apart than WINDOW_US; among such alignments it
    has the smallest sum of absolute time differences.

    Args:
        predicted: (normalized word, emission time in microseconds), in order.
        reference: (normalized word, due time in microseconds), in order.
    """
    n, m = len(predicted), len(reference)
    if not n or not m:
        return []
    ids = {w: i for i, w in enumerate({w for w, _ in (*predicted, *reference)})}
    reference_ids = np.array([ids[w] for w, _ in reference])
    due_us = np.array([t for _, t in reference], np.int64)
    best = np.zeros((n + 1, m + 1), np.int64)
    for i, (word, emitted_us) in enumerate(predicted):
        distance = np.abs(due_us - emitted_us)
        matches = (reference_ids == ids[word]) & (distance <= WINDOW_US)
        gain = np.where(matches, _MATCH_GAIN - distance, 0)
        with_match = np.where(gain > 0, best[i, :-1] + gain, 0)
        best[i + 1, 1:] = np.maximum.accumulate(np.maximum(best[i, 1:], with_match))
    return [
        WordMatch(predicted[i][0], predicted[i][1], reference[j][1]) for i, j in matched_pairs(best)
    ]


def matched_pairs(best: np.ndarray) -> list[tuple[int, int]]:
    """Returns the pairs of the best alignment of two sequences, in order.

    Args:
        best: [n + 1, m + 1], the largest gain of the first i and the first j elements; a pair always
            gains more than leaving both out.
    """
    i, j = best.shape[0] - 1, best.shape[1] - 1
    pairs = []
    while i and j:
        if best[i, j] == best[i - 1, j]:
            i -= 1
        elif best[i, j] == best[i, j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            pairs.append((i, j))
    return pairs[::-1]
