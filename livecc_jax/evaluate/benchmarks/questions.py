"""Multiple-choice questions about videos, and the file layouts that benchmarks come in."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from livecc_jax.errors import DataError
from livecc_jax.evaluate.benchmarks.results import MalformedRecord, string_field
from livecc_jax.evaluate.benchmarks.scored_answers import ScoredAnswers, load_json, read_records
from livecc_jax.timeline.example import microseconds

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")
LIVESPORTS_VIDEO_FOLDERS = ("videos", "video", ".")  # of LiveSports-3K, beside its annotation
ANSWER_INSTRUCTION = "\nPlease select the correct answer."
LETTERS = "ABCDEFGH"


@dataclass(frozen=True)
class VideoSource:
    """What is watched: a video file or a folder of numbered frames, or a span of it.

    clamp: a span outside the video is moved into it and lasts at least a second (OVO-Bench), instead of
    being an error. frames_per_second: of a folder.
    """

    path: str
    start_us: int | None = None
    end_us: int | None = None
    clamp: bool = False
    frames_per_second: float = 3.0


@dataclass(frozen=True)
class Question:
    """One question.

    text: what the user says after the video; options: the strings compared after the answer prefix;
    responses: what is written for each if it is chosen; row: the result's other fields.
    """

    id: str
    source: VideoSource
    text: str
    options: tuple[str, ...]
    responses: tuple[str, ...]
    answer: str
    row: dict[str, Any]


@dataclass(frozen=True)
class PromptTemplate:
    """How a benchmark asks: the answer prefix, and what precedes an option when its token is found."""

    prefix: str = "Answer:"
    before: str = ": "


@dataclass
class QuestionSet:
    """All questions of a benchmark; entries counts what could not be used."""

    annotation: Path
    questions: list[Question] = field(default_factory=list)
    entries: ScoredAnswers = field(default_factory=ScoredAnswers)

    def add(self, question: Question) -> None:
        """Take a question; one whose id is taken is counted and left out."""
        if any(question.id == q for q in self._ids):
            self.entries.problem("duplicate", f"{question.id} is asked more than once")
            return
        self._ids.add(question.id)
        self.questions.append(question)

    def __post_init__(self) -> None:
        self._ids: set[str] = set()


def find_annotation(data: Path, names: Sequence[str]) -> Path:
    """The annotation file: `data` itself, or the first of `names` (patterns) in it.

    Raises DataError when there is none.
    """
    if data.is_file():
        return data
    for name in names:
        found = sorted(data.glob(name))
        if found:
            return found[0]
    raise DataError(f"{data}: holds none of {', '.join(names)}")


def find_video(root: Path, folders: Sequence[str], name: str) -> str:
    """A video under `root`, by its name with or without ending; the first place looked if there is none
    (asking about it will say that it is missing)."""
    for folder in folders:
        path = root / folder / name
        if path.exists():
            return str(path)
        for ending in VIDEO_SUFFIXES:
            if (with_ending := path.with_name(path.name + ending)).exists():
                return str(with_ending)
    first = root / folders[0] / name
    return str(first if first.suffix else first.with_name(first.name + VIDEO_SUFFIXES[0]))


def load_records(path: Path, entries: ScoredAnswers) -> list[tuple[str, dict[str, Any]]]:
    """Rows of JSON, JSON lines, CSV or Parquet, each with where it is.

    Raises DataError when the file cannot be read.
    """
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet
        except ImportError:
            raise DataError(
                f"{path}: Parquet needs pyarrow; install it or convert the file to JSON lines"
            ) from None
        try:
            table = pyarrow.parquet.read_table(path).to_pylist()
        except (OSError, pyarrow.ArrowInvalid) as error:
            raise DataError(f"{path}: is no readable Parquet file ({error})") from error
        return [(f"{path} row {i}", row) for i, row in enumerate(table, 1)]
    if path.suffix == ".csv":
        table = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig")))
        return [(f"{path} row {i}", row) for i, row in enumerate(table, 1)]
    if path.suffix == ".json":
        whole = load_json(path)
        if isinstance(whole, dict) and isinstance(whole.get("data"), list):
            whole = whole["data"]
        if not isinstance(whole, list):
            raise DataError(f"{path}: is not a list of questions")
        for i, row in enumerate(whole, 1):
            if not isinstance(row, dict):
                entries.problem("malformed", f"{path} entry {i} is not an object")
        return [(f"{path} entry {i}", r) for i, r in enumerate(whole, 1) if isinstance(r, dict)]
    return list(read_records(path, entries))


def with_letters(options: Sequence[str]) -> tuple[str, ...]:
    """Options that begin with their letter, `A. ...`, whether or not they came so."""
    return tuple(
        option if option[:2] == f"{letter}." else f"{letter}. {option}"
        for letter, option in zip(LETTERS, options)
    )


def format_question(question: str, options: Sequence[str], subtitles: str | None = None) -> str:
    """The user's text: question, options one a line, the request; subtitles before, if there are."""
    query = question + "\n" + "\n".join(options) + ANSWER_INSTRUCTION
    if subtitles is None:
        return query
    return (
        f"This video's subtitles are listed below:\n{subtitles}\n"
        f"According to the video and subtitles, {query}"
    )


def parse_string_list(value: Any) -> list[str]:
    """A list of strings that may have come as JSON text (CSV). Raises Malformed."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if not isinstance(value, list):
        raise MalformedRecord("a list of options is none")
    return [str(v) for v in value]


def string_field_or(row: dict[str, Any], key: str, otherwise: str) -> str:
    """A file name, or another where the row has none. Raises Malformed."""
    return string_field(row, key) if row.get(key) else otherwise


def seconds_field(row: dict[str, Any], key: str) -> float:
    """A field that is a number of seconds. Raises Malformed."""
    value = row.get(key)
    try:
        seconds = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise MalformedRecord(f"{key!r} is {value!r:.40}, not seconds") from None
    if not math.isfinite(seconds) or isinstance(value, bool):
        raise MalformedRecord(f"{key!r} is {value!r:.40}, not seconds")
    return seconds


def span_fields_us(row: dict[str, Any], start: str, end: str) -> tuple[int | None, int | None]:
    """A span in microseconds from two fields, either of which may be absent. Raises Malformed."""
    values = [
        None if row.get(k) in (None, "") else microseconds(seconds_field(row, k)) for k in (start, end)
    ]
    if None not in values and values[1] <= values[0]:
        raise MalformedRecord(f"{end!r} is not after {start!r}")
    return values[0], values[1]
