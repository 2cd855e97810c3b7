"""OVO-Bench's questions, its nested items unfolded into one for each time they are asked at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from livecc_jax.errors import ConfigError
from livecc_jax.evaluate.benchmarks.catalog import OVO_GROUP_OF
from livecc_jax.evaluate.benchmarks.questions import (
    LETTERS,
    Question,
    QuestionSet,
    VideoSource,
    find_annotation,
    format_question,
    load_records,
    parse_string_list,
    seconds_field,
    with_letters,
)
from livecc_jax.evaluate.benchmarks.results import (
    MalformedRecord,
    SkipMalformed,
    enum_field,
    string_field,
)
from livecc_jax.timeline.example import microseconds

OVO_FILES = ("ovo_bench_new.json", "ovo_bench*.json", "ovbench.json", "ovo*.jsonl")
OVO_OPTIONS = ("No", "Yes", *(str(i) for i in range(10)), *"ABCDE")
# Our words for the three tasks whose annotation has no question; `--wordings FILE` replaces them.
OVO_WORDINGS = {
    "REC": "Up to now, how many times in all have people in this video done the following: {activity}? "
    "Answer with one number.",
    "SSR": "This is one step of a procedure: {step}\nIs somebody carrying out this very step at the "
    "end of the video? Answer Yes or No.",
    "CRR": "A question about what the video shows at its end: {question}\nDoes the video so far, its "
    "latest frames above all, show enough to answer it? Answer Yes or No.",
}


def read_ovobench_questions(
    data: Path, subtitles: bool = False, wordings: dict | None = None
) -> QuestionSet:
    """OVO-Bench: a list of {id, task, video, ...}. A counting, step or clue item has a list `test_info`
    of times, and is unfolded into a question for each. LiveCC's unfolded lines are read too."""
    found = QuestionSet(find_annotation(data, OVO_FILES))
    words = OVO_WORDINGS | (wordings or {})
    root = found.annotation.parent
    times: dict[str, int] = {}
    for where, row in load_records(found.annotation, found.entries):
        with SkipMalformed(found.entries, where):
            task, number = enum_field(row, "task", tuple(OVO_GROUP_OF)), row.get("id")
            if number is None:
                raise MalformedRecord("'id' is absent")
            forward = OVO_GROUP_OF[task] == "forward"
            if "video_end" in row:
                key, test = f"{task}/{number}", None
                if forward:
                    test = times[key] = times.get(key, -1) + 1
                lines = row.get("options")
                asked = string_field(row, "question")
                asked = (
                    format_question(asked, parse_string_list(lines)) if lines and not forward else asked
                )
                tests = [
                    (
                        test,
                        asked,
                        string_field(row, "answer"),
                        seconds_field(row, "video_start"),
                        seconds_field(row, "video_end"),
                    )
                ]
            elif forward:
                tests = _ovo_tests(task, row, words)
            else:
                options = with_letters(parse_string_list(row.get("options")))
                truth = row.get("gt")
                if type(truth) is not int or not 0 <= truth < len(options):
                    raise MalformedRecord(f"'gt' is {truth!r:.40}, not the number of an option")
                asked = format_question(string_field(row, "question"), options)
                tests = [(None, asked, LETTERS[truth], 0.0, seconds_field(row, "realtime"))]
            for test, asked, answer, start, end in tests:
                video, cut = _ovo_video(root, string_field(row, "video"), number, test)
                span = (None, None) if cut else (microseconds(start), microseconds(end))
                kept = {"id": number, "task": task, "video": row["video"], "question": asked}
                if test is not None:
                    kept |= {"test": test}
                found.add(
                    Question(
                        f"{task}/{number}" + (f"#{test}" if test is not None else ""),
                        VideoSource(video, *span, clamp=True),
                        asked,
                        OVO_OPTIONS,
                        OVO_OPTIONS,
                        answer,
                        kept,
                    )
                )
    return found


Test = tuple[int | None, str, str, float, float]


def _ovo_tests(task: str, row: dict[str, Any], words: dict[str, str]) -> list[Test]:
    tests = row.get("test_info")
    if not isinstance(tests, list) or not tests:
        raise MalformedRecord("'test_info' is not a list of times")
    out: list[Test] = []
    for k, test in enumerate(tests):
        if not isinstance(test, dict):
            raise MalformedRecord(f"test {k} is not an object")
        end, start = seconds_field(test, "realtime"), 0.0
        truth = test.get("count" if task == "REC" else "type")
        if type(truth) is not int:
            raise MalformedRecord(f"test {k} has no whole number for an answer")
        if task == "REC":
            asked, answer = words[task].replace("{activity}", string_field(row, "activity")), str(truth)
        else:
            answer = ("No", "Yes")[truth != 0]
            if task == "SSR":
                asked = words[task].replace("{step}", string_field(test, "step"))
            else:
                asked = words[task].replace("{question}", string_field(row, "question"))
                start = seconds_field(row, "ask_time")
        out.append((k, asked, answer, start, end))
    return out


def _ovo_video(root: Path, name: str, number: Any, test: int | None) -> tuple[str, bool]:
    """(path, whether it is cut already): the whole video, or the authors' chunk of it."""
    for folder in (".", "src_videos", "videos"):
        if (root / folder / name).exists():
            return str(root / folder / name), False
    chunk = root / "chunked_videos" / (f"{number}.mp4" if test is None else f"{number}_{test}.mp4")
    return (str(chunk), True) if chunk.exists() else (str(root / name), False)


def read_wordings(path: str | Path | None) -> dict[str, str]:
    """OVO-Bench's wordings from JSON, {REC: "... {activity} ...", SSR: "{step}", CRR: "{question}"}.

    Raises ConfigError when a wording lacks its place.
    """
    if path is None:
        return {}
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: the wordings cannot be read: {error}") from error
    places = {"REC": "{activity}", "SSR": "{step}", "CRR": "{question}"}
    for task, wording in found.items() if isinstance(found, dict) else [("", "")]:
        if task not in places or not isinstance(wording, str) or places[task] not in wording:
            raise ConfigError(f"{path}: must have strings for REC, SSR or CRR, each with its place")
    return found
