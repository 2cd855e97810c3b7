"""Read results files in the published layouts and score each answer by its benchmark's rule.

Where the published scoring would stop with an error (a response that is null, a record without its
keys), the record is counted and described instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from livecc_jax.errors import DataError
from livecc_jax.evaluate.benchmarks import answer_extraction
from livecc_jax.evaluate.benchmarks.answer_text import answer_text
from livecc_jax.evaluate.benchmarks.catalog import (
    DURATIONS,
    OVO_GROUP_OF,
    VIDEOMME_DOMAINS,
    VIDEOMME_SUB_CATEGORIES,
    VIDEOMME_TASKS,
)
from livecc_jax.evaluate.benchmarks.record_fields import (
    MalformedRecord,
    SkipMalformed,
    enum_field,
    id_field,
    response_field,
    string_field,
)
from livecc_jax.evaluate.benchmarks.record_files import load_json, read_records
from livecc_jax.evaluate.benchmarks.scored_answers import ScoredAnswer, ScoredAnswers

# Tasks of OVO-Bench that are answered with a word; a count has no list of options.
OVO_CHOICES = {"SSR": ("No", "Yes"), "CRR": ("No", "Yes")}


def read_videomme_results(path: str | Path) -> ScoredAnswers:
    """Scores Video-MME's layout.

    [{video_id, duration, domain, sub_category,
      questions: [{question_id, task_type, answer, response}]}].
    A response without any of A, B, C, D is left out of the denominator.
    """
    answers = ScoredAnswers(expected=2700)

    def labels(video: dict[str, Any], question: dict[str, Any]) -> dict[str, str]:
        return {
            "duration": enum_field(video, "duration", DURATIONS),
            "domain": enum_field(video, "domain", VIDEOMME_DOMAINS),
            "sub_category": enum_field(video, "sub_category", VIDEOMME_SUB_CATEGORIES),
            "task_type": enum_field(question, "task_type", VIDEOMME_TASKS),
        }

    for where, video, question in _read_video_questions(path, answers):
        with SkipMalformed(answers, where):
            letter = answer_extraction.extract_videomme_letter(response_field(question))
            answers.add(
                ScoredAnswer(
                    id_field(question, "question_id"),
                    id_field(video, "video_id"),
                    labels(video, question),
                    correct=letter == string_field(question, "answer"),
                    answered=letter != "",
                    in_denominator=letter != "",
                    text=answer_text(question),
                )
            )
    return answers


def read_mvbench_results(path: str | Path) -> ScoredAnswers:
    """Scores MVBench's results in LiveCC's layout.

    [{video, questions: [{task_type, question, answer, response}]}]. The first character of the response
    is compared; a question that is not answered is wrong.
    """
    answers = ScoredAnswers(expected=4000)
    for where, video, question in _read_video_questions(path, answers):
        with SkipMalformed(answers, where):
            name, task = string_field(video, "video"), string_field(question, "task_type")
            question_id = f"{task}/{name}/{string_field(question, 'question')}"
            answers.add(_score_first_letter(question_id, name, {"task_type": task}, question))
    return answers


def read_livesports_qa_results(path: str | Path) -> ScoredAnswers:
    """Scores LiveSports-3K QA's layout.

    [{video_id, questions: [{question_id, q_type, OCR, answer, response}]}].
    """
    answers = ScoredAnswers(expected=1174)
    for where, video, question in _read_video_questions(path, answers):
        with SkipMalformed(answers, where):
            name = id_field(video, "video_id")
            if "question_id" not in question or "OCR" not in question:
                raise MalformedRecord("'question_id' or 'OCR' is absent")
            labels = {"q_type": string_field(question, "q_type")}
            if question["OCR"] == 1:
                labels["OCR"] = "OCR"
            question_id = f"{name}/{question['question_id']}"
            answers.add(_score_first_letter(question_id, name, labels, question))
    return answers


def read_ovobench_results(path: str | Path) -> ScoredAnswers:
    """Scores either layout of OVO-Bench, each by its own rule.

    LiveCC's layout is [{id, task, question, answer, response}], a record for each time at which a
    question is asked; the authors' layout is {backward, realtime, forward}.
    """
    answers = ScoredAnswers()
    if Path(path).suffix != ".jsonl":
        value = load_json(path)
        if isinstance(value, dict):
            _score_ovo_groups(path, value, answers)
            return answers
    # A counting, step or clue item has one record for each of its times, in order, all with its id.
    repeats: Counter[tuple[str, str]] = Counter()
    for where, record in read_records(path, answers):
        with SkipMalformed(answers, where):
            task = enum_field(record, "task", tuple(OVO_GROUP_OF))
            item_id = str(record.get("id"))
            cluster = str(record.get("video", item_id))
            if "id" not in record:
                raise MalformedRecord("'id' is absent")
            if OVO_GROUP_OF[task] == "forward":
                repeats[task, item_id] += 1
                item_id += f"#{record.get('test', repeats[task, item_id] - 1)}"
            response, answer = response_field(record), string_field(record, "answer")
            correct = bool(answer) and answer_extraction.response_starts_with_answer(response, answer)
            text = answer_text(record, options=OVO_CHOICES.get(task, ()))
            answers.add(
                ScoredAnswer(
                    f"{task}/{item_id}",
                    cluster,
                    _ovo_labels(task),
                    correct,
                    bool(response),
                    text=text,
                )
            )
    return answers


def _score_ovo_groups(path: str | Path, groups: dict[str, Any], answers: ScoredAnswers) -> None:
    """Scores the layout of OVO-Bench's authors."""
    for group in ("backward", "realtime", "forward"):
        records = groups.get(group, [])
        if not isinstance(records, list):
            raise DataError(f"{path}: {group!r} is not a list")
        for i, record in enumerate(records, 1):
            where = f"{path} {group} {i}"
            if not isinstance(record, dict):
                answers.add_problem("malformed", f"{where} is not an object")
                continue
            with SkipMalformed(answers, where):
                task = enum_field(record, "task", tuple(OVO_GROUP_OF))
                item_id = f"{task}/{record.get('id')}"
                cluster = str(record.get("video", record.get("id")))
                if group != "forward":
                    response, truth = response_field(record), string_field(record, "ground_truth")
                    correct = bool(response) and answer_extraction.ovo_letter_matches(response, truth)
                    text = answer_text(record, truth)
                    answers.add(
                        ScoredAnswer(
                            item_id, cluster, _ovo_labels(task), correct, bool(response), text=text
                        )
                    )
                    continue
                tests = record.get("test_info")
                if not isinstance(tests, list):
                    raise MalformedRecord("'test_info' is not a list")
                for k, test in enumerate(tests):
                    with SkipMalformed(answers, f"{where} test {k}"):
                        correct, answered = _score_ovo_test(task, test)
                        labels, choices = _ovo_labels(task), OVO_CHOICES.get(task, ())
                        text = answer_text(test, options=choices)
                        answers.add(
                            ScoredAnswer(
                                f"{item_id}#{k}", cluster, labels, correct, answered, text=text
                            )
                        )


