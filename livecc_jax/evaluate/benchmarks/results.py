"""Result files of published layouts, read and scored answer by answer.

Every reader follows the rule of the scoring that its layout comes from; where that scoring would stop
with an error (a response that is null, a row without its keys) the row is counted and named instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from livecc_jax.errors import DataError
from livecc_jax.evaluate.benchmarks import answer_extraction
from livecc_jax.evaluate.benchmarks.catalog import (
    DURATIONS,
    OVO_GROUP_OF,
    VIDEOMME_DOMAINS,
    VIDEOMME_SUB_CATEGORIES,
    VIDEOMME_TASKS,
)
from livecc_jax.evaluate.benchmarks.scored_answers import (
    ScoredAnswer,
    ScoredAnswers,
    load_json,
    read_records,
)


class MalformedRecord(Exception):
    """A row that lacks what its layout has; the message says what."""


def string_field(row: dict[str, Any], key: str) -> str:
    """A string field. Raises Malformed."""
    value = row.get(key)
    if not isinstance(value, str):
        raise MalformedRecord(
            f"{key!r} is {'absent' if key not in row else f'{value!r:.40}'}, not a string"
        )
    return value


def id_field(row: dict[str, Any], key: str) -> str:
    """An id, which may be a number. Raises Malformed."""
    return str(row[key]) if type(row.get(key)) is int else string_field(row, key)


def response_field(row: dict[str, Any]) -> str:
    """The response; null or absent is no answer, as an empty one is. Raises Malformed for the rest."""
    if row.get("response") is None:
        return ""
    return string_field(row, "response")


def enum_field(row: dict[str, Any], key: str, known: tuple[str, ...]) -> str:
    """A string field with known values. Raises Malformed."""
    value = string_field(row, key)
    if value not in known:
        raise MalformedRecord(f"{key!r} is {value!r:.40}, which the benchmark does not have")
    return value


def read_videomme_results(path: str | Path) -> ScoredAnswers:
    """Video-MME: [{video_id, duration, domain, sub_category, questions: [{question_id, task_type,
    answer, response}]}]. A response without any of A, B, C, D leaves the denominator."""
    entries = ScoredAnswers(expected=2700)

    def labels(video: dict[str, Any], question: dict[str, Any]) -> dict[str, str]:
        return {
            "duration": enum_field(video, "duration", DURATIONS),
            "domain": enum_field(video, "domain", VIDEOMME_DOMAINS),
            "sub_category": enum_field(video, "sub_category", VIDEOMME_SUB_CATEGORIES),
            "task_type": enum_field(question, "task_type", VIDEOMME_TASKS),
        }

    for where, video, question in _questions(path, entries):
        with SkipMalformed(entries, where):
            letter = answer_extraction.extract_videomme_letter(response_field(question))
            entries.add(
                ScoredAnswer(
                    id_field(question, "question_id"),
                    id_field(video, "video_id"),
                    labels(video, question),
                    correct=letter == string_field(question, "answer"),
                    answered=letter != "",
                    counted=letter != "",
                )
            )
    return entries


def read_mvbench_results(path: str | Path) -> ScoredAnswers:
    """MVBench as LiveCC writes it: [{video, questions: [{task_type, question, answer, response}]}].
    The response's first character is compared; no answer is a wrong one."""
    entries = ScoredAnswers(expected=4000)
    for where, video, question in _questions(path, entries):
        with SkipMalformed(entries, where):
            name, task = string_field(video, "video"), string_field(question, "task_type")
            key = f"{task}/{name}/{string_field(question, 'question')}"
            entries.add(_by_letter(key, name, {"task_type": task}, question))
    return entries


def read_livesports_qa_results(path: str | Path) -> ScoredAnswers:
    """LiveSports-3K QA: [{video_id, questions: [{question_id, q_type, OCR, answer, response}]}]."""
    entries = ScoredAnswers(expected=1174)
    for where, video, question in _questions(path, entries):
        with SkipMalformed(entries, where):
            name = id_field(video, "video_id")
            if "question_id" not in question or "OCR" not in question:
                raise MalformedRecord("'question_id' or 'OCR' is absent")
            labels = {"q_type": string_field(question, "q_type")}
            if question["OCR"] == 1:
                labels["OCR"] = "OCR"
            key = f"{name}/{question['question_id']}"
            entries.add(_by_letter(key, name, labels, question))
    return entries


