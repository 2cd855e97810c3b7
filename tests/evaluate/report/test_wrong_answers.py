"""Wrong answers with frames and options, chance, and intervals only where they mean something."""

import base64
import json
import math
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from livecc_jax.data.files.media_root import MediaRoot
from livecc_jax.evaluate.benchmarks.questions import VideoSource
from livecc_jax.evaluate.benchmarks.scored_answers import AnswerText, ScoredAnswer
from livecc_jax.evaluate.metrics.paired_accuracy import compare_accuracy
from livecc_jax.evaluate.metrics.score import score_benchmark
from livecc_jax.evaluate.report.report import write_report
from livecc_jax.evaluate.report.terminal import format_score
from livecc_jax.evaluate.report.thumbnails import question_thumbnails
from livecc_jax.evaluate.report.wrong_answers import choose_evenly
from livecc_jax.media.video import probe, read_frames
from tests.reports.pages import check_page

CLIP = Path(__file__).parents[3] / "data/clips/bbb_espeak_narration_30s.mp4"
FOUR = ["A. a cat", "B. a dog", "C. <b>a cow</b>", "D. a hen"]


def questions(count, options=FOUR, task="Counting Problem", start=0, wrong_every=3):
    """Video-MME records, one question a video; every third answer is wrong."""
    return [
        {
            "video_id": f"v{i}", "duration": "short", "domain": "Knowledge", "sub_category": "Law",
            "questions": [
                {
                    "question_id": f"q{i}", "task_type": task, "question": f"Question {i}?",
                    "options": options, "answer": "A",
                    "response": options[1] if i % wrong_every == 0 else "A.",
                }
            ],
        }
        for i in range(start, start + count)
    ]  # fmt: skip


def scored(tmp_path, records):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(records))
    return score_benchmark("videomme", path, resamples=200)


def row(score, name):
    return next(r for r in score.table if r.name == name)


def test_wrong_answers_have_frames_and_options(tmp_path):
    score = scored(tmp_path, questions(6))
    sources = {
        "q0": VideoSource(str(CLIP), 10_000_000, 20_000_000),
        "q3": VideoSource("gone.mp4"),
    }
    write_report(tmp_path / "report", score, {}, sources=sources)
    text = (tmp_path / "report/report.html").read_text()
    parsed, _ = check_page(text)
    cases = re.findall(r'<section class="case">.*?</section>', text, re.DOTALL)
    assert len(cases) == 2
    assert "Question 0?" in cases[0]
    marked = re.findall(r"<li.*?>(.*?)((?: <b>\w+</b>)*)</li>", cases[0], re.DOTALL)
    assert [(o, re.findall(r"<b>(\w+)", m)) for o, m in marked] == [
        ("A. a cat", ["right"]),
        ("B. a dog", ["chosen"]),
        ("C. &lt;b&gt;a cow&lt;/b&gt;", []),
        ("D. a hen", []),
    ]
    images = re.findall(r'<img src="data:image/jpeg;base64,(.*?)".*?alt="(.*?) s">', cases[0])
    times = [float(at) for _, at in images]
    assert len(times) == 4
    assert 10.0 <= times[0] < 10.5
    assert 19.0 < times[-1] <= 20.0
    info = probe(CLIP)
    for image, at in images:
        picture = cv2.imdecode(np.frombuffer(base64.b64decode(image), np.uint8), cv2.IMREAD_COLOR_RGB)
        nearest = int(np.abs(info.frame_times_us - float(at) * 1e6).argmin())
        frame = read_frames(info, [nearest])[0]
        expected = cv2.resize(frame, picture.shape[1::-1], interpolation=cv2.INTER_AREA)
        assert np.abs(picture.astype(int) - expected).mean() < 8
    assert "<img" not in cases[1]  # its video cannot be read; the case is shown all the same
    assert "Question 3?" in cases[1]
    assert "q1" not in "".join(parsed.texts)  # a right answer is no case