def _score_ovo_test(task: str, test: Any) -> tuple[bool, bool]:
    """Returns (correct, answered) for one time of a counting, step or clue item."""
    key = "count" if task == "REC" else "type"
    if not isinstance(test, dict) or type(test.get(key)) is not int:
        raise MalformedRecord(f"{key!r} is not a whole number")
    response = response_field(test)
    if not response:
        return False, False
    if task == "REC":
        return answer_extraction.ovo_count_matches(response, test["count"]), True
    return answer_extraction.ovo_yes_no_matches(response, test["type"] != 0), True


def _ovo_labels(task: str) -> dict[str, str]:
    return {"task": task, "group": OVO_GROUP_OF[task]}


def _score_first_letter(
    question_id: str, cluster: str, labels: dict[str, str], question: dict[str, Any]
) -> ScoredAnswer:
    letter = answer_extraction.extract_first_letter(response_field(question))
    correct = letter == string_field(question, "answer")
    text = answer_text(question)
    return ScoredAnswer(question_id, cluster, labels, correct, answered=letter != "", text=text)


def _read_video_questions(
    path: str | Path, answers: ScoredAnswers
) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yields (where, video, question) of the layout [{..., questions: [...]}]."""
    for where, video in read_records(path, answers):
        if video.get("missing"):
            answers.add_problem("missing video", f"{where} says so")
            continue
        questions = video.get("questions")
        if not isinstance(questions, list):
            answers.add_problem("malformed", f"{where}: 'questions' is not a list")
            continue
        for i, question in enumerate(questions, 1):
            if isinstance(question, dict):
                yield f"{where} question {i}", video, question
            else:
                answers.add_problem("malformed", f"{where} question {i} is not an object")


RESULT_READERS: dict[str, Callable[[str | Path], ScoredAnswers]] = {
    "videomme": read_videomme_results,
    "mvbench": read_mvbench_results,
    "ovobench": read_ovobench_results,
    "livesports-qa": read_livesports_qa_results,
}
