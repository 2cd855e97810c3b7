"""Metrics of commentary that need no judge: is it said in time, is silence kept, does it repeat itself.

Formulas are in docs/evaluation.md. Times are integer microseconds. A word of the reference is due at
its end, as in training; a word of a prediction is said when its turn's last frame has been seen.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from livecc_jax.evaluate.metrics.perplexity import Forced, pooled
from livecc_jax.timeline.example import Word
from livecc_jax.timeline.turns import turn_span

WINDOW_US = 10_000_000  # a word said further than this from when it was due is another word
GUARD_US = 1_000_000  # quiet for false alarms: nothing due this long before or after
FRAME_US = 500_000  # between frames at 2 FPS
NGRAM = 4
_BIG = 10**12  # a match outweighs any sum of time differences


@dataclass(frozen=True)
class SaidTurn:
    """What a prediction says in one turn; text without ` ...`; at: when, if that is known better."""

    start_us: int
    stop_us: int
    text: str
    at: int | None = None

    @property
    def said_us(self) -> int:
        """When its last frame has been seen: at 2 FPS half a second before the turn's nominal end."""
        return self.stop_us - FRAME_US if self.at is None else self.at


@dataclass(frozen=True)
class Reference:
    """A clip's transcript. previous: what was said before it; video: its file, where that is known."""

    id: str
    start_us: int
    end_us: int
    words: tuple[Word, ...]
    previous: str = ""
    video: str = ""


@dataclass(frozen=True)
class Match:
    """A predicted word that is a reference word; late by so much (early if negative)."""

    text: str
    said_us: int
    due_us: int

    @property
    def lateness_us(self) -> int:
        """Said minus due."""
        return self.said_us - self.due_us


@dataclass
class ClipCounts:
    """What one clip adds to every metric.

    Counts ending in _us are microseconds. turns, matches and reference are kept for plots. forced: what
    the reference costs the model, where that was computed.
    """

    id: str
    seconds: float
    reference_words: int
    said_words: int
    matches: list[Match]
    quiet_us: int  # nothing due
    silent_us: int  # nothing said
    both_us: int  # neither
    guarded_us: int  # nothing due, with the guard
    false_alarms: int  # words said then
    ngrams: int
    distinct_ngrams: int
    whole_us: int
    turns: list[SaidTurn]
    reference: Reference
    forced: Forced | None = None


def normal_words(text: str) -> list[str]:
    """Lower-case words without punctuation; an apostrophe inside a word stays."""
    return re.findall(r"[^\W_]+(?:['’][^\W_]+)*", text.lower())


def match_words(said: Sequence[tuple[str, int]], due: Sequence[tuple[str, int]]) -> list[Match]:
    """Align two word sequences in order.

    The most equal words, none further than WINDOW_US from when it was due; among such alignments the
    one with the smallest sum of time differences.

    Args:
        said: (normal word, microseconds) in order.
        due: likewise.
    """
    n, m = len(said), len(due)
    if not n or not m:
        return []
    names = {w: i for i, w in enumerate({w for w, _ in (*said, *due)})}
    due_ids = np.array([names[w] for w, _ in due])
    due_us = np.array([t for _, t in due], np.int64)
    best = np.zeros((n + 1, m + 1), np.int64)
    for i, (word, at) in enumerate(said):
        apart = np.abs(due_us - at)
        gain = np.where((due_ids == names[word]) & (apart <= WINDOW_US), _BIG - apart, 0)
        taken = np.where(gain > 0, best[i, :-1] + gain, 0)
        best[i + 1, 1:] = np.maximum.accumulate(np.maximum(best[i, 1:], taken))
    matches, i, j = [], n, m
    while i and j:
        if best[i, j] == best[i - 1, j]:
            i -= 1
        elif best[i, j] == best[i, j - 1]:
            j -= 1
        else:
            i, j = i - 1, j - 1
            matches.append(Match(said[i][0], said[i][1], due[j][1]))
    return matches[::-1]


