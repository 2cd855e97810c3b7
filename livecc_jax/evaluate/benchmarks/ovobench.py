"""Read OVO-Bench's questions; a nested item becomes one question for each time at which it is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from livecc_jax.bounded_json import read_json_file
from livecc_jax.data.files.media_root import MediaRoot
from livecc_jax.errors import ConfigError
from livecc_jax.evaluate.benchmarks.catalog import OVO_GROUP_OF
from livecc_jax.evaluate.benchmarks.questions import (
    LETTERS,
    Question,
    QuestionSet,
    VideoSource,
    format_question,
    with_letters,
)
from livecc_jax.evaluate.benchmarks.record_fields import (
    MalformedRecord,
    SkipMalformed,
    enum_field,
    parse_string_list,
    seconds_field,
    string_field,
)
from livecc_jax.evaluate.benchmarks.record_files import find_annotation, load_records, path_exists
from livecc_jax.timeline.example import seconds_to_us

OVO_FILES = ("ovo_bench_new.json", "ovo_bench*.json", "ovbench.json", "ovo*.jsonl")
OVO_OPTIONS = ("No", "Yes", *(str(i) for i in range(10)), *"ABCDE")
# Questions for the three tasks whose annotation has none; `--wordings FILE` replaces them.
OVO_WORDINGS = {
    "REC": "Up to now, how many times in all have people in this video done the following: {activity}? "
    "Answer with one number.",
    "SSR": "This is one step of a procedure: {step}\nIs somebody carrying out this very step at the "
    "end of the video? Answer Yes or No.",
    "CRR": "A question about what the video shows at its end: {question}\nDoes the video so far, its "
    "latest frames above all, show enough to answer it? Answer Yes or No.",
}


class TimedQuestion(NamedTuple):
    """A question of an item at one time.

    Attributes:
        test: Number of the time in the item; None for an item that is asked once.
        text: The user's text.
        answer: The right answer.
        start: Start in seconds of the video that is shown.
        end: End in seconds of the video that is shown.
    """

    test: int | None
    text: str
    answer: str
    start: float
    end: float


def read_ovobench_questions(
    data: Path,
    subtitles: bool = False,
    wordings: dict | None = None,
    media_root: MediaRoot | None = None,
) -> QuestionSet:
    """Reads OVO-Bench.

    The authors' layout is a list of {id, task, video, ...}; a counting, step or clue item has a list
    `test_info` of times and becomes one question for each. LiveCC's lines have one question each.
    """
    question_set = QuestionSet(find_annotation(data, OVO_FILES))
    all_wordings = OVO_WORDINGS | (wordings or {})
    root = question_set.annotation.parent
    repeats: dict[str, int] = {}
    for where, record in load_records(question_set.annotation, question_set.problem_log):
        with SkipMalformed(question_set.problem_log, where):
            task, item_id = enum_field(record, "task", tuple(OVO_GROUP_OF)), record.get("id")
            if item_id is None:
                raise MalformedRecord("'id' is absent")
            if "video_end" in record:
                timed_questions = [_read_flat_question(task, record, repeats)]
            elif OVO_GROUP_OF[task] == "forward":
                timed_questions = _read_timed_questions(task, record, all_wordings)
            else:
                timed_questions = [_read_single_question(record)]
            for test, text, answer, start, end in timed_questions:
                video, is_chunk = _find_ovo_video(root, string_field(record, "video"), item_id, test)
                span = (None, None) if is_chunk else (seconds_to_us(start), seconds_to_us(end))
                result_fields = {
                    "id": item_id,
                    "task": task,
                    "video": record["video"],
                    "question": text,
                }
                if test is not None:
                    result_fields |= {"test": test}
                question_set.add(
                    Question(
                        f"{task}/{item_id}" + (f"#{test}" if test is not None else ""),
                        VideoSource(video, *span, clamp=True),
                        text,
                        OVO_OPTIONS,
                        OVO_OPTIONS,
                        answer,
                        result_fields,
                    )
                )
    return question_set


def _read_flat_question(task: str, record: dict[str, Any], repeats: dict[str, int]) -> TimedQuestion:
    """Reads a record of LiveCC's layout; `repeats` counts the records of each item so far."""
    test, is_forward = None, OVO_GROUP_OF[task] == "forward"
    if is_forward:
        item = f"{task}/{record['id']}"
        test = repeats[item] = repeats.get(item, -1) + 1
    options, text = record.get("options"), string_field(record, "question")
    if options and not is_forward:
        text = format_question(text, parse_string_list(options))
    answer = string_field(record, "answer")
    start, end = seconds_field(record, "video_start"), seconds_field(record, "video_end")
    return TimedQuestion(test, text, answer, start, end)


