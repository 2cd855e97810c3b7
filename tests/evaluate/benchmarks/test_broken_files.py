"""No content of a file crashes a reader: every record becomes an answer or is counted."""

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from livecc_jax.errors import LiveCCError
from livecc_jax.evaluate.benchmarks.annotations import QUESTION_READERS
from livecc_jax.evaluate.benchmarks.catalog import TABLE_LAYOUTS
from livecc_jax.evaluate.benchmarks.results import RESULT_READERS
from livecc_jax.evaluate.metrics.accuracy_table import accuracy_table
from livecc_jax.evaluate.metrics.score import count_answers
from livecc_jax.evaluate.metrics.verdicts import read_verdicts

JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 12), st.floats(), st.text(max_size=4),
    st.lists(st.integers(0, 3), max_size=3),
    st.dictionaries(st.text(max_size=3), st.none(), max_size=2),
)  # fmt: skip
ANSWER = st.sampled_from(["A", "B. x", "", "Yes", "3", "I think C", "\u2028"])


def records_like(fields_of_layout):
    """Records of a layout in which any field may be junk or absent."""
    fields = {key: st.one_of(*[value] * 9, JUNK) for key, value in fields_of_layout.items()}
    return st.one_of(st.fixed_dictionaries({}, optional=fields), st.fixed_dictionaries(fields), JUNK)


QUESTION = {
    "question_id": st.sampled_from(["1-1", "1-2"]), "task_type": st.just("OCR Problems"),
    "question": st.text(max_size=3), "q_type": st.sampled_from(["Who", "When"]),
    "OCR": st.integers(0, 1), "answer": ANSWER, "response": ANSWER,
}  # fmt: skip
VIDEO = {
    "video_id": st.sampled_from(["1", "2"]), "video": st.just("a.mp4"), "duration": st.just("short"),
    "domain": st.just("Knowledge"), "sub_category": st.just("Law"),
    "questions": st.lists(records_like(QUESTION), max_size=3), "missing": st.booleans(),
}  # fmt: skip
OVO = {
    "id": st.integers(0, 2), "task": st.sampled_from(["OCR", "REC", "CRR", "EPM"]),
    "video": st.just("a.mp4"), "answer": ANSWER, "response": ANSWER,
}  # fmt: skip
VERDICT = {
    "video_event_id": st.sampled_from(["a_1", "a_2"]),
    "ab_winner": st.sampled_from(["Mine", "Other", "tie"]),
    "ba_winner": st.sampled_from(["Mine", "Other", "tie"]),
}
hundred_examples = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@hundred_examples
@given(st.data())
def test_results(tmp_path, data):
    name = data.draw(st.sampled_from(sorted(RESULT_READERS)))
    layout = OVO if name == "ovobench" else VIDEO
    records = data.draw(st.lists(records_like(layout), max_size=5))
    path = tmp_path / "r.json"
    path.write_text(json.dumps(records))
    answers = RESULT_READERS[name](path)
    lines = tmp_path / "r.jsonl"
    lines.write_text("\n".join(json.dumps(r) for r in records) + "\nnot json\n")
    again = RESULT_READERS[name](lines)
    assert again.items == answers.items
    assert again.problems["malformed"] >= answers.problems["malformed"]
    counts = count_answers(answers)
    # Every question, or every record without any, is an answer, malformed or a missing video.
    total = sum(
        len(r["questions"]) if isinstance(r.get("questions"), list) and not r.get("missing") else 1
        for r in (r if isinstance(r, dict) else {} for r in records)
    ) if layout is VIDEO else len(records)  # fmt: skip
    assert len(answers.items) + counts["malformed"] + counts["missing videos"] == total
    assert len(answers.items) == counts["items"] + counts["duplicate"]
    for row in accuracy_table(TABLE_LAYOUTS[name], answers, resamples=5):
        assert row.count is None or 0 <= row.correct <= row.count


@hundred_examples
@given(st.lists(records_like(VERDICT), max_size=5))
def test_verdicts(tmp_path, records):
    path = tmp_path / "Other_Mine.jsonl"
    path.write_text("\n".join(json.dumps(r) for r in records) + "\n{}\n")
    try:
        verdicts = read_verdicts(path, "Mine")
    except LiveCCError:
        return  # more than two names of winners
    counts = count_answers(verdicts.answers)
    assert len(verdicts.answers.items) % 2 == 0
    assert len(verdicts.answers.items) == counts["items"] + counts["duplicate"]


BENCHMARK_RECORD = {
    "video_id": st.sampled_from(["1", "2"]), "videoID": st.just("x"), "video": st.just("a.mp4"),
    "duration": st.just("short"), "domain": st.just("Knowledge"), "sub_category": st.just("Law"),
    "question_id": st.sampled_from(["1-1", "1-2"]), "task_type": st.just("OCR Problems"),
    "question": st.text(max_size=3), "q_type": st.just("Who"), "OCR": st.integers(0, 1),
    "options": st.just(["x", "y"]), "answer": ANSWER,
    "begin": st.floats(0, 4), "end": st.floats(0, 9),
    "id": st.integers(0, 3), "task": st.sampled_from(["OCR", "REC", "CRR", "EPM"]),
    "realtime": st.floats(0, 9), "gt": st.integers(0, 3), "activity": st.just("jump"),
    "ask_time": st.just(1),
    "test_info": st.lists(
        st.fixed_dictionaries({"realtime": st.floats(), "count": JUNK, "type": JUNK}), max_size=2
    ),
}  # fmt: skip


@hundred_examples
@given(st.data())
def test_questions(tmp_path, data):
    name = data.draw(st.sampled_from(sorted(QUESTION_READERS)))
    records = data.draw(st.lists(records_like(BENCHMARK_RECORD), max_size=4))
    path = tmp_path / "questions.json"
    path.write_text(json.dumps(records))
    question_set = QUESTION_READERS[name](path)
    ids = [q.id for q in question_set.questions]
    assert len(ids) == len(set(ids))
    for question in question_set.questions:
        assert len(question.options) == len(question.responses) >= 2
        source = question.source
        assert source.start_us is None or source.end_us is None or source.clamp or (
            source.start_us < source.end_us
        )  # fmt: skip
    if name != "ovobench":
        problems = question_set.problem_log.problems
        assert len(ids) + problems["malformed"] + problems["duplicate"] == len(records)
