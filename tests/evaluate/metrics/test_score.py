"""Scores of results files in published layouts, against values worked out by hand."""

import json
import math

import numpy as np
import pytest

from livecc_jax.cli import main
from livecc_jax.errors import ConfigError, DataError
from livecc_jax.evaluate.benchmarks import answer_extraction
from livecc_jax.evaluate.metrics.score import count_answers, score_benchmark, strict_accuracy


def write(path, value):
    """Writes JSON lines (each an object or a raw text) or JSON, by the suffix; returns the path."""
    if path.suffix == ".jsonl":
        value = (
            "\n".join(v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in value)
            + "\n"
        )
        path.write_text(value)
    else:
        path.write_text(json.dumps(value))
    return str(path)


def accuracies(score):
    """(facet, name) to (correct, count, accuracy)."""
    return {(r.facet, r.name): (r.correct, r.count, r.accuracy) for r in score.table}


def test_videomme_letters():
    """The answer extraction of the published script, its slips included."""
    letters = {
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
    assert {text: answer_extraction.extract_videomme_letter(text) for text in letters} == letters


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
            question("601-1", "OCR Problems", "D", "D"),  # duplicate, counted twice there
            question("601-2", "OCR Problems", "D", None),  # no answer
            {"question_id": "601-3", "task_type": "OCR Problems", "response": "A"},  # malformed
            question("601-4", "Juggling", "A", "A"),  # no such task: malformed
        ],
    },
    {"video_id": "602", "missing": True},
    "not an object",
]