def _read_single_question(record: dict[str, Any]) -> TimedQuestion:
    """Reads an item with options that is asked once."""
    options = with_letters(parse_string_list(record.get("options")))
    truth = record.get("gt")
    if type(truth) is not int or not 0 <= truth < len(options):
        raise MalformedRecord(f"'gt' is {truth!r:.40}, not the number of an option")
    text = format_question(string_field(record, "question"), options)
    return TimedQuestion(None, text, LETTERS[truth], 0.0, seconds_field(record, "realtime"))


def _read_timed_questions(
    task: str, record: dict[str, Any], wordings: dict[str, str]
) -> list[TimedQuestion]:
    """Reads a counting, step or clue item: one question for each of its times."""
    tests = record.get("test_info")
    if not isinstance(tests, list) or not tests:
        raise MalformedRecord("'test_info' is not a list of times")
    timed_questions = []
    for k, test in enumerate(tests):
        if not isinstance(test, dict):
            raise MalformedRecord(f"test {k} is not an object")
        end, start = seconds_field(test, "realtime"), 0.0
        truth = test.get("count" if task == "REC" else "type")
        if type(truth) is not int:
            raise MalformedRecord(f"test {k} has no whole number for an answer")
        if task == "REC":
            text = wordings[task].replace("{activity}", string_field(record, "activity"))
            answer = str(truth)
        else:
            answer = ("No", "Yes")[truth != 0]
            if task == "SSR":
                text = wordings[task].replace("{step}", string_field(test, "step"))
            else:
                text = wordings[task].replace("{question}", string_field(record, "question"))
                start = seconds_field(record, "ask_time")
        timed_questions.append(TimedQuestion(k, text, answer, start, end))
    return timed_questions


def _find_ovo_video(root: Path, name: str, item_id: Any, test: int | None) -> tuple[str, bool]:
    """Returns (path, False) of the full video, or (path, True) of the chunk that the authors made."""
    for folder in (".", "src_videos", "videos"):
        if path_exists(root / folder / name):
            return str(root / folder / name), False
    chunk = root / "chunked_videos" / (f"{item_id}.mp4" if test is None else f"{item_id}_{test}.mp4")
    return (str(chunk), True) if path_exists(chunk) else (str(root / name), False)


def read_wordings(path: str | Path | None) -> dict[str, str]:
    """Reads questions for OVO-Bench's tasks that have none in the annotation.

    Args:
        path: JSON file of {REC: "... {activity} ...", SSR: "... {step} ...",
            CRR: "... {question} ..."}; None gives no questions.

    Raises:
        ConfigError: The file cannot be read, or a question lacks its placeholder.
    """
    if path is None:
        return {}
    try:
        wordings = read_json_file(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: the wordings cannot be read: {error}") from error
    placeholders = {"REC": "{activity}", "SSR": "{step}", "CRR": "{question}"}
    for task, wording in wordings.items() if isinstance(wordings, dict) else [("", "")]:
        if (
            task not in placeholders
            or not isinstance(wording, str)
            or placeholders[task] not in wording
        ):
            raise ConfigError(
                f"{path}: must have strings for REC, SSR or CRR, each with its placeholder"
            )
    return wordings
