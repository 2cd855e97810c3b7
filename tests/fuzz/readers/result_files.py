"""Result files of benchmarks; an independent count of right answers by the published rule."""

import json
from pathlib import Path

from livecc_jax.errors import DataError
from livecc_jax.evaluate.benchmarks.results import RESULT_READERS
from livecc_jax.evaluate.judge.commentaries import read_commentaries
from livecc_jax.evaluate.metrics.score import count_answers
from livecc_jax.evaluate.metrics.verdicts import read_verdicts
from tests.fuzz.reader import Reader, all_files

QUESTION = {
    "question_id": "1-1", "task_type": "OCR Problems", "question": "What?", "q_type": "Who",
    "OCR": 1, "answer": "A", "response": "A. It is.",
}  # fmt: skip
VIDEO = {
    "video_id": "1", "video": "a.mp4", "duration": "short", "domain": "Knowledge",
    "sub_category": "Law",
    "questions": [QUESTION, QUESTION | {"question_id": "1-2", "response": "B", "question": "Who?"}],
}  # fmt: skip
OVO = {"id": 3, "task": "OCR", "video": "a.mp4", "question": "?", "answer": "A", "response": "A"}
VERDICT = {"video_event_id": "a_1", "ab_winner": "Mine", "ba_winner": "tie"}
COMMENTARY = {"video_id": "a", "event_id": 1, "pred": "A goal."}


def _prepare(folder: Path) -> None:
    videos = [VIDEO, VIDEO | {"video_id": "2", "video": "b.mp4"}]
    for name in ("videomme", "mvbench", "livesports-qa"):
        (folder / f"{name}.json").write_text(json.dumps(videos))
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(v) + "\n" for v in videos))
    (folder / "ovobench.jsonl").write_text(
        "".join(json.dumps(OVO | {"id": i}) + "\n" for i in range(4))
    )
    groups = {
        "backward": [{"id": 1, "task": "EPM", "ground_truth": "A", "response": "A"}],
        "realtime": [{"id": 2, "task": "OCR", "ground_truth": "B", "response": "A"}],
        "forward": [{"id": 3, "task": "REC", "test_info": [{"count": 3, "response": "3"}]}],
    }
    (folder / "ovobench.json").write_text(json.dumps(groups))
    (folder / "Other_Mine.jsonl").write_text("".join(json.dumps(VERDICT) + "\n" for _ in range(3)))
    (folder / "commentary.jsonl").write_text(
        "".join(json.dumps(COMMENTARY | {"event_id": i}) + "\n" for i in "12")
    )


def _read(folder: Path, file: str):
    path = folder / file
    if file == "Other_Mine.jsonl":
        answers = read_verdicts(path, "Mine").answers
    elif file == "commentary.jsonl":
        return read_commentaries(path, ("pred", "response"))[0]
    else:
        answers = RESULT_READERS[path.stem](path)
    return answers, count_answers(answers)


def _differs(folder: Path, file: str, value) -> str:
    records = _records(folder / file)
    if isinstance(value, dict):
        expected: dict[str, str] = {}
        for r in records:
            if isinstance(r, dict) and isinstance(r.get("video_id"), str) and "event_id" in r:
                expected.setdefault(
                    f"{r['video_id']}_{r['event_id']}", r.get("pred", r.get("response"))
                )
        wrong = [k for k, text in value.items() if expected.get(k) not in (text, None)]
        return f"another text for {wrong[:3]!a}" if wrong else ""
    answers, counts = value
    stem = Path(file).stem
    if stem not in ("mvbench", "livesports-qa"):
        return "" if len(answers.items) == counts["items"] + counts["duplicate"] else "counts disagree"
    lists = [r.get("questions") for r in records if isinstance(r, dict) and not r.get("missing")]
    questions = [q for value in lists if isinstance(value, list) for q in value if isinstance(q, dict)]
    # The published rule: the first character of the response is the answer.
    right = sum(
        isinstance(q.get("response"), str) and q["response"][:1] == q.get("answer") != ""
        for q in questions
    )
    found = sum(item.correct for item in answers.items)
    if found > right:
        return f"{found} right answers, but the file has {right}"
    return "" if right == found or counts["malformed"] else f"{found} of {right} right answers"


def _records(path: Path) -> list:
    """Returns the records by Python's json; a line that it does not read is left out."""
    text = path.read_text("utf-8", "replace")
    if text.lstrip().startswith("[") and path.suffix == ".json":
        try:
            value = json.loads(text)
        except ValueError as error:
            raise DataError(str(error)) from error
        return value if isinstance(value, list) else []
    out = []
    for line in text.split("\n"):
        try:
            out.append(json.loads(line))
        except (ValueError, RecursionError):
            continue
    return out


READER = Reader("results", _prepare, all_files, _read, _differs, is_text=True, share=1.2, fast=50)
