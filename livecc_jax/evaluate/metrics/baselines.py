"""Trivial commentary baselines, which a method must beat to be useful."""

from __future__ import annotations

from livecc_jax.evaluate.metrics.commentary import PredictedTurn, Reference, turn_spans

COPY_RATE = 2.5  # words a second: the middle of the 1 to 4 words a second of training clips


def silence_only(reference: Reference) -> list[PredictedTurn]:
    """Predicts no word in any turn."""
    return [PredictedTurn(start, stop, "") for start, stop in turn_spans(reference)]


def previous_copy(reference: Reference) -> list[PredictedTurn]:
    """Repeats the commentary from before the clip, at COPY_RATE, until it is used up."""
    words = reference.previous.split()
    turns, used = [], 0
    for start, stop in turn_spans(reference):
        end = int((stop - reference.start_us) / 1e6 * COPY_RATE)
        turns.append(PredictedTurn(start, stop, " ".join(words[used:end])))
        used = max(used, end)
    return turns


BASELINES = {"silence only": silence_only, "copy of the previous commentary": previous_copy}
