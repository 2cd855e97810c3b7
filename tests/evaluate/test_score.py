"""Scoring of published layouts, against answers worked out by hand."""

import json
import math

import numpy as np
import pytest

from livecc_jax.cli import main
from livecc_jax.errors import ConfigError, DataError
from livecc_jax.evaluate.benchmarks import answer_log
from livecc_jax.evaluate.metrics.score import counts, score, strict_accuracy
from livecc_jax.evaluate.metrics.statistics import Bootstrap, interval, mcnemar_exact


def write(path, value):
    """A list of lines (objects or text) as JSON lines, anything else as JSON."""
    if path.suffix == ".jsonl":
        value = (
            "\n".join(v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in value)
            + "\n"
        )
        path.write_text(value)
    else:
        path.write_text(json.dumps(value))
    return str(path)


def accuracies(scored):
    return {(r.facet, r.name): (r.correct, r.count, r.accuracy) for r in scored.rows}


def test_videomme_letters():
    """The script's extraction, slips included."""
    told = {
        "B. Candles.": "B",
        "The answer is C": "C",
        "Answer: D": "D",
        "the correct answer is a": "",  # lower case is no answer
        "": "",
        "Because it is red": "B",  # its first capital letter among A to D
        "The best option is A": "A",  # never removed (a comma is missing), but holds no A to D itself
        "Best answer: C": "B",  # nor is this: its own B answers
        "I do not know": "",
        "None of the eleven things that one could think of is it": "",
    }
    assert {text: answer_log.videomme_letter(text) for text in told} == told


def question(number, task, answer, response):
    return {"question_id": number, "task_type": task, "answer": answer, "response": response}


VIDEOMME = [
    {
        "video_id": "001",
        "duration": "short",
        "domain": "Knowledge",
        "sub_category": "Law",
        "questions": [
            question("001-1", "Counting Problem", "C", "C. Three."),  # right
            question("001-2", "OCR Problems", "A", "B. No."),  # wrong
            question("001-3", "OCR Problems", "A", "i cannot tell"),  # no answer: not counted
        ],
    },
    {
        "video_id": "601",
        "duration": "long",
        "domain": "Life Record",
        "sub_category": "Food",
        "questions": [
            question("601-1", "OCR Problems", "D", "D"),  # right
            question("601-1", "OCR Problems", "D", "D"),  # again: their scoring counts it twice
            question("601-2", "OCR Problems", "D", None),  # no answer
            {"question_id": "601-3", "task_type": "OCR Problems", "response": "A"},  # malformed
            question("601-4", "Juggling", "A", "A"),  # no such task: malformed
        ],
    },
    {"video_id": "602", "missing": True},
    "not an object",
]


def test_videomme(tmp_path):
    """Denominators are the answered ones; everything else is counted and told."""
    scored = score("videomme", write(tmp_path / "r.json", VIDEOMME))
    rows = accuracies(scored)
    assert rows["all", "overall"] == (3, 4, 75.0)
    assert rows["duration", "short"] == (1, 2, 50.0)
    assert rows["duration", "long"] == (2, 2, 100.0)
    assert rows["task_type", "OCR Problems"][:2] == (2, 3)
    assert rows["duration / task_type", "short / OCR Problems"] == (0, 1, 0.0)
    assert list(rows)[1:3] == [("duration", "short"), ("duration", "long")]  # the benchmark's order
    assert counts(scored.entries) == {
        "expected": 2700,
        "items": 5,
        "in the denominator": 4,
        "missing": 2695,
        "unanswered": 2,
        "duplicate": 1,
        "malformed": 3,
        "missing videos": 1,
        "correct, each item once": 2,
    }
    assert strict_accuracy(scored.entries) == (2, 2700, pytest.approx(100 * 2 / 2700))
    assert any("'answer' is absent" in note for note in scored.entries.notes)


def test_videomme_is_printed_with_its_denominator(tmp_path, capsys):
    path = write(tmp_path / "r.json", VIDEOMME)
    assert main(["score", "videomme", path, "--json", str(tmp_path / "s.json")]) == 0
    out = capsys.readouterr().out
    assert "overall 75.0%" in out
    assert "5 items of the benchmark's 2,700; the denominator has 4." in out
    assert "2,695 missing, 2 unanswered, 1 duplicate, 3 malformed, 1 missing videos" in out
    written = json.loads((tmp_path / "s.json").read_text())
    assert written["headline"]["correct"] == 3
    assert main(["score", "videomme", str(tmp_path / "none.json")]) == 2
    assert main(["score", "videomme", write(tmp_path / "object.json", {"results": []})]) == 2
    assert "no answer in a layout of videomme" in capsys.readouterr().err
    (tmp_path / "cut.json").write_text('[{"video_id": ')
    assert main(["score", "videomme", str(tmp_path / "cut.json")]) == 2
    assert "cut.json line 1: broken JSON" in capsys.readouterr().err