def test_videomme(tmp_path):
    """Only answered questions are in the denominator; every other answer is counted and reported."""
    score = score_benchmark("videomme", write(tmp_path / "r.json", VIDEOMME))
    rows = accuracies(score)
    assert rows["all", "overall"] == (3, 4, 75.0)
    assert rows["duration", "short"] == (1, 2, 50.0)
    assert rows["duration", "long"] == (2, 2, 100.0)
    assert rows["task_type", "OCR Problems"][:2] == (2, 3)
    assert rows["duration / task_type", "short / OCR Problems"] == (0, 1, 0.0)
    assert list(rows)[1:3] == [("duration", "short"), ("duration", "long")]  # the benchmark's order
    assert count_answers(score.answers) == {
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
    assert strict_accuracy(score.answers) == (2, 2700, pytest.approx(100 * 2 / 2700))
    assert any("'answer' is absent" in note for note in score.answers.notes)


def test_videomme_is_printed_with_its_denominator(tmp_path, capsys):
    path = write(tmp_path / "r.json", VIDEOMME)
    assert main(["score", "videomme", path, "--json", str(tmp_path / "s.json")]) == 0
    printed = capsys.readouterr().out
    assert "overall 75.0%" in printed
    assert "5 items of the benchmark's 2,700; the denominator has 4." in printed
    assert "2,695 missing, 2 unanswered, 1 duplicate, 3 malformed, 1 missing videos" in printed
    record = json.loads((tmp_path / "s.json").read_text())
    assert record["headline"]["correct"] == 3
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
    score = score_benchmark("mvbench", write(tmp_path / "r.json", results))
    rows = accuracies(score)
    assert rows["task_type", "Action Count"][:2] == (2, 3)
    assert score.headline.accuracy == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert rows["all", "all questions"] == (3, 4, 75.0)
    assert count_answers(score.answers)["unanswered"] == 1


def test_livesports_qa(tmp_path):
    def question_of(number, kind, ocr, answer, response):
        return {
            "question_id": number, "q_type": kind, "OCR": ocr, "answer": answer, "response": response
        }  # fmt: skip

    results = [
        {
            "video_id": "v",
            "questions": [
                question_of(0, "Who", 1, "A", "A. One"),
                question_of(1, "Who", 0, "B", "C. Two"),
                question_of(2, "When", 1, "D", "A"),
                question_of(3, "What", 0, "D", "D"),
            ],
        }
    ]
    rows = accuracies(score_benchmark("livesports-qa", write(tmp_path / "r.json", results)))
    assert rows["all", "overall"] == (2, 4, 50.0)
    assert rows["q_type", "Who"] == (1, 2, 50.0)
    assert rows["OCR", "OCR"] == (1, 2, 50.0)


def test_ovobench_both_layouts_and_averages(tmp_path):
    """LiveCC's flat records and the authors' nested ones, each scored by its own rule."""
    flat = [
        {"id": 1, "task": "OCR", "answer": "A", "response": "A"},
        {"id": 2, "task": "OCR", "answer": "B", "response": "A"},
        {"id": 3, "task": "OJR", "answer": "C", "response": "C"},
        {"id": 4, "task": "EPM", "answer": "D", "response": "D"},
        {"id": 5, "task": "REC", "answer": "3", "response": "3"},
        {"id": 5, "task": "REC", "answer": "4", "response": "3"},  # the same item, a later time
        {"id": 6, "task": "CRR", "answer": "No", "response": "No"},
        {"id": 6, "task": "CRR", "answer": "Yes", "response": "Yes"},
        {"id": 1, "task": "OCR", "answer": "A", "response": "A"},  # a duplicate
        {"id": 7, "task": "DANCE", "answer": "A", "response": "A"},
    ]
    score = score_benchmark("ovobench", write(tmp_path / "flat.jsonl", [*flat, '{"id": 8,']))
    rows = accuracies(score)
    realtime, forward = (2 / 3 + 1) / 2, (1 / 2 + 1) / 2
    assert rows["mean", "realtime (mean of its tasks)"][2] == pytest.approx(100 * realtime)
    assert rows["mean", "mean of groups"][2] == pytest.approx(100 * (realtime + 1 + forward) / 3)
    tasks = [2 / 3, 1, 1, 1 / 2, 1]
    assert rows["mean", "mean of tasks"][2] == pytest.approx(100 * np.mean(tasks))
    assert rows["all", "all items"][:2] == (7, 9)
    assert score.headline.name == "mean of groups"
    counts = count_answers(score.answers)
    assert (counts["duplicate"], counts["malformed"], counts["items"]) == (1, 2, 8)

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
    score = score_benchmark("ovobench", write(tmp_path / "nested.json", nested))
    rows = accuracies(score)
    assert rows["task", "OCR"] == (1, 2, 50.0)
    assert rows["task", "REC"] == (1, 2, 50.0)
    assert rows["task", "SSR"][:2] == (2, 3)
    assert math.isnan(rows["mean", "backward (mean of its tasks)"][2])
    counts = count_answers(score.answers)
    assert (counts["unanswered"], counts["malformed"], counts["expected"]) == (1, 1, None)


def test_judge_verdicts(tmp_path):
    """A tie and a missing verdict are not wins; both orders count."""
    lines = [
        {"video_event_id": "a_b_1", "ab_winner": "Mine", "ba_winner": "Mine"},
        {"video_event_id": "a_b_2", "ab_winner": "Mine", "ba_winner": "GPT-4o", "why": "\u2028"},
        {"video_event_id": "c_1", "ab_winner": "tie", "ba_winner": "GPT-4o"},
        {"video_event_id": "c_2", "ab_winner": "GPT-4o"},
        {"ab_winner": "Mine", "ba_winner": "Mine"},
        "oops",
    ]
    path = write(tmp_path / "GPT-4o_Mine.jsonl", lines)
    score = score_benchmark("judge", path)
    rows = accuracies(score)
    assert rows["all", "win rate"] == (3, 8, 37.5)
    assert rows["order", "model first"] == (2, 4, 50.0)
    assert score.extra["agreement between orders, %"] == pytest.approx(100 / 3)
    # Standing first and winning: Mine in two ab, GPT-4o in two ba; of six that name a winner.
    assert score.extra["winner stands first, %"] == pytest.approx(100 * 4 / 6)
    assert score.extra["ties, %"] == pytest.approx(100 / 7)
    counts = count_answers(score.answers)
    assert (counts["unanswered"], counts["malformed"], counts["missing"]) == (1, 2, 3404 - 8)
    assert {e.cluster for e in score.answers.items} == {"a_b", "c"}
    other = write(tmp_path / "verdicts.jsonl", lines)
    with pytest.raises(DataError, match="--model"):
        score_benchmark("judge", other)
    assert score_benchmark("judge", other, model="Mine").headline.correct == 3
    with pytest.raises(ConfigError):
        score_benchmark("nonesuch", path)
