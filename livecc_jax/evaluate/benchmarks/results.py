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
from livecc_jax.evaluate.benchmarks import answer_log
from livecc_jax.evaluate.benchmarks.catalog import (
    DURATIONS,
    OVO_GROUP_OF,
    VIDEOMME_DOMAINS,
    VIDEOMME_SUB_CATEGORIES,
    VIDEOMME_TASKS,
)
from livecc_jax.evaluate.benchmarks.entries import Entries, Entry, load_json, read_rows


class Malformed(Exception):
    """A row that lacks what its layout has; the message says what."""


def text(row: dict[str, Any], key: str) -> str:
    """A string field. Raises Malformed."""
    value = row.get(key)
    if not isinstance(value, str):
        raise Malformed(f"{key!r} is {'absent' if key not in row else f'{value!r:.40}'}, not a string")
    return value


def identity(row: dict[str, Any], key: str) -> str:
    """An id, which may be a number. Raises Malformed."""
    return str(row[key]) if type(row.get(key)) is int else text(row, key)


def response_of(row: dict[str, Any]) -> str:
    """The response; null or absent is no answer, as an empty one is. Raises Malformed for the rest."""
    if row.get("response") is None:
        return ""
    return text(row, "response")


def one_of(row: dict[str, Any], key: str, known: tuple[str, ...]) -> str:
    """A string field with known values. Raises Malformed."""
    value = text(row, key)
    if value not in known:
        raise Malformed(f"{key!r} is {value!r:.40}, which the benchmark does not have")
    return value


def read_videomme(path: str | Path) -> Entries:
    """Video-MME: [{video_id, duration, domain, sub_category, questions: [{question_id, task_type,
    answer, response}]}]. A response without any of A, B, C, D leaves the denominator."""
    entries = Entries(expected=2700)

    def labels(video: dict[str, Any], question: dict[str, Any]) -> dict[str, str]:
        return {
            "duration": one_of(video, "duration", DURATIONS),
            "domain": one_of(video, "domain", VIDEOMME_DOMAINS),
            "sub_category": one_of(video, "sub_category", VIDEOMME_SUB_CATEGORIES),
            "task_type": one_of(question, "task_type", VIDEOMME_TASKS),
        }

    for where, video, question in _questions(path, entries):
        with Reading(entries, where):
            letter = answer_log.videomme_letter(response_of(question))
            entries.add(
                Entry(
                    identity(question, "question_id"),
                    identity(video, "video_id"),
                    labels(video, question),
                    correct=letter == text(question, "answer"),
                    answered=letter != "",
                    counted=letter != "",
                )
            )
    return entries


def read_mvbench(path: str | Path) -> Entries:
    """MVBench as LiveCC writes it: [{video, questions: [{task_type, question, answer, response}]}].
    The response's first character is compared; no answer is a wrong one."""
    entries = Entries(expected=4000)
    for where, video, question in _questions(path, entries):
        with Reading(entries, where):
            name, task = text(video, "video"), text(question, "task_type")
            key = f"{task}/{name}/{text(question, 'question')}"
            entries.add(_by_letter(key, name, {"task_type": task}, question))
    return entries


def read_livesports_qa(path: str | Path) -> Entries:
    """LiveSports-3K QA: [{video_id, questions: [{question_id, q_type, OCR, answer, response}]}]."""
    entries = Entries(expected=1174)
    for where, video, question in _questions(path, entries):
        with Reading(entries, where):
            name = identity(video, "video_id")
            if "question_id" not in question or "OCR" not in question:
                raise Malformed("'question_id' or 'OCR' is absent")
            labels = {"q_type": text(question, "q_type")}
            if question["OCR"] == 1:
                labels["OCR"] = "OCR"
            key = f"{name}/{question['question_id']}"
            entries.add(_by_letter(key, name, labels, question))
    return entries


