"""Questions are read from every layout that a benchmark comes in."""

import json

import pyarrow
import pyarrow.parquet

from livecc_jax.evaluate.benchmarks.annotations import read_questions
from tests.support.benchmark_data import write_ovobench, write_videomme

SECOND_US = 1_000_000


def test_videomme_with_subtitles_and_from_parquet(tmp_path):
    data = write_videomme(tmp_path / "videomme")
    texts = {q.id: q.text for q in read_questions("videomme", data).questions}
    assert texts["001-1"] == (
        "Which 1?\nA. One.\nB. Two.\nC. Three.\nD. Four.\nPlease select the correct answer."
    )
    with_subtitles = read_questions("videomme", data, subtitles=True)
    assert {q.id: q.text for q in with_subtitles.questions}["001-1"] == (
        "This video's subtitles are listed below:\nA big rabbit comes out.\n"
        "According to the video and subtitles, " + texts["001-1"]
    )
    assert with_subtitles.problem_log.problems["without subtitles"] == 2

    lines = (data / "videomme.jsonl").read_text().splitlines()[:9]
    records = [json.loads(json.loads(line)) for line in lines]
    (data / "videomme").mkdir()
    file = data / "videomme/test-00000-of-00001.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), file)
    for path in (file, data):
        (data / "videomme.jsonl").unlink(missing_ok=True)
        questions = {q.id: q for q in read_questions("videomme", path).questions}
        assert {k: q.text for k, q in questions.items()} == texts
        assert questions["001-1"].source.path == str(data / "data/bunny.mp4")


def test_ovobench_has_a_question_for_each_time(tmp_path):
    """The video is shown up to that time; the answer is yes, no or a number."""
    question_set = read_questions("ovobench", write_ovobench(tmp_path / "data"))
    assert {q.id: (q.answer, q.source.start_us, q.source.end_us) for q in question_set.questions} == {
        "OJR/0": ("B", 0, 4 * SECOND_US),
        "EPM/1": ("A", 0, 4 * SECOND_US),
        "REC/2#0": ("0", 0, 3 * SECOND_US),
        "REC/2#1": ("12", 0, 8 * SECOND_US),
        "SSR/3#0": ("Yes", 0, 5 * SECOND_US),
        "CRR/4#0": ("No", 2 * SECOND_US, 7 * SECOND_US),
        "CRR/4#1": ("Yes", 2 * SECOND_US, 99 * SECOND_US),
    }
    assert question_set.problem_log.problems["malformed"] == 1
    assert "jump" in question_set.questions[2].text
    assert len(question_set.questions[0].options) == 17
    wordings = {"REC": "Count: {activity}"}
    question_set = read_questions("ovobench", tmp_path / "data", wordings=wordings)
    assert question_set.questions[2].text == "Count: jump"