def count_clip(
    reference: Reference, turns: Sequence[SaidTurn], forced: Forced | None = None
) -> ClipCounts:
    """Count one clip.

    Args:
        reference: its transcript.
        turns: what was said, in order; turns outside the clip are left out.
        forced: what the transcript costs the model.
    """
    covered = [t for t in turns if reference.start_us < t.stop_us and t.start_us < reference.end_us]
    due = [(w, word.end_us) for word in reference.words for w in normal_words(word.text)]
    said = [(w, t.said_us) for t in covered for w in normal_words(t.text)]
    said_us = np.minimum(np.array([t for _, t in said], np.int64), reference.end_us)
    due_us = np.array([t for _, t in due], np.int64)
    starts = np.array([w.start_us for w in reference.words], np.int64)
    ends = np.array([w.end_us for w in reference.words], np.int64)
    grid = heard_spans(reference)
    quiet = silent = both = guarded = alarms = 0
    for start, stop in grid:
        length = stop - start
        words = int(((said_us > start) & (said_us <= stop)).sum())
        is_quiet = not ((due_us > start) & (due_us <= stop)).any()
        quiet += length * is_quiet
        silent += length * (words == 0)
        both += length * (is_quiet and words == 0)
        if not ((ends > start - GUARD_US) & (starts < stop + GUARD_US)).any():
            guarded += length
            alarms += words
    grams, distinct = repeated([w for w, _ in said])
    return ClipCounts(
        reference.id,
        (reference.end_us - reference.start_us) / 1e6,
        len(due),
        len(said),
        match_words(said, due),
        quiet,
        silent,
        both,
        guarded,
        alarms,
        grams,
        distinct,
        reference.end_us - reference.start_us,
        covered,
        reference,
        forced,
    )


def repeated(words: Sequence[str], n: int = NGRAM) -> tuple[int, int]:
    """(n-grams, distinct n-grams) of a text."""
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return len(grams), len(set(grams))


def turns_of(reference: Reference) -> list[tuple[int, int]]:
    """The streaming turns of a clip: three seconds, then one each, the last cut at the clip's end.

    The same for every method, so that all are measured against the same quiet time.
    """
    spans, number = [], 0
    while True:
        start, stop = (reference.start_us + t for t in turn_span(number))
        if start >= reference.end_us:
            return spans
        spans.append((start, min(stop, reference.end_us)))
        number += 1


def heard_spans(reference: Reference) -> list[tuple[int, int]]:
    """For each turn, after when and until when a word must end to be its word, as in training.

    From the last frame of the turn before to the turn's own; the first and last reach to the clip's
    ends, so that the spans are the clip.
    """
    edges = [stop - FRAME_US for _, stop in turns_of(reference)[:-1]]
    edges = [reference.start_us, *edges, reference.end_us]
    return [(a, b) for a, b in pairwise(edges) if b > a]


# name: (unit, whether larger is better; None: neither)
METRICS: dict[str, tuple[str, bool | None]] = {
    "word F1": ("%", True),
    "word precision": ("%", True),
    "word recall": ("%", True),
    "lateness, median": ("s", None),
    "lateness, 90th percentile": ("s", False),
    "words a second": ("1/s", None),
    "silence precision": ("%", True),
    "silence recall": ("%", True),
    "seconds told right": ("%", True),
    "false alarms a quiet minute": ("1/min", False),
    "repeated 4-grams": ("%", False),
    "perplexity, reference's words": ("a token", False),
    "perplexity, reference's turns": ("a token", False),
}


def summarize(clips: Sequence[ClipCounts]) -> dict[str, float]:
    """Every metric over clips, pooled; nan where nothing is there to divide by."""
    matched = sum(len(c.matches) for c in clips)
    said, due = sum(c.said_words for c in clips), sum(c.reference_words for c in clips)
    late = np.array([m.lateness_us for c in clips for m in c.matches], np.float64) / 1e6
    span = sum(c.seconds for c in clips)
    quiet, silent = sum(c.quiet_us for c in clips), sum(c.silent_us for c in clips)
    both = sum(c.both_us for c in clips)
    whole = sum(c.whole_us for c in clips)
    guarded = sum(c.guarded_us for c in clips)
    grams, distinct = sum(c.ngrams for c in clips), sum(c.distinct_ngrams for c in clips)
    cost = pooled(t for c in clips if c.forced for t in c.forced.turns)
    return {
        "word F1": 100 * _over(2 * matched, said + due),
        "word precision": 100 * _over(matched, said),
        "word recall": 100 * _over(matched, due),
        "lateness, median": float(np.median(late)) if len(late) else math.nan,
        "lateness, 90th percentile": float(np.quantile(late, 0.9)) if len(late) else math.nan,
        "words a second": _over(said, span),
        "silence precision": 100 * _over(both, silent),
        "silence recall": 100 * _over(both, quiet),
        "seconds told right": 100 * _over(whole - quiet - silent + 2 * both, whole),
        "false alarms a quiet minute": _over(sum(c.false_alarms for c in clips), guarded / 60e6),
        "repeated 4-grams": 100 * (1 - _over(distinct, grams)),
        "perplexity, reference's words": cost.word_perplexity,
        "perplexity, reference's turns": cost.perplexity,
    }


def _over(a: float, b: float) -> float:
    return a / b if b else math.nan
