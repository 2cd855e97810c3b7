"""Whatever a file holds, nothing crashes and nothing is lost: every row is an answer or a count."""

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from livecc_jax.errors import LiveCCError
from livecc_jax.evaluate.benchmarks.annotations import READERS as QUESTION_READERS
from livecc_jax.evaluate.benchmarks.catalog import LAYOUTS
from livecc_jax.evaluate.benchmarks.results import READERS
from livecc_jax.evaluate.metrics.score import counts
from livecc_jax.evaluate.metrics.tables import table
from livecc_jax.evaluate.metrics.verdicts import read_verdicts

JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 12), st.floats(), st.text(max_size=4),
    st.lists(st.integers(0, 3), max_size=3),
    st.dictionaries(st.text(max_size=3), st.none(), max_size=2),
)  # fmt: skip
ANSWER = st.sampled_from(["A", "B. x", "", "Yes", "3", "I think C", "\u2028"])


def rows_of(good):
    """Rows of a layout in which any field may be junk or absent."""
    fields = {key: st.one_of(*[value] * 9, JUNK) for key, value in good.items()}
    return st.one_of(st.fixed_dictionaries({}, optional=fields), st.fixed_dictionaries(fields), JUNK)


QUESTION = {
    "question_id": st.sampled_from(["1-1", "1-2"]), "task_type": st.just("OCR Problems"),
    "question": st.text(max_size=3), "q_type": st.sampled_from(["Who", "When"]),
    "OCR": st.integers(0, 1), "answer": ANSWER, "response": ANSWER,
}  # fmt: skip
VIDEO = {
    "video_id": st.sampled_from(["1", "2"]), "video": st.just("a.mp4"), "duration": st.just("short"),
    "domain": st.just("Knowledge"), "sub_category": st.just("Law"),
    "questions": st.lists(rows_of(QUESTION), max_size=3), "missing": st.booleans(),
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
few = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@few
@given(st.data())
def test_results(tmp_path, data):
    name = data.draw(st.sampled_from(sorted(READERS)))
    layout = OVO if name == "ovobench" else VIDEO
    rows = data.draw(st.lists(rows_of(layout), max_size=5))
    path = tmp_path / "r.json"
    path.write_text(json.dumps(rows))
    entries = READERS[name](path)
    lines = tmp_path / "r.jsonl"
    lines.write_text("\n".join(json.dumps(r) for r in rows) + "\nnot json\n")
    again = READERS[name](lines)
    assert again.items == entries.items
    assert again.problems["malformed"] >= entries.problems["malformed"]
    told = counts(entries)
    # Every question, or every row without any, is an answer, a malformed row or a missing video.
    whole = sum(
        len(r["questions"]) if isinstance(r.get("questions"), list) and not r.get("missing") else 1
        for r in (r if isinstance(r, dict) else {} for r in rows)
    ) if layout is VIDEO else len(rows)  # fmt: skip
    assert len(entries.items) + told["malformed"] + told["missing videos"] == whole
    assert len(entries.items) == told["items"] + told["duplicate"]
    for row in table(LAYOUTS[name], entries, resamples=5):
        assert row.count is None or 0 <= row.correct <= row.count


@few
@given(st.lists(rows_of(VERDICT), max_size=5))
def test_verdicts(tmp_path, rows):
    path = tmp_path / "Other_Mine.jsonl"
    path.write_text("\n".join(json.dumps(r) for r in rows) + "\n{}\n")
    try:
        found = read_verdicts(path, "Mine")
    except LiveCCError:
        return  # more than two names won
    told = counts(found.entries)
    assert len(found.entries.items) % 2 == 0
    assert len(found.entries.items) == told["items"] + told["duplicate"]


ASKED = {
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


@few
@given(st.data())
def test_questions(tmp_path, data):
    name = data.draw(st.sampled_from(sorted(QUESTION_READERS)))
    rows = data.draw(st.lists(rows_of(ASKED), max_size=4))
    path = tmp_path / "questions.json"
    path.write_text(json.dumps(rows))
    found = QUESTION_READERS[name](path)
    ids = [q.id for q in found.questions]
    assert len(ids) == len(set(ids))
    for question in found.questions:
        assert len(question.options) == len(question.responses) >= 2
        source = question.source
        assert source.start_us is None or source.end_us is None or source.clamp or (
            source.start_us < source.end_us
        )  # fmt: skip
    if name != "ovobench":
        told = found.entries.problems
        assert len(ids) + told["malformed"] + told["duplicate"] == len(rows)