def read_ovobench_results(path: str | Path) -> ScoredAnswers:
    """OVO-Bench, either layout: LiveCC's rows [{id, task, question, answer, response}], one a test
    time, or the authors' {backward, realtime, forward}. Each is scored by its own rule."""
    entries = ScoredAnswers()
    if Path(path).suffix != ".jsonl":
        whole = load_json(path)
        if isinstance(whole, dict):
            _read_ovo_nested(path, whole, entries)
            return entries
    # A counting, step or clue item comes once for each test time, in order, under one id.
    times: Counter[tuple[str, str]] = Counter()
    for where, row in read_records(path, entries):
        with SkipMalformed(entries, where):
            task = enum_field(row, "task", tuple(OVO_GROUP_OF))
            key = str(row.get("id"))
            cluster = str(row.get("video", key))
            if "id" not in row:
                raise MalformedRecord("'id' is absent")
            if OVO_GROUP_OF[task] == "forward":
                times[task, key] += 1
                key += f"#{row.get('test', times[task, key] - 1)}"
            response, answer = response_field(row), string_field(row, "answer")
            right = bool(answer) and answer_extraction.response_starts_with_answer(response, answer)
            entries.add(ScoredAnswer(f"{task}/{key}", cluster, _ovo(task), right, bool(response)))
    return entries


def _read_ovo_nested(path: str | Path, whole: dict[str, Any], entries: ScoredAnswers) -> None:
    for group in ("backward", "realtime", "forward"):
        rows = whole.get(group, [])
        if not isinstance(rows, list):
            raise DataError(f"{path}: {group!r} is not a list")
        for i, row in enumerate(rows, 1):
            where = f"{path} {group} {i}"
            if not isinstance(row, dict):
                entries.problem("malformed", f"{where} is not an object")
                continue
            with SkipMalformed(entries, where):
                task = enum_field(row, "task", tuple(OVO_GROUP_OF))
                key, cluster = f"{task}/{row.get('id')}", str(row.get("video", row.get("id")))
                if group != "forward":
                    response, truth = response_field(row), string_field(row, "ground_truth")
                    right = answer_extraction.ovo_letter_matches(response, truth) if response else False
                    entries.add(ScoredAnswer(key, cluster, _ovo(task), right, bool(response)))
                    continue
                tests = row.get("test_info")
                if not isinstance(tests, list):
                    raise MalformedRecord("'test_info' is not a list")
                for k, test in enumerate(tests):
                    with SkipMalformed(entries, f"{where} test {k}"):
                        right, answered = _ovo_forward(task, test)
                        entry = ScoredAnswer(f"{key}#{k}", cluster, _ovo(task), right, answered)
                        entries.add(entry)


def _ovo_forward(task: str, test: Any) -> tuple[bool, bool]:
    key = "count" if task == "REC" else "type"
    if not isinstance(test, dict) or type(test.get(key)) is not int:
        raise MalformedRecord(f"{key!r} is not a whole number")
    response = response_field(test)
    if not response:
        return False, False
    if task == "REC":
        return answer_extraction.ovo_count_matches(response, test["count"]), True
    return answer_extraction.ovo_yes_no_matches(response, test["type"] != 0), True


def _ovo(task: str) -> dict[str, str]:
    return {"task": task, "group": OVO_GROUP_OF[task]}


def _by_letter(
    key: str, cluster: str, labels: dict[str, str], question: dict[str, Any]
) -> ScoredAnswer:
    letter, answer = (
        answer_extraction.extract_first_letter(response_field(question)),
        string_field(question, "answer"),
    )
    return ScoredAnswer(key, cluster, labels, letter == answer, answered=letter != "")


def _questions(
    path: str | Path, entries: ScoredAnswers
) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """(where, video, question) of the layout [{..., questions: [...]}]."""
    for where, video in read_records(path, entries):
        if video.get("missing"):
            entries.problem("missing video", f"{where} says so")
            continue
        questions = video.get("questions")
        if not isinstance(questions, list):
            entries.problem("malformed", f"{where}: 'questions' is not a list")
            continue
        for i, question in enumerate(questions, 1):
            if isinstance(question, dict):
                yield f"{where} question {i}", video, question
            else:
                entries.problem("malformed", f"{where} question {i} is not an object")


class SkipMalformed:
    """A block that reads a row: where the row is Malformed, it is counted and reading goes on."""

    def __init__(self, entries: ScoredAnswers, where: str) -> None:
        self._entries, self._where = entries, where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, MalformedRecord):
            self._entries.problem("malformed", f"{self._where}: {error}")
            return True
        return False


RESULT_READERS: dict[str, Callable[[str | Path], ScoredAnswers]] = {
    "videomme": read_videomme_results,
    "mvbench": read_mvbench_results,
    "ovobench": read_ovobench_results,
    "livesports-qa": read_livesports_qa_results,
}
