"""Metrics of commentary that need no judge: words, onset errors, silence, repetition, perplexity.

Formulas are in docs/evaluation.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from livecc_jax.evaluate.metrics.commentary import ClipCounts
from livecc_jax.evaluate.metrics.perplexity import pool_turns
from livecc_jax.evaluate.metrics.statistics import Interval, percentile_interval

# Name: (unit, whether a larger value is better; None where neither is).
# The names are keys of reports, so they do not change: "lateness" is the onset error of matched words,
# "seconds told right" the accuracy of speech activity (both speak or both are silent), "false alarms a
# quiet minute" the rate of words that are predicted in silence. A trigger is a moment at which speech
# begins after a pause. Perplexities are teacher-forced.
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
    "trigger F1": ("%", True),
    "trigger delay, median": ("s", None),
    "trigger delay, 90th percentile": ("s", False),
    "false alarms a quiet minute": ("1/min", False),
    "repeated 4-grams": ("%", False),
    "perplexity, reference's words": ("a token", False),
    "perplexity, reference's turns": ("a token", False),
}


def compute_metrics(clips: Sequence[ClipCounts]) -> dict[str, float]:
    """Returns every metric by its name in METRICS, pooled over clips; nan where a denominator is 0."""
    matched = sum(len(c.matches) for c in clips)
    predicted = sum(c.predicted_words for c in clips)
    due = sum(c.reference_words for c in clips)
    onset_errors_s = np.array([m.onset_error_us for c in clips for m in c.matches], np.float64) / 1e6
    reference_silence = sum(c.reference_silence_us for c in clips)
    predicted_silence = sum(c.predicted_silence_us for c in clips)
    matched_silence = sum(c.matched_silence_us for c in clips)
    duration = sum(c.duration_us for c in clips)
    # Time in which both speak or both are silent, by inclusion and exclusion.
    agreeing = duration - reference_silence - predicted_silence + 2 * matched_silence
    guarded_minutes = sum(c.guarded_silence_us for c in clips) / 60e6
    distinct, ngrams = sum(c.distinct_ngrams for c in clips), sum(c.ngrams for c in clips)
    perplexity = pool_turns(t for c in clips if c.teacher_forced for t in c.teacher_forced.turns)
    triggers = sum(len(c.trigger_delays_us) for c in clips)
    onsets = sum(c.reference_onsets + c.predicted_onsets for c in clips)
    delays_s = np.array([d for c in clips for d in c.trigger_delays_us], np.float64) / 1e6
    some = len(onset_errors_s) > 0
    return {
        "word F1": 100 * _ratio(2 * matched, predicted + due),
        "word precision": 100 * _ratio(matched, predicted),
        "word recall": 100 * _ratio(matched, due),
        "lateness, median": float(np.median(onset_errors_s)) if some else math.nan,
        "lateness, 90th percentile": float(np.quantile(onset_errors_s, 0.9)) if some else math.nan,
        "words a second": _ratio(predicted, sum(c.seconds for c in clips)),
        "silence precision": 100 * _ratio(matched_silence, predicted_silence),
        "silence recall": 100 * _ratio(matched_silence, reference_silence),
        "seconds told right": 100 * _ratio(agreeing, duration),
        "trigger F1": 100 * _ratio(2 * triggers, onsets),
        "trigger delay, median": float(np.median(delays_s)) if triggers else math.nan,
        "trigger delay, 90th percentile": float(np.quantile(delays_s, 0.9)) if triggers else math.nan,
        "false alarms a quiet minute": _ratio(sum(c.false_alarms for c in clips), guarded_minutes),
        "repeated 4-grams": 100 * (1 - _ratio(distinct, ngrams)),
        "perplexity, reference's words": perplexity.word_perplexity,
        "perplexity, reference's turns": perplexity.perplexity,
    }


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan


def bootstrap_intervals(clips: list[ClipCounts], resamples: int, seed: int) -> dict[str, Interval]:
    """Returns the 95% bootstrap interval of every metric, resampling clips; empty for a single clip."""
    if len(clips) < 2:
        return {}
    rng = np.random.default_rng(seed)
    samples = [
        compute_metrics([clips[i] for i in rng.integers(0, len(clips), len(clips))])
        for _ in range(resamples)
    ]
    return {name: percentile_interval(np.array([s[name] for s in samples])) for name in METRICS}
