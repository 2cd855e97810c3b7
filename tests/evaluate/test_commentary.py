"""Metrics of commentary, against numbers worked out by hand and a slower alignment."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from livecc_jax.cli import main
from livecc_jax.evaluate.metrics.baselines import previous_copy, silence_only
from livecc_jax.evaluate.metrics.commentary import (
    WINDOW_US,
    Reference,
    SaidTurn,
    count_clip,
    match_words,
    normal_words,
    summarize,
)
from livecc_jax.timeline.example import Word

ANNOTATIONS = Path(__file__).parents[2] / "data/annotations/narration.jsonl"
S = 1_000_000


def word(start, end, text):
    return Word(round(start * S), round(end * S), text)


def turn(start, stop, text=""):
    return SaidTurn(start * S, stop * S, text)


# Ten seconds. Turns hear words that end in (0, 2.5], (2.5, 3.5], ..., (8.5, 10]: words are due in the
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
    assert [m.lateness_us / S for m in counts.matches] == [1.5, 1.0, 1.1]
    found = summarize([counts])
    assert found["word precision"] == pytest.approx(100 * 3 / 6)
    assert found["word recall"] == pytest.approx(100 * 3 / 4)
    assert found["word F1"] == pytest.approx(100 * 6 / 10)
    assert found["lateness, median"] == pytest.approx(1.1)
    assert found["lateness, 90th percentile"] == pytest.approx(np.quantile([1.5, 1.0, 1.1], 0.9))
    assert found["words a second"] == pytest.approx(0.6)
    # Quiet: (2.5, 3.5] and (4.5, 8.5], 5 s. Silent: (2.5, 3.5], (5.5, 6.5], (7.5, 8.5], (8.5, 10]: 4.5,
    # and "falls" makes (3.5, 4.5] right though its word is wrong. Both: 3 s.
    assert found["silence precision"] == pytest.approx(100 * 3 / 4.5)
    assert found["silence recall"] == pytest.approx(100 * 3 / 5)
    assert found["seconds told right"] == pytest.approx(100 * (3 + (10 - 5 - 4.5 + 3)) / 10)
    # With the guard (5.5, 6.5] and (6.5, 7.5] are quiet: a word ends at 4.4, the next begins at 9.0.
    assert found["false alarms a quiet minute"] == pytest.approx(2 / (2 / 60))


def test_matching_is_the_best_alignment():
    """The most matches, then the least time apart, against every alignment there is."""
    rng = np.random.default_rng(0)
    for _ in range(60):
        said, due = (
            [
                ("abc"[i], int(t))
                for i, t in zip(rng.integers(0, 3, 5), sorted(rng.integers(0, 15 * S, 5)))
            ]
            for _ in range(2)
        )
        best = (0, 0)
        for k in range(1, 6):
            for a, b in itertools.product(itertools.combinations(range(5), k), repeat=2):
                pairs = [(said[i], due[j]) for i, j in zip(a, b)]
                if all(x[0] == y[0] and abs(x[1] - y[1]) <= WINDOW_US for x, y in pairs):
                    best = max(best, (k, -sum(abs(x[1] - y[1]) for x, y in pairs)))
        found = match_words(said, due)
        assert (len(found), -sum(abs(m.lateness_us) for m in found)) == best


def test_words_and_repetition():
    assert normal_words("Well — it’s HIS 2nd ... goal!") == ["well", "it’s", "his", "2nd", "goal"]
    found = summarize([count_clip(CLIP, [turn(0, 3, "go on and go on and go on")])])
    # go on and go, on and go on, and go on and, go on and go (again), on and go on (again)
    assert found["repeated 4-grams"] == pytest.approx(100 * 2 / 5)
    nothing = summarize([count_clip(CLIP, [])])
    assert math.isnan(nothing["word precision"])
    assert nothing["silence recall"] == 100.0


def test_baselines():
    silent = silence_only(CLIP)
    assert [(t.start_us // S, t.stop_us // S) for t in silent[:2]] == [(0, 3), (3, 4)]
    assert silent[-1].stop_us == CLIP.end_us
    copy = previous_copy(CLIP)
    assert copy[0].text == "he runs and runs and runs and"  # three seconds at 2.5 words a second
    assert " ".join(t.text for t in copy if t.text) == CLIP.previous


def test_stream_output_against_the_shipped_narration(tmp_path, capsys):
    """What `livecc stream --jsonl` writes: perfect, then silent, which a baseline equals."""
    annotation = json.loads(ANNOTATIONS.read_text().splitlines()[0])
    words = annotation[1]["content"][0]["text_stream"]
    perfect, silent = tmp_path / "perfect.jsonl", tmp_path / "silent.jsonl"
    lines = {perfect: [], silent: []}
    for start, stop in [(0, 3), *((i, i + 1) for i in range(3, 30))]:
        now = " ".join(w for _, end, w in words if start - 0.5 < end <= stop - 0.5)
        for path, said in ((perfect, now), (silent, "")):
            lines[path].append(json.dumps({"start": start, "stop": stop, "text": f"{said} ..."}))
    for path, text in lines.items():
        path.write_text("\n".join(text) + "\n")
    one = tmp_path / "one.jsonl"
    one.write_text(ANNOTATIONS.read_text().splitlines()[0] + "\n")
    out = tmp_path / "out.json"
    args = ["--reference", str(one), "--json", str(out)]
    assert main(["score", "commentary", str(perfect), *args]) == 0
    found = json.loads(out.read_text())
    ours = found["metrics"]["prediction"]
    assert (ours["word F1"], ours["seconds told right"], ours["silence recall"]) == (100, 100, 100)
    assert 0 <= ours["lateness, median"] < 1
    assert found["not_beaten"] == []
    assert main(["score", "commentary", str(silent), *args]) == 0
    assert "Does not beat “silence only”" in capsys.readouterr().out
    assert main(["score", "commentary", str(silent)]) == 2
    assert "--reference" in capsys.readouterr().err


def test_predictions_of_events(tmp_path):
    """LiveSports-3K CC's transcripts; what cannot be used is counted."""
    from livecc_jax.evaluate.metrics.timed import score_commentary

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
    said = [{"start": 10, "stop": 13, "text": "one two ..."}, {"start": 13, "stop": 14, "text": "..."}]
    rows = [
        {"video_id": "v", "event_id": 0, "turns": said},
        {"video_id": "v", "event_id": 0, "turns": said},
        {"video_id": "v", "event_id": 1, "turns": [{"start": "x", "stop": 1, "text": ""}]},
        {"video_id": "v", "event_id": 2, "pred": "only text..."},
        {"video_id": "x", "event_id": 2, "turns": said},
    ]
    path = tmp_path / "p.jsonl"
    path.write_text("\n".join(json.dumps(r) for r in rows))
    found = score_commentary(path, reference)
    assert found.entries.problems == {
        "duplicate": 1, "malformed": 1, "untimed": 1, "no transcript": 1, "missing": 2,
        "not in the baseline": 0,
    }  # fmt: skip
    # "one" is due at 11 and "two" at 12: a phrase's time is shared evenly.
    assert found.metrics["prediction"]["lateness, median"] == pytest.approx(1.0)  # said at 12.5
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps({"video_id": "v", "event_id": 0, "turns": []}))
    beside = score_commentary(path, reference, other).metrics
    assert beside["other.jsonl"] == pytest.approx(beside["silence only"], nan_ok=True)


