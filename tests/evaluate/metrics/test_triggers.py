"""When to speak: onsets, their pairing and the delays after events, worked out by hand."""

import itertools

import numpy as np
import pytest

from livecc_jax.evaluate.metrics.commentary import PredictedTurn, Reference, count_clip
from livecc_jax.evaluate.metrics.commentary_metrics import compute_metrics
from livecc_jax.evaluate.metrics.triggers import first_word_delays, match_times, speech_onsets
from livecc_jax.timeline.example import Word

S = 1_000_000


def us(*seconds):
    return [round(s * S) for s in seconds]


def test_an_onset_follows_a_pause():
    assert speech_onsets(us(1, 1.5, 2.9, 4.4, 9)).tolist() == us(1, 4.4, 9)  # pauses of 1.5 and 4.6
    assert speech_onsets([]).tolist() == []


def test_pairs_are_the_best_of_all_pairings():
    rng = np.random.default_rng(0)
    for _ in range(60):
        a, b = (np.sort(rng.integers(0, 12, 5)) for _ in range(2))
        best = (0, 0)
        for k in range(1, 6):
            for i, j in itertools.product(itertools.combinations(range(5), k), repeat=2):
                distances = np.abs(a[list(i)] - b[list(j)])
                if (distances <= 2).all():
                    best = max(best, (k, -int(distances.sum())))
        pairs = match_times(a, b, 2)
        assert (len(pairs), -sum(abs(int(a[i]) - int(b[j])) for i, j in pairs)) == best
        assert all(x < y for p, q in itertools.pairwise(pairs) for x, y in zip(p, q))


def test_delay_of_the_first_word_after_an_event():
    # 0.7 s after the first event; nothing within 5 s of the second; said in the moment of the third.
    delays = first_word_delays(us(1.0, 5.0, 12.0), us(0.5, 1.7, 2.0, 12.0))
    assert delays.tolist() == us(0.7, 0.0)
    assert first_word_delays(us(3), []).tolist() == []


def test_worked_example_on_a_transcript():
    """Words alone: due at 1.0, 1.5, 4.4 and 9.4 s, said at 2.5, 5.5, 6.5 and 12.5 s."""
    reference = Reference(
        "clip", 0, 15 * S,
        tuple(Word(t - S // 5, t, "w") for t in us(1.0, 1.5, 4.4, 9.4)),
    )  # fmt: skip
    said = [(0, 3), (5, 6), (6, 7), (12, 13)]
    metrics = compute_metrics(
        [count_clip(reference, [PredictedTurn(a * S, b * S, "w") for a, b in said])]
    )
    # Onsets: due 1.0, 4.4, 9.4; said 2.5, 5.5, 12.5. The last two are 3.1 s apart: no pair.
    assert metrics["trigger F1"] == pytest.approx(100 * 2 * 2 / 6)
    assert metrics["trigger delay, median"] == pytest.approx((1.5 + 1.1) / 2)
    assert metrics["trigger delay, 90th percentile"] == pytest.approx(1.1 + 0.9 * 0.4)
