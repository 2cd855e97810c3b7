"""When to speak: onsets of speech, and the delay of the first word after an event.

An onset is a word that follows a pause. Onsets need only the times of words, so these metrics serve
real transcripts as well; where the times of events are known, delays are measured from the events
themselves. Times are integer microseconds in the video. Formulas are in docs/evaluation.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from livecc_jax.evaluate.metrics.word_alignment import matched_pairs

PAUSE_US = 1_500_000  # speech that follows so much silence begins anew
TRIGGER_WINDOW_US = 3_000_000  # an onset answers one that is no further away than this
DELAY_LIMIT_US = 5_000_000  # the first word this long after an event is about something else


def speech_onsets(times_us: Sequence[int], pause_us: int = PAUSE_US) -> np.ndarray:
    """Returns the times of words that follow a pause; the first word is always one of them.

    Args:
        times_us: When words are said or due, in order.
        pause_us: Shortest pause.

    Returns:
        int64 [n], ascending.
    """
    times = np.sort(np.asarray(times_us, np.int64))
    return times[np.diff(times, prepend=times[:1] - pause_us) >= pause_us]


def match_times(
    predicted_us: Sequence[int], reference_us: Sequence[int], window_us: int
) -> list[tuple[int, int]]:
    """Pairs two ascending series of times, one with one and in order.

    Of all pairings with no pair further apart than the window, it takes one with the most pairs, and
    among those one with the smallest sum of distances.

    Args:
        predicted_us: Times, ascending.
        reference_us: Times, ascending.
        window_us: Largest distance of a pair.

    Returns:
        Pairs (index of the prediction, index of the reference), ascending.
    """
    predicted, reference = (np.asarray(x, np.int64) for x in (predicted_us, reference_us))
    n, m = len(predicted), len(reference)
    if not n or not m:
        return []
    # One more pair outweighs any sum of distances.
    gain_of_pair = np.int64(window_us + 1) * (min(n, m) + 1)
    best = np.zeros((n + 1, m + 1), np.int64)
    for i in range(n):
        distance = np.abs(reference - predicted[i])
        with_pair = np.where(distance <= window_us, best[i, :-1] + gain_of_pair - distance, 0)
        best[i + 1, 1:] = np.maximum.accumulate(np.maximum(best[i, 1:], with_pair))
    return matched_pairs(best)


def first_word_delays(
    events_us: Sequence[int], said_us: Sequence[int], limit_us: int = DELAY_LIMIT_US
) -> np.ndarray:
    """Returns how long after each event the first word is said.

    Args:
        events_us: Times of events.
        said_us: When words are said.
        limit_us: Events after which nothing is said for so long have no delay.

    Returns:
        int64 [n], microseconds; n is the number of events that are followed by a word in time.
    """
    events, said = np.asarray(events_us, np.int64), np.sort(np.asarray(said_us, np.int64))
    first = np.searchsorted(said, events, side="left")
    followed = first < len(said)
    delays = said[first[followed]] - events[followed]
    return delays[delays <= limit_us]