def read_ovobench(path: str | Path) -> Entries:
    """OVO-Bench, either layout: LiveCC's rows [{id, task, question, answer, response}], one a test
    time, or the authors' {backward, realtime, forward}. Each is scored by its own rule."""
    entries = Entries()
    if Path(path).suffix != ".jsonl":
        whole = load_json(path)
        if isinstance(whole, dict):
            _read_ovo_nested(path, whole, entries)
            return entries
    # A counting, step or clue item comes once for each test time, in order, under one id.
    times: Counter[tuple[str, str]] = Counter()
    for where, row in read_rows(path, entries):
        with Reading(entries, where):
            task = one_of(row, "task", tuple(OVO_GROUP_OF))
            key = str(row.get("id"))
            cluster = str(row.get("video", key))
            if "id" not in row:
                raise Malformed("'id' is absent")
            if OVO_GROUP_OF[task] == "forward":
                times[task, key] += 1
                key += f"#{row.get('test', times[task, key] - 1)}"
            response, answer = response_of(row), text(row, "answer")
            right = bool(answer) and answer_log.starts_with(response, answer)
            entries.add(Entry(f"{task}/{key}", cluster, _ovo(task), right, bool(response)))
    return entries


def _read_ovo_nested(path: str | Path, whole: dict[str, Any], entries: Entries) -> None:
    for group in ("backward", "realtime", "forward"):
        rows = whole.get(group, [])
        if not isinstance(rows, list):
            raise DataError(f"{path}: {group!r} is not a list")
        for i, row in enumerate(rows, 1):
            where = f"{path} {group} {i}"
            if not isinstance(row, dict):
                entries.problem("malformed", f"{where} is not an object")
                continue
            with Reading(entries, where):
                task = one_of(row, "task", tuple(OVO_GROUP_OF))
                key, cluster = f"{task}/{row.get('id')}", str(row.get("video", row.get("id")))
                if group != "forward":
                    response, truth = response_of(row), text(row, "ground_truth")
                    right = answer_log.ovo_choice(response, truth) if response else False
                    entries.add(Entry(key, cluster, _ovo(task), right, bool(response)))
                    continue
                tests = row.get("test_info")
                if not isinstance(tests, list):
                    raise Malformed("'test_info' is not a list")
                for k, test in enumerate(tests):
                    with Reading(entries, f"{where} test {k}"):
                        right, answered = _ovo_forward(task, test)
                        entry = Entry(f"{key}#{k}", cluster, _ovo(task), right, answered)
                        entries.add(entry)


def _ovo_forward(task: str, test: Any) -> tuple[bool, bool]:
    key = "count" if task == "REC" else "type"
    if not isinstance(test, dict) or type(test.get(key)) is not int:
        raise Malformed(f"{key!r} is not a whole number")
    response = response_of(test)
    if not response:
        return False, False
    if task == "REC":
        return answer_log.ovo_count(response, test["count"]), True
    return answer_log.ovo_yes_no(response, test["type"] != 0), True


def _ovo(task: str) -> dict[str, str]:
    return {"task": task, "group": OVO_GROUP_OF[task]}


def _by_letter(key: str, cluster: str, labels: dict[str, str], question: dict[str, Any]) -> Entry:
    letter, answer = answer_log.first_letter(response_of(question)), text(question, "answer")
    return Entry(key, cluster, labels, letter == answer, answered=letter != "")


def _questions(
    path: str | Path, entries: Entries
) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """(where, video, question) of the layout [{..., questions: [...]}]."""
    for where, video in read_rows(path, entries):
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


class Reading:
    """A block that reads a row: where the row is Malformed, it is counted and reading goes on."""

    def __init__(self, entries: Entries, where: str) -> None:
        self._entries, self._where = entries, where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, Malformed):
            self._entries.problem("malformed", f"{self._where}: {error}")
            return True
        return False


READERS: dict[str, Callable[[str | Path], Entries]] = {
    "videomme": read_videomme,
    "mvbench": read_mvbench,
    "ovobench": read_ovobench,
    "livesports-qa": read_livesports_qa,
}