def test_mvbench(tmp_path):
    """The headline is the mean of the tasks' accuracies; an empty response is wrong, not left out."""
    results = [
        {
            "video": "a.mp4",
            "questions": [
                {"task_type": "Action Count", "question": "1", "answer": "A", "response": "A. x"},
                {"task_type": "Action Count", "question": "2", "answer": "A", "response": ""},
                {"task_type": "Action Count", "question": "3", "answer": "E", "response": "E"},
            ],
        },
        {
            "video": "b.mp4",
            "questions": [
                {"task_type": "Scene Transition", "question": "1", "answer": "B", "response": "B. y"}
            ],
        },
    ]
    scored = score("mvbench", write(tmp_path / "r.json", results))
    rows = accuracies(scored)
    assert rows["task_type", "Action Count"][:2] == (2, 3)
    assert scored.headline.accuracy == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert rows["all", "all questions"] == (3, 4, 75.0)
    assert counts(scored.entries)["unanswered"] == 1


def test_livesports_qa(tmp_path):
    def asked(number, kind, ocr, answer, response):
        return {
            "question_id": number, "q_type": kind, "OCR": ocr, "answer": answer, "response": response
        }  # fmt: skip

    results = [
        {
            "video_id": "v",
            "questions": [
                asked(0, "Who", 1, "A", "A. One"),
                asked(1, "Who", 0, "B", "C. Two"),
                asked(2, "When", 1, "D", "A"),
                asked(3, "What", 0, "D", "D"),
            ],
        }
    ]
    rows = accuracies(score("livesports-qa", write(tmp_path / "r.json", results)))
    assert rows["all", "overall"] == (2, 4, 50.0)
    assert rows["q_type", "Who"] == (1, 2, 50.0)
    assert rows["OCR", "OCR"] == (1, 2, 50.0)


def test_ovobench_both_layouts_and_averages(tmp_path):
    """LiveCC's rows and the authors' nesting, each by its own rule; averages by their names."""
    flat = [
        {"id": 1, "task": "OCR", "answer": "A", "response": "A"},
        {"id": 2, "task": "OCR", "answer": "B", "response": "A"},
        {"id": 3, "task": "OJR", "answer": "C", "response": "C"},
        {"id": 4, "task": "EPM", "answer": "D", "response": "D"},
        {"id": 5, "task": "REC", "answer": "3", "response": "3"},
        {"id": 5, "task": "REC", "answer": "4", "response": "3"},  # the same item, a later time
        {"id": 6, "task": "CRR", "answer": "No", "response": "No"},
        {"id": 6, "task": "CRR", "answer": "Yes", "response": "Yes"},
        {"id": 1, "task": "OCR", "answer": "A", "response": "A"},  # this one is a duplicate
        {"id": 7, "task": "DANCE", "answer": "A", "response": "A"},
    ]
    scored = score("ovobench", write(tmp_path / "flat.jsonl", [*flat, '{"id": 8,']))
    rows = accuracies(scored)
    realtime, forward = (2 / 3 + 1) / 2, (1 / 2 + 1) / 2
    assert rows["mean", "realtime (mean of its tasks)"][2] == pytest.approx(100 * realtime)
    assert rows["mean", "mean of groups"][2] == pytest.approx(100 * (realtime + 1 + forward) / 3)
    tasks = [2 / 3, 1, 1, 1 / 2, 1]
    assert rows["mean", "mean of tasks"][2] == pytest.approx(100 * np.mean(tasks))
    assert rows["all", "all items"][:2] == (7, 9)
    assert scored.headline.name == "mean of groups"
    told = counts(scored.entries)
    assert (told["duplicate"], told["malformed"], told["items"]) == (1, 2, 8)

    nested = {
        "realtime": [
            {"id": 1, "task": "OCR", "video": "a", "response": "It is (A).", "ground_truth": "A"},
            {"id": 2, "task": "OCR", "video": "b", "response": None, "ground_truth": "A"},
        ],
        "backward": [],
        "forward": [
            {
                "id": 5,
                "task": "REC",
                "video": "c",
                "test_info": [
                    {"count": 12, "response": "1 or 2"},  # their digits run together: 12
                    {"count": 2, "response": "two"},
                    {"count": "2", "response": "2"},  # malformed
                ],
            },
            {
                "id": 6,
                "task": "SSR",
                "video": "d",
                "test_info": [
                    {"type": 1, "response": "Y"},
                    {"type": 0, "response": "No, they are not."},
                    {"type": 0, "response": "Yes"},
                ],
            },
        ],
    }
    scored = score("ovobench", write(tmp_path / "nested.json", nested))
    rows = accuracies(scored)
    assert rows["task", "OCR"] == (1, 2, 50.0)
    assert rows["task", "REC"] == (1, 2, 50.0)
    assert rows["task", "SSR"][:2] == (2, 3)
    assert math.isnan(rows["mean", "backward (mean of its tasks)"][2])
    told = counts(scored.entries)
    assert (told["unanswered"], told["malformed"], told["expected"]) == (1, 1, None)


