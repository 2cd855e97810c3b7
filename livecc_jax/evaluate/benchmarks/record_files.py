"""Read the records of JSON, JSON lines, CSV and Parquet files, and find a benchmark's files."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

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
        if path.exists():
            return str(path)
        for suffix in VIDEO_SUFFIXES:
            if (with_suffix := path.with_name(path.name + suffix)).exists():
                return str(with_suffix)
    first = root / folders[0] / name
    return str(first if first.suffix else first.with_name(first.name + VIDEO_SUFFIXES[0]))


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
        except (OSError, pyarrow.ArrowInvalid) as error:
            raise DataError(f"{path}: is no readable Parquet file ({error})") from error
        return [(f"{path} row {i}", record) for i, record in enumerate(table, 1)]
    if path.suffix == ".csv":
        table = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig")))
        return [(f"{path} row {i}", record) for i, record in enumerate(table, 1)]
    if path.suffix == ".json":
        value = load_json(path)
        if isinstance(value, dict) and isinstance(value.get("data"), list):
            value = value["data"]
        if not isinstance(value, list):
            raise DataError(f"{path}: is not a list of questions")
        for i, record in enumerate(value, 1):
            if not isinstance(record, dict):
                problem_log.add_problem("malformed", f"{path} entry {i} is not an object")
        return [(f"{path} entry {i}", r) for i, r in enumerate(value, 1) if isinstance(r, dict)]
    return list(read_records(path, problem_log))


def read_records(path: str | Path, problem_log: ProblemLog) -> Iterator[Record]:
    """Yields the objects of a JSON array or of JSON lines, each with a description of where it is.

    A value that is not an object, or a line that is not JSON, is counted as malformed and skipped.

    Raises:
        DataError: The file cannot be read, is empty, or is a truncated JSON file.
    """
    for where, value in _read_values(Path(path), problem_log):
        if isinstance(value, dict):
            yield where, value
        else:
            problem_log.add_problem("malformed", f"{where} is not an object")


def load_json(path: str | Path) -> Any:
    """Returns the value of a JSON file.

    Raises:
        DataError: The file cannot be read or is not JSON; the message names the file and the line.
    """
    text = _read_text(Path(path))
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path} line {error.lineno}: broken JSON, {error.msg} at column {error.colno}"
        ) from error


def _read_values(path: Path, problem_log: ProblemLog) -> Iterator[tuple[str, Any]]:
    text = _read_text(path)
    # An array is one value that spans the file; every other layout has one value a line.
    if path.suffix != ".jsonl" and text.lstrip().startswith("["):
        values = load_json(path)
        yield from ((f"{path} entry {i}", value) for i, value in enumerate(values, 1))
        return
    # splitlines() would also split at Unicode line separators, which strings may contain.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            problem_log.add_problem("malformed", f"{where}: broken JSON, {error.msg}")
            continue
        # Some published files hold each line as a JSON string of JSON.
        if isinstance(value, str):
            with contextlib.suppress(json.JSONDecodeError):
                value = json.loads(value)
        yield where, value


def _read_text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    if not text.strip():
        raise DataError(f"{path}: the file is empty")
    return text
