"""Commentary metrics, against numbers worked out by hand and an exhaustive alignment."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from livecc_jax.cli import main
from livecc_jax.evaluate.metrics.baselines import previous_copy, silence_only
from livecc_jax.evaluate.metrics.commentary import PredictedTurn, Reference, count_clip
from livecc_jax.evaluate.metrics.commentary_metrics import compute_metrics
from livecc_jax.evaluate.metrics.commentary_score import score_commentary
from livecc_jax.evaluate.metrics.word_alignment import WINDOW_US, align_words, normalize_words
from livecc_jax.timeline.example import Word

ANNOTATIONS = Path(__file__).parents[3] / "data/annotations/narration.jsonl"
S = 1_000_000


def word(start, end, text):
    return Word(round(start * S), round(end * S), text)


def turn(start, stop, text=""):
    return PredictedTurn(start * S, stop * S, text)


# Ten seconds. The turns' word spans are (0, 2.5], (2.5, 3.5], ..., (8.5, 10]: words are due in the
# first, in (3.5, 4.5] and in (8.5, 10].
CLIP = Reference(
    "clip", 0, 10 * S,
    (word(0.5, 1.0, "The"), word(1.0, 1.5, "keeper"), word(4.2, 4.4, "saves"), word(9.0, 9.4, "Goal!")),
    "he runs and runs and runs and runs",
)  # fmt: skip


def test_worked_example():
    turns = [
        turn(0, 3, "the keeper"),  # said at 2.5, due at 1.0 and 1.5: 1.5 and 1.0 late
        turn(3, 4),
        turn(4, 5, "falls"),  # not what was due
        turn(5, 6, "saves"),  # said at 5.5, due at 4.4: 1.1 late, and (4.5, 5.5] is quiet
        turn(6, 7),
        turn(7, 8, "well well"),  # (6.5, 7.5]: two false alarms, nothing within a second
        # 8 to 10 were never reached: (7.5, 8.5] is silent rightly, (8.5, 10] wrongly
    ]
    counts = count_clip(CLIP, turns)
    assert [m.onset_error_us / S for m in counts.matches] == [1.5, 1.0, 1.1]
    metrics = compute_metrics([counts])
    assert metrics["word precision"] == pytest.approx(100 * 3 / 6)
    assert metrics["word recall"] == pytest.approx(100 * 3 / 4)
    assert metrics["word F1"] == pytest.approx(100 * 6 / 10)
    assert metrics["lateness, median"] == pytest.approx(1.1)
    assert metrics["lateness, 90th percentile"] == pytest.approx(np.quantile([1.5, 1.0, 1.1], 0.9))
    assert metrics["words a second"] == pytest.approx(0.6)
    # Quiet: (2.5, 3.5] and (4.5, 8.5], 5 s. Silent: (2.5, 3.5], (5.5, 6.5], (7.5, 8.5], (8.5, 10]: 4.5,
    # and "falls" makes (3.5, 4.5] right though its word is wrong. Both: 3 s.
    assert metrics["silence precision"] == pytest.approx(100 * 3 / 4.5)
    assert metrics["silence recall"] == pytest.approx(100 * 3 / 5)
    assert metrics["seconds told right"] == pytest.approx(100 * (3 + (10 - 5 - 4.5 + 3)) / 10)
    # With the guard (5.5, 6.5] and (6.5, 7.5] are quiet: a word ends at 4.4, the next begins at 9.0.
    assert metrics["false alarms a quiet minute"] == pytest.approx(2 / (2 / 60))


def test_matching_is_the_best_alignment():
    """Equal to the best of all alignments: the most matches, then the smallest time differences."""
    rng = np.random.default_rng(0)
    for _ in range(60):
        predicted, reference = (
            [
                ("abc"[i], int(t))
                for i, t in zip(rng.integers(0, 3, 5), sorted(rng.integers(0, 15 * S, 5)))
            ]
            for _ in range(2)
        )
        best = (0, 0)
        for k in range(1, 6):
            for a, b in itertools.product(itertools.combinations(range(5), k), repeat=2):
                pairs = [(predicted[i], reference[j]) for i, j in zip(a, b)]
                if all(x[0] == y[0] and abs(x[1] - y[1]) <= WINDOW_US for x, y in pairs):
                    best = max(best, (k, -sum(abs(x[1] - y[1]) for x, y in pairs)))
        alignment = align_words(predicted, reference)
        assert (len(alignment), -sum(abs(m.onset_error_us) for m in alignment)) == best


def test_words_and_repetition():
    assert normalize_words("Well — it’s HIS 2nd ... goal!") == ["well", "it’s", "his", "2nd", "goal"]
    metrics = compute_metrics([count_clip(CLIP, [turn(0, 3, "go on and go on and go on")])])
    # go on and go, on and go on, and go on and, then the first two a second time
    assert metrics["repeated 4-grams"] == pytest.approx(100 * 2 / 5)
    silent = compute_metrics([count_clip(CLIP, [])])
    assert math.isnan(silent["word precision"])
    assert silent["silence recall"] == 100.0


def test_baselines():
    silent = silence_only(CLIP)
    assert [(t.start_us // S, t.stop_us // S) for t in silent[:2]] == [(0, 3), (3, 4)]
    assert silent[-1].stop_us == CLIP.end_us
    copy = previous_copy(CLIP)
    assert copy[0].text == "he runs and runs and runs and"  # three seconds at 2.5 words a second
    assert " ".join(t.text for t in copy if t.text) == CLIP.previous


def test_stream_output_against_the_shipped_narration(tmp_path, capsys):
    """Output of `livecc stream --jsonl`: perfect commentary, then silence, which a baseline equals."""
    annotation = json.loads(ANNOTATIONS.read_text().splitlines()[0])
    words = annotation[1]["content"][0]["text_stream"]
    perfect, silent = tmp_path / "perfect.jsonl", tmp_path / "silent.jsonl"
    lines = {perfect: [], silent: []}
    for start, stop in [(0, 3), *((i, i + 1) for i in range(3, 30))]:
        text = " ".join(w for _, end, w in words if start - 0.5 < end <= stop - 0.5)
        for path, words_said in ((perfect, text), (silent, "")):
            lines[path].append(json.dumps({"start": start, "stop": stop, "text": f"{words_said} ..."}))
    for path, path_lines in lines.items():
        path.write_text("\n".join(path_lines) + "\n")
    one = tmp_path / "one.jsonl"
    one.write_text(ANNOTATIONS.read_text().splitlines()[0] + "\n")
    out = tmp_path / "out.json"
    args = ["--reference", str(one), "--json", str(out)]
    assert main(["score", "commentary", str(perfect), *args]) == 0
    record = json.loads(out.read_text())
    metrics = record["metrics"]["prediction"]
    assert metrics["word F1"] == metrics["seconds told right"] == metrics["silence recall"] == 100
    assert 0 <= metrics["lateness, median"] < 1
    assert record["not_beaten"] == []
    assert main(["score", "commentary", str(silent), *args]) == 0
    assert "Does not beat “silence only”" in capsys.readouterr().out
    assert main(["score", "commentary", str(silent)]) == 2
    assert "--reference" in capsys.readouterr().err


def test_predictions_of_events(tmp_path):
    """Predictions of LiveSports-3K CC events; what cannot be used is counted."""
    events = [
        {
            "video_id": "v", "event_id": i, "begin": 10.0, "end": 14.0, "preasr_text": "before",
            "event_asr": json.dumps([[10.0, 12.0, "one two"], [13.0, 14.0, "three"]]),
        }
        for i in range(3)
    ]  # fmt: skip
    events.append({"video_id": "w", "event_id": 9})
    reference = tmp_path / "LiveSports-3K-CC.json"
    reference.write_text(json.dumps(events))
    turns = [{"start": 10, "stop": 13, "text": "one two ..."}, {"start": 13, "stop": 14, "text": "..."}]
    predictions = [
        {"video_id": "v", "event_id": 0, "turns": turns},
        {"video_id": "v", "event_id": 0, "turns": turns},
        {"video_id": "v", "event_id": 1, "turns": [{"start": "x", "stop": 1, "text": ""}]},
        {"video_id": "v", "event_id": 2, "pred": "only text..."},
        {"video_id": "x", "event_id": 2, "turns": turns},
    ]
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(json.dumps(p) for p in predictions))
    score = score_commentary(path, reference)
    assert score.problem_log.problems == {
        "duplicate": 1, "malformed": 1, "untimed": 1, "no transcript": 1, "missing": 2,
        "not in the baseline": 0,
    }  # fmt: skip
    # "one" is due at 11 and "two" at 12: a phrase's time is shared evenly.
    assert score.metrics["prediction"]["lateness, median"] == pytest.approx(1.0)  # said at 12.5
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"video_id": "v", "event_id": 0, "turns": []}))
    metrics = score_commentary(path, reference, other).metrics
    assert metrics["other.jsonl"] == pytest.approx(metrics["silence only"], nan_ok=True)
