"""Scored answers, whatever benchmark they come from, and what was wrong with the file they were in."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from livecc_jax.errors import DataError

MAX_NOTES = 5  # problems told in full; the others are counted


@dataclass(frozen=True)
class ScoredAnswer:
    """One answer, scored by its benchmark's rule.

    id: of the item, unique in the benchmark; cluster: what is drawn again by the bootstrap (the video);
    labels: facet (`duration`, `task`) to value; answered: whether the rule found an answer; counted:
    whether the rule has it in its denominator.
    """

    id: str
    cluster: str
    labels: dict[str, str]
    correct: bool
    answered: bool = True
    counted: bool = True


@dataclass
class ScoredAnswers:
    """All answers of a file.

    items: in file order, duplicates included, as the published scoring counts them; expected: how many
    the benchmark has, when that is known; problems: kind to number; notes: the first of them, told.
    """

    items: list[ScoredAnswer] = field(default_factory=list)
    expected: int | None = None
    problems: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)

    def add(self, entry: ScoredAnswer) -> None:
        """Take an answer; a second one to the same item is kept and counted as a duplicate."""
        if entry.id in self._seen:
            self.problem("duplicate", f"{entry.id} is answered more than once")
        elif not entry.answered:
            self.problem("unanswered")
        self._seen.add(entry.id)
        self.items.append(entry)

    def problem(self, kind: str, note: str = "") -> None:
        """Count one; the first few are kept in words."""
        self.problems[kind] += 1
        if note and self.problems[kind] <= MAX_NOTES:
            self.notes.append(f"{kind}: {note}")

    @property
    def distinct(self) -> int:
        """Different items answered or not, without duplicates."""
        return len(self._seen)

    @property
    def missing(self) -> int:
        """Items of the benchmark that the file has no usable entry for; 0 when its size is unknown."""
        return max(0, (self.expected or 0) - self.distinct)

    def first(self) -> dict[str, ScoredAnswer]:
        """Each item's first entry, by id: what a comparison of two runs looks at."""
        found: dict[str, ScoredAnswer] = {}
        for entry in self.items:
            found.setdefault(entry.id, entry)
        return found


def read_records(path: str | Path, entries: ScoredAnswers) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a JSON array or of JSON lines, each with where it is.

    What is no object, or a line that is no JSON, is counted as malformed and passed over.

    Raises:
        DataError: the file cannot be read, is empty, or is a JSON file that breaks off.
    """
    for where, raw in _raw_rows(Path(path), entries):
        if isinstance(raw, dict):
            yield where, raw
        else:
            entries.problem("malformed", f"{where} is not an object")


def load_json(path: str | Path) -> Any:
    """The value of a JSON file. Raises DataError naming file and line."""
    text = _text(Path(path))
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path} line {error.lineno}: broken JSON, {error.msg} at column {error.colno}"
        ) from error


def _raw_rows(path: Path, entries: ScoredAnswers) -> Iterator[tuple[str, Any]]:
    text = _text(path)
    # An array is one value over the whole file; anything else is a value a line.
    if path.suffix != ".jsonl" and text.lstrip().startswith("["):
        rows = load_json(path)
        yield from ((f"{path} entry {i}", raw) for i, raw in enumerate(rows, 1))
        return
    # Not splitlines: strings may hold line separators of other alphabets.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            raw = json.loads(line)
        except json.JSONDecodeError as error:
            entries.problem("malformed", f"{where}: broken JSON, {error.msg}")
            continue
        # Some published files hold each line as a JSON string of JSON.
        if isinstance(raw, str):
            with contextlib.suppress(json.JSONDecodeError):
                raw = json.loads(raw)
        yield where, raw


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    if not text.strip():
        raise DataError(f"{path}: the file is empty")
    return text