def test_two_commentaries_are_compared_clip_by_clip(tmp_path, capsys):
    """The same clips for both; a run against itself differs by nothing."""
    words = [[i + 0.1, i + 0.5, f"w{i}"] for i in range(6)]
    rows = [
        {"video_id": f"v{n}", "event_id": 1, "begin": 0, "end": 8, "event_asr": words} for n in range(4)
    ]
    reference = tmp_path / "CC.json"
    reference.write_text(json.dumps(rows))

    def said(name, right):
        lines = []
        for n, count in enumerate(right):
            turns = [{"start": i, "stop": i + 1, "text": f"w{i}"} for i in range(count)]
            lines.append(json.dumps({"video_id": f"v{n}", "event_id": 1, "turns": turns}))
        (tmp_path / name).write_text("\n".join(lines))
        return str(tmp_path / name)

    a, b = said("a.jsonl", (1, 1, 2)), said("b.jsonl", (6, 5, 6, 6))
    out = tmp_path / "c.json"
    assert main(["compare", a, b, "--reference", str(reference), "--json", str(out)]) == 0
    assert "3 clips are in both; 1 of B alone" in capsys.readouterr().out
    told = {row["name"]: row for row in json.loads(out.read_text())["rows"]}
    recall = told["word recall"]
    assert recall["a"] == pytest.approx(100 * 4 / 18)
    assert recall["b"] == pytest.approx(100 * 17 / 18)
    assert recall["difference"] == pytest.approx(recall["b"] - recall["a"])
    assert 0 < recall["low"] <= recall["difference"] <= recall["high"]
    assert recall["p"] < 0.01
    assert main(["compare", a, a, "--reference", str(reference), "--json", str(out)]) == 0
    same = {row["name"]: row for row in json.loads(out.read_text())["rows"]}["word recall"]
    assert (same["difference"], same["low"], same["high"]) == (0, 0, 0)
    assert same["p"] == 1
    assert main(["compare", a, str(tmp_path / "none")]) == 2
    assert "none: there is no such file or folder" in capsys.readouterr().err