def test_frames_of_a_folder_and_of_a_confined_video(tmp_path):
    """A folder of frames is shown too; a video outside the media root is not."""
    for i in range(1, 13):
        picture = np.full((20, 40, 3), 20 * i, np.uint8)
        cv2.imwrite(str(tmp_path / f"{i:05d}.png"), picture)
    pictures = question_thumbnails(VideoSource(str(tmp_path), frames_per_second=3.0))
    assert [(p.width, p.height) for p in pictures] == [(40, 20)] * len(pictures)
    shades = [cv2.imdecode(np.frombuffer(p.jpeg, np.uint8), cv2.IMREAD_COLOR).mean() for p in pictures]
    assert shades == sorted(shades)
    assert len(shades) == 4
    assert shades[0] == pytest.approx(20, abs=3)
    assert shades[-1] == pytest.approx(240, abs=3)
    elsewhere = MediaRoot.of(str(tmp_path), ())
    assert question_thumbnails(VideoSource(str(CLIP), media_root=elsewhere)) == []


def test_every_group_has_its_turn():
    def answer(i, task):
        return ScoredAnswer(f"{i}", "v", {"task": task}, False, text=AnswerText("?"))

    answers = [answer(i, "many") for i in range(50)] + [answer(50, "one"), answer(51, "two")]
    chosen = choose_evenly(answers, 5)
    assert [a.id for a in chosen] == ["0", "50", "51", "1", "2"]
    assert len(choose_evenly(answers, 100)) == len(answers)


def test_chance_is_the_mean_over_questions(tmp_path):
    records = questions(30) + questions(10, ["A. yes", "B. no"], "OCR Problems", 100)
    score = scored(tmp_path, records)
    assert row(score, "Counting Problem").chance == pytest.approx(25)
    assert row(score, "OCR Problems").chance == pytest.approx(50)
    assert score.headline.chance == pytest.approx((30 * 25 + 10 * 50) / 40)
    write_report(tmp_path / "report", score, {})
    text = (tmp_path / "report/report.html").read_text()
    assert "31.2%" in text  # among the first figures
    assert ">chance</text>" in text  # and in the plots


def test_chance_is_unknown_where_options_are(tmp_path):
    records = questions(3)
    del records[0]["questions"][0]["options"]
    score = scored(tmp_path, records)
    assert math.isnan(score.headline.chance)
    assert score.headline.to_json()["chance"] is None
    write_report(tmp_path / "report", score, {})
    assert ">chance</text>" not in (tmp_path / "report/report.html").read_text()


def test_intervals_are_shown_of_enough_videos_only(tmp_path):
    few, many = scored(tmp_path, questions(19)), scored(tmp_path, questions(20))
    assert math.isfinite(few.headline.low)  # computed, for who reads the JSON
    shown = [re.search(r"Video-MME: .*", format_score(score))[0] for score in (few, many)]
    assert [bool(re.search(r"\[\d+\.\d, \d+\.\d\]", line)) for line in shown] == [False, True]
    for score, whiskers in ((few, False), (many, True)):
        write_report(tmp_path / "report", score, {})
        text = (tmp_path / "report/report.html").read_text()
        assert ("95% interval [" in text) == whiskers
        assert ("with 95% intervals" in text) == whiskers


def test_all_right_has_no_interval(tmp_path):
    score = scored(tmp_path, questions(40, wrong_every=10**9, start=1))
    assert score.headline.accuracy == 100
    assert not score.headline.has_interval


def test_crossed_groups_of_few_answers_are_left_out(tmp_path):
    score = scored(tmp_path, questions(12) + questions(1, task="OCR Problems", start=90))
    write_report(tmp_path / "report", score, {})
    text = (tmp_path / "report/report.html").read_text()
    assert "short / Counting Problem" in text
    assert "short / OCR Problems" not in text
    record = json.loads((tmp_path / "report/report.json").read_text())
    assert "short / OCR Problems" in [r["name"] for r in record["rows"]]
    assert "short / OCR Problems" not in format_score(score, full=True)


def test_a_comparison_follows_the_same_rules(tmp_path):
    a, b = (scored(tmp_path, questions(n)) for n in (12, 40))
    few = compare_accuracy(a.layout, a.answers, b.answers, 200)
    assert not any(d.has_interval for d in few.differences)
    other = scored(tmp_path, questions(40, wrong_every=2))
    enough = compare_accuracy(a.layout, other.answers, b.answers, 200)
    assert enough.differences[0].videos == 40
    assert enough.differences[0].has_interval
