"""The folder of an evaluation run: its settings, and its answers, which make a run resumable.

Answers are appended to OUT/answers.jsonl as they come. OUT/run.json holds the settings; a run with
other settings is refused, so that a results file never mixes two models or settings.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from livecc_jax.bounded_json import parse_json
from livecc_jax.errors import ConfigError
from livecc_jax.evaluate.benchmarks.record_files import load_json
from livecc_jax.writing import RecordFile, make_folder, write_text

log = logging.getLogger(__name__)


@dataclass
class EvaluationProgress:
    """Progress of a run.

    Attributes:
        answered: Questions or events answered by this run.
        already_answered: Questions or events of this shard that earlier runs answered.
        failed: Questions or events that could not be answered.
        videos: Videos done by this run.
        seconds: Time since the run began.
    """

    answered: int = 0
    already_answered: int = 0
    failed: int = 0
    videos: int = 0
    seconds: float = 0.0


def lock_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Begins a run folder with these settings, or checks that an existing one has the same settings.

    Raises:
        ConfigError: The folder was begun with other settings; the message names one that differs.
        OutputError: The folder cannot be written.
    """
    make_folder(folder)
    path = folder / "run.json"
    if path.exists():
        earlier = load_json(path)
        if not isinstance(earlier, dict):
            raise ConfigError(f"{path}: does not hold the settings of a run; take another --out")
        different = [k for k in earlier.keys() | settings.keys() if earlier.get(k) != settings.get(k)]
        if different:
            k = min(different)
            raise ConfigError(
                f"{folder}: was begun with {k} {earlier.get(k)!r:.200}, not {settings.get(k)!r:.200}; "
                "take another --out"
            )
        return
    # Several processes may begin one run, and none may read a file that another has half written.
    write_text(path, json.dumps(settings, indent=1, ensure_ascii=False) + "\n")


def answers_path(folder: Path, shard: tuple[int, int]) -> Path:
    """Returns the answers file of a shard (index, count) of the run."""
    return folder / ("answers.jsonl" if shard[1] == 1 else f"answers-{shard[0]}-of-{shard[1]}.jsonl")


def read_answers(path: Path) -> dict[str, dict[str, Any]]:
    """Returns the lines of an answers file by question id, the last one if an id has several.

    A line that was truncated when the process was killed is skipped with a warning.
    """
    answers: dict[str, dict[str, Any]] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
            if not line:
                continue
            try:
                answer = parse_json(line)
                answers[answer["id"]] = answer
            except (ValueError, KeyError, TypeError):
                log.warning("%s: skips a broken line", path)
    return answers


def all_answers(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns the answers of all shards of a run by question id, however the run was divided.

    An answer takes precedence over an error.
    """
    answers: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("answers*.jsonl")):
        for question_id, answer in read_answers(path).items():
            if "error" in answers.get(question_id, {"error": ""}):
                answers[question_id] = answer
    return answers


def append_lines(path: Path) -> RecordFile:
    """Opens a file of JSON lines for appending; a truncated last line is ended first.

    Raises OutputError when the file cannot be written.
    """
    truncated = path.exists() and path.stat().st_size and not path.read_bytes().endswith(b"\n")
    file = RecordFile(path, append=True)
    if truncated:
        file.write("\n")
    return file


def write_lines(file: RecordFile, lines: list[dict[str, Any]]) -> None:
    """Writes JSON lines, all of them or none. Raises OutputError when they find no room."""
    file.write("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def file_hash(path: Path) -> str:
    """Returns the SHA-256 of an annotation file, or of all JSON files of a folder in sorted order."""
    digest = hashlib.sha256()
    for file in sorted(path.glob("*.json")) if path.is_dir() else [path]:
        digest.update(file.read_bytes())
    return digest.hexdigest()
