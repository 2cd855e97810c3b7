"""Commentary anybody can give: what a method must beat to be worth running."""

from __future__ import annotations

from livecc_jax.evaluate.metrics.commentary import Reference, SaidTurn, turns_of

COPY_RATE = 2.5  # words a second: the middle of the 1 to 4 that training clips have


def silence_only(reference: Reference) -> list[SaidTurn]:
    """Never says anything."""
    return [SaidTurn(start, stop, "") for start, stop in turns_of(reference)]


def previous_copy(reference: Reference) -> list[SaidTurn]:
    """Says again what was said before the clip, at COPY_RATE, until it runs out."""
    words = reference.previous.split()
    turns, used = [], 0
    for start, stop in turns_of(reference):
        upto = int((stop - reference.start_us) / 1e6 * COPY_RATE)
        turns.append(SaidTurn(start, stop, " ".join(words[used:upto])))
        used = max(used, upto)
    return turns


BASELINES = {"silence only": silence_only, "copy of the previous commentary": previous_copy}
