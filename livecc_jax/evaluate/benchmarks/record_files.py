"""Read the records of JSON, JSON lines, CSV and Parquet files, and find a benchmark's files."""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from livecc_jax.bounded_json import (
    JsonError,
    holds_half_character,
    parse_json,
    read_bounded,
)
from livecc_jax.errors import DataError
from livecc_jax.evaluate.benchmarks.scored_answers import ProblemLog

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")

Record = tuple[str, dict[str, Any]]  # where the record is, for messages, and its fields


def find_annotation(data: Path, patterns: Sequence[str]) -> Path:
    """Returns the annotation file: `data` itself, or the first file in it that matches a pattern.

    Raises:
        DataError: No file matches.
    """
    if data.is_file():
        return data
    for pattern in patterns:
        matches = sorted(data.glob(pattern))
        if matches:
            return matches[0]
    raise DataError(f"{data}: holds none of {', '.join(patterns)}")


def find_video(root: Path, folders: Sequence[str], name: str) -> str:
    """Returns the path of a video, given by its name with or without a suffix.

    If there is no such video, this is its path in the first folder; reading it later will report that
    it is missing.

    Args:
        root: Folder of the benchmark.
        folders: Folders under `root` to search, in this order.
        name: File name of the video, or of a folder of frames.
    """
    for folder in folders:
        path = root / folder / name
        if path_exists(path):
            return str(path)
        for suffix in VIDEO_SUFFIXES:
            if path_exists(with_suffix := path.with_name(path.name + suffix)):
                return str(with_suffix)
    first = root / folders[0] / name
    return str(first if first.suffix else first.with_name(first.name + VIDEO_SUFFIXES[0]))


def path_exists(path: Path) -> bool:
    """Returns whether a path exists; one that is no possible path (too long, a NUL in it) does not."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def load_records(path: Path, problem_log: ProblemLog) -> list[Record]:
    """Reads the records of a JSON, JSON lines, CSV or Parquet file.

    Args:
        path: The file; its suffix says the format.
        problem_log: Receives what is malformed.

    Returns:
        (where, fields) of each record.

    Raises:
        DataError: The file cannot be read.
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
        except Exception as error:  # the library raises errors of any kind for a damaged file
            raise DataError(f"{path}: is no readable Parquet file ({error})") from error
        return [(f"{path} row {i}", record) for i, record in enumerate(table, 1)]
    if path.suffix == ".csv":
        try:
            table = list(csv.DictReader(io.StringIO(_read_text(path))))
        except csv.Error as error:
            raise DataError(f"{path}: is no readable CSV file ({error})") from error
        return [(f"{path} row {i}", record) for i, record in enumerate(table, 1)]
    if path.suffix == ".json":
        value = _load_json(path, half_characters=True)
        if isinstance(value, dict) and isinstance(value.get("data"), list):
            value = value["data"]
        if not isinstance(value, list):
            raise DataError(f"{path}: is not a list of questions")
        entries = ((f"{path} entry {i}", entry) for i, entry in enumerate(value, 1))
        return list(_usable_records(entries, problem_log))
    return list(read_records(path, problem_log))


def read_records(path: str | Path, problem_log: ProblemLog) -> Iterator[Record]:
    """Yields the objects of a JSON array or of JSON lines, each with a description of where it is.

    A value that is not an object, or a line that is not JSON, is counted as malformed and skipped.

    Raises:
        DataError: The file cannot be read, is empty, or is a truncated JSON file.
    """
    return _usable_records(_read_values(Path(path), problem_log), problem_log)


def _usable_records(values: Iterable[tuple[str, Any]], problem_log: ProblemLog) -> Iterator[Record]:
    """Yields the values that are objects of proper text; the others are counted as malformed."""
    for where, value in values:
        if not isinstance(value, dict):
            problem_log.add_problem("malformed", f"{where} is not an object")
        elif holds_half_character(value):
            problem_log.add_problem("malformed", f"{where} holds half a character (a lone surrogate)")
        else:
            yield where, value


def load_json(path: str | Path) -> Any:
    """Returns the value of a JSON file.

    Raises:
        DataError: The file cannot be read or is not JSON; the message names the file and the line.
    """
    return _load_json(Path(path), half_characters=False)


def _load_json(path: Path, half_characters: bool) -> Any:
    text = _read_text(path)
    try:
        return parse_json(text, half_characters=half_characters)
    except JsonError as error:
        where = f"{path} line {error.line}" if error.line else path
        raise DataError(f"{where}: {error.within_line}") from error


def _read_values(path: Path, problem_log: ProblemLog) -> Iterator[tuple[str, Any]]:
    text = _read_text(path)
    # An array is one value that spans the file; every other layout has one value a line.
    if path.suffix != ".jsonl" and text.lstrip().startswith("["):
        values = _load_json(path, half_characters=True)
        yield from ((f"{path} entry {i}", value) for i, value in enumerate(values, 1))
        return
    # splitlines() would also split at Unicode line separators, which strings may contain.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            value = parse_json(line, half_characters=True)
        except JsonError as error:
            problem_log.add_problem("malformed", f"{where}: {error.reason}")
            continue
        # Some published files hold each line as a JSON string of JSON.
        if isinstance(value, str):
            with contextlib.suppress(JsonError):
                value = parse_json(value, half_characters=True)
        yield where, value


def _read_text(path: Path) -> str:
    try:
        text = read_bounded(path).decode("utf-8-sig")
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    except JsonError as error:
        raise DataError(f"{path}: {error}") from error
    if not text.strip():
        raise DataError(f"{path}: the file is empty")
    return text
