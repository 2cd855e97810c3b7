"""One clip of commentary: reference, predicted turns, and the counts that every metric is made of.

Formulas are in docs/evaluation.md. Times are integer microseconds in the video. A reference word is due
at its end, as in training; a predicted word is emitted at the last frame of its turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from livecc_jax.evaluate.metrics.perplexity import TeacherForcedClip
from livecc_jax.evaluate.metrics.triggers import TRIGGER_WINDOW_US, match_times, speech_onsets
from livecc_jax.evaluate.metrics.word_alignment import WordMatch, align_words, normalize_words
from livecc_jax.timeline.example import Word
from livecc_jax.timeline.turns import turn_span

FALSE_ALARM_GUARD_US = 1_000_000  # a false alarm has no reference word this long before or after it
FRAME_INTERVAL_US = 500_000  # 2 FPS
NGRAM = 4


@dataclass(frozen=True)
class PredictedTurn:
    """The text that a model generates in one turn.

    Attributes:
        start_us: Start of the turn, microseconds.
        stop_us: End of the turn, microseconds.
        text: Generated words, without the silence mark ` ...`.
        recorded_us: When the words were emitted, if the prediction records it.
    """

    start_us: int
    stop_us: int
    text: str
    recorded_us: int | None = None

    @property
    def emitted_us(self) -> int:
        """When the words are emitted: by default at the turn's last frame, which at 2 FPS is half a
        second before the nominal end of the turn."""
        return self.stop_us - FRAME_INTERVAL_US if self.recorded_us is None else self.recorded_us


@dataclass(frozen=True)
class Reference:
    """The human commentary of a clip.

    Attributes:
        id: Identifier of the clip.
        start_us: Start of the clip in its video, microseconds.
        end_us: End of the clip.
        words: Timed words in order.
        previous: Commentary before the clip.
        video: Path of the video file; empty if it is not known.
    """

    id: str
    start_us: int
    end_us: int
    words: tuple[Word, ...]
    previous: str = ""
    video: str = ""


@dataclass
class ClipCounts:
    """What one clip adds to every metric; attributes ending in _us are microseconds.

    Attributes:
        id: Identifier of the clip.
        seconds: Length of the clip.
        reference_words: Number of normalized reference words.
        predicted_words: Number of normalized predicted words.
        matches: Aligned words.
        reference_silence_us: Time in which no reference word is due.
        predicted_silence_us: Time in which no word is predicted.
        matched_silence_us: Time in which both are silent.
        guarded_silence_us: Time without a reference word, the guard included.
        false_alarms: Number of words predicted in the guarded silence.
        ngrams: Number of n-grams of the prediction.
        distinct_ngrams: Number of different n-grams of the prediction.
        duration_us: Length of the clip.
        reference_onsets: Number of times at which the reference begins to speak.
        predicted_onsets: Number of times at which the prediction begins to speak.
        trigger_delays_us: For each pair of onsets, how much later the prediction's is.
        turns: Predicted turns, for plots.
        reference: The reference, for plots.
        teacher_forced: Cost of the reference's tokens, if it was computed.
    """

    id: str
    seconds: float
    reference_words: int
    predicted_words: int
    matches: list[WordMatch]
    reference_silence_us: int
    predicted_silence_us: int
    matched_silence_us: int
    guarded_silence_us: int
    false_alarms: int
    ngrams: int
    distinct_ngrams: int
    duration_us: int
    reference_onsets: int
    predicted_onsets: int
    trigger_delays_us: list[int]
    turns: list[PredictedTurn]
    reference: Reference
    teacher_forced: TeacherForcedClip | None = None


def count_clip(
    reference: Reference,
    turns: Sequence[PredictedTurn],
    teacher_forced: TeacherForcedClip | None = None,
) -> ClipCounts:
    """Counts one clip.

    Args:
        reference: Human commentary of the clip.
        turns: Predicted turns in order; turns outside the clip are ignored.
        teacher_forced: Cost of the reference's tokens, if it was computed.
    """
    turns = [t for t in turns if reference.start_us < t.stop_us and t.start_us < reference.end_us]
    due = [(w, word.end_us) for word in reference.words for w in normalize_words(word.text)]
    predicted = [(w, t.emitted_us) for t in turns for w in normalize_words(t.text)]
    emitted_us = np.minimum(np.array([t for _, t in predicted], np.int64), reference.end_us)
    due_us = np.array([t for _, t in due], np.int64)
    starts = np.array([w.start_us for w in reference.words], np.int64)
    ends = np.array([w.end_us for w in reference.words], np.int64)
    reference_silence = predicted_silence = matched_silence = guarded_silence = false_alarms = 0
    for start, stop in word_spans_by_turn(reference):
        length = stop - start
        words = int(((emitted_us > start) & (emitted_us <= stop)).sum())
        is_silent = not ((due_us > start) & (due_us <= stop)).any()
        reference_silence += length * is_silent
        predicted_silence += length * (words == 0)
        matched_silence += length * (is_silent and words == 0)
        guard = FALSE_ALARM_GUARD_US
        if not ((ends > start - guard) & (starts < stop + guard)).any():
            guarded_silence += length
            false_alarms += words
    ngrams, distinct_ngrams = count_ngrams([w for w, _ in predicted])
    reference_onsets, predicted_onsets = speech_onsets(due_us), speech_onsets(emitted_us)
    triggers = match_times(predicted_onsets, reference_onsets, TRIGGER_WINDOW_US)
    return ClipCounts(
        id=reference.id,
        seconds=(reference.end_us - reference.start_us) / 1e6,
        reference_words=len(due),
        predicted_words=len(predicted),
        matches=align_words(predicted, due),
        reference_silence_us=reference_silence,
        predicted_silence_us=predicted_silence,
        matched_silence_us=matched_silence,
        guarded_silence_us=guarded_silence,
        false_alarms=false_alarms,
        ngrams=ngrams,
        distinct_ngrams=distinct_ngrams,
        duration_us=reference.end_us - reference.start_us,
        reference_onsets=len(reference_onsets),
        predicted_onsets=len(predicted_onsets),
        trigger_delays_us=[int(predicted_onsets[i] - reference_onsets[j]) for i, j in triggers],
        turns=turns,
        reference=reference,
        teacher_forced=teacher_forced,
    )


def count_ngrams(words: Sequence[str], n: int = NGRAM) -> tuple[int, int]:
    """Returns (number of n-grams, number of different n-grams) of a text."""
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return len(grams), len(set(grams))


def turn_spans(reference: Reference) -> list[tuple[int, int]]:
    """Returns the streaming turns of a clip, (start, end) in microseconds.

    The first turn has three seconds, the others one each, and the last ends with the clip. They are the
    same for every method, so all methods are measured against the same silence.
    """
    spans, number = [], 0
    while True:
        start, stop = (reference.start_us + t for t in turn_span(number))
        if start >= reference.end_us:
            return spans
        spans.append((start, min(stop, reference.end_us)))
        number += 1


def word_spans_by_turn(reference: Reference) -> list[tuple[int, int]]:
    """Returns, for each turn, the span (after, until] in which a word must end to belong to it.

    A span reaches from the last frame of the turn before to the turn's own last frame, as in training.
    The first and the last span reach to the ends of the clip, so the spans cover the clip.
    """
    edges = [stop - FRAME_INTERVAL_US for _, stop in turn_spans(reference)[:-1]]
    edges = [reference.start_us, *edges, reference.end_us]
    return [(a, b) for a, b in pairwise(edges) if b > a]