def test_judge_verdicts(tmp_path):
    """A tie and a missing verdict are no wins; both orders count."""
    lines = [
        {"video_event_id": "a_b_1", "ab_winner": "Mine", "ba_winner": "Mine"},
        {"video_event_id": "a_b_2", "ab_winner": "Mine", "ba_winner": "GPT-4o", "why": "\u2028"},
        {"video_event_id": "c_1", "ab_winner": "tie", "ba_winner": "GPT-4o"},
        {"video_event_id": "c_2", "ab_winner": "GPT-4o"},
        {"ab_winner": "Mine", "ba_winner": "Mine"},
        "oops",
    ]
    path = write(tmp_path / "GPT-4o_Mine.jsonl", lines)
    scored = score("judge", path)
    rows = accuracies(scored)
    assert rows["all", "win rate"] == (3, 8, 37.5)
    assert rows["order", "model first"] == (2, 4, 50.0)
    assert scored.extra["agreement between orders, %"] == pytest.approx(100 / 3)
    # Standing first and winning: Mine in two ab, GPT-4o in two ba; of six that name a winner.
    assert scored.extra["winner stands first, %"] == pytest.approx(100 * 4 / 6)
    assert scored.extra["ties, %"] == pytest.approx(100 / 7)
    told = counts(scored.entries)
    assert (told["unanswered"], told["malformed"], told["missing"]) == (1, 2, 3404 - 8)
    assert {e.cluster for e in scored.entries.items} == {"a_b", "c"}
    other = write(tmp_path / "verdicts.jsonl", lines)
    with pytest.raises(DataError, match="--model"):
        score("judge", other)
    assert score("judge", other, model="Mine").headline.correct == 3
    with pytest.raises(ConfigError):
        score("nonesuch", path)


def test_comparison(tmp_path, capsys):
    """Paired by item: discordant pairs, the exact test, the difference of the headline."""

    def results(responses):
        return [
            {
                "video": f"{i}.mp4",
                "questions": [{"task_type": "T", "question": "?", "answer": "A", "response": response}],
            }
            for i, response in enumerate(responses)
        ]

    a = write(tmp_path / "a.json", results("AAAABBBBBBB"))
    b = write(tmp_path / "b.json", results("ABAAAAAAAB"))  # an item fewer
    out = tmp_path / "c.json"
    assert main(["compare", a, b, "--benchmark", "mvbench", "--json", str(out)]) == 0
    row = json.loads(out.read_text())["rows"][0]
    assert (row["count"], row["only_a"], row["only_b"]) == (10, 1, 5)
    assert row["mcnemar"] == pytest.approx(2 * (1 + 6) / 2**6)
    assert row["difference"] == pytest.approx(40.0)
    assert row["low"] < 40 < row["high"]
    assert "10 items are in both; 1 in A alone and 0 in B alone" in capsys.readouterr().out
    assert main(["score", "mvbench", b, "--baseline", a]) == 0
    assert main(["compare", a, b]) == 2


def test_bootstrap():
    """Seeded; clusters are drawn whole; the width is the binomial's when clusters are single items."""
    values = np.array([[1.0], [1.0], [0.0], [0.0]])
    tied = Bootstrap(["a", "a", "b", "b"], 500).totals(values)
    assert set(np.unique(tied)) == {0.0, 2.0, 4.0}
    again = Bootstrap(["b", "b", "a", "a"], 500).totals(values[::-1])
    np.testing.assert_array_equal(Bootstrap(["a", "a", "b", "b"], 500).totals(values), tied)
    assert again.mean() == pytest.approx(tied.mean(), abs=0.3)
    rng = np.random.default_rng(1)
    many = (rng.random((1000, 1)) < 0.6).astype(float)
    spread = interval(Bootstrap([str(i) for i in range(1000)]).totals(many)[:, 0] / 1000)
    half = 1.96 * math.sqrt(many.mean() * (1 - many.mean()) / 1000)
    assert spread.high - spread.low == pytest.approx(2 * half, rel=0.1)
    assert math.isnan(interval(Bootstrap([], 10).totals(np.zeros((0, 1)))[:, 0]).low)
    # A fair coin of five: P(0 or 5 heads) = 2/32; ties say nothing.
    assert mcnemar_exact(0, 5) == pytest.approx(2 / 32)
    assert mcnemar_exact(0, 0) == 1.0
    assert mcnemar_exact(900, 1200) < 1e-9
