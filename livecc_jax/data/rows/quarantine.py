"""Examples that could not be built while training, recorded so that a run can be repeated exactly."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from livecc_jax.bounded_json import parse_json, read_bounded
from livecc_jax.errors import DataError
from livecc_jax.redact import displayable
from livecc_jax.writing import write_text

EVERY_ROW = -1


@dataclass(frozen=True)
class Quarantined:
    """An example that was left out of a row.

    A file that a store could not deliver in one epoch may be available in the next one. Repeating a run
    therefore means leaving an example out of the same rows.

    Attributes:
        example: Number of the example in the index.
        annotations: Path of its annotation file.
        line: Number of its line, from 1.
        reason: Why it could not be built.
        row: Number of the row, or EVERY_ROW.
    """

    example: int
    annotations: str
    line: int
    reason: str
    row: int = EVERY_ROW


class Quarantine:
    """A growing set of quarantined examples, with at most one entry for each example and row."""

    def __init__(self, entries: list[Quarantined] | None = None) -> None:
        self._entries = {(e.example, e.row): e for e in entries or []}

    def __len__(self) -> int:
        """Number of examples that were left out of some row."""
        return len({example for example, _ in self._entries})

    def add(self, entry: Quarantined) -> bool:
        """Adds an entry; returns False when there is already one for its example and row."""
        return self._entries.setdefault((entry.example, entry.row), entry) is entry

    @property
    def excluded(self) -> frozenset[tuple[int, int]]:
        """Pairs (example, row or EVERY_ROW) of all entries."""
        return frozenset(self._entries)

    @property
    def entries(self) -> list[Quarantined]:
        """All entries, in order of their examples, then of their rows."""
        return [self._entries[key] for key in sorted(self._entries)]

    def to_json(self) -> list[dict]:
        """Returns the entries as JSON objects."""
        return [asdict(e) for e in self.entries]

    @staticmethod
    def from_json(entries: list[dict], name: str) -> Quarantine:
        """Reads what `to_json` returned. Raises DataError, with `name`, for anything else."""
        try:
            listed = [Quarantined(**e) for e in entries]
        except TypeError as error:
            raise DataError(f"{name}: is not a quarantine list ({error})") from error
        for e in listed:
            numbers = all(type(n) is int for n in (e.example, e.line, e.row))
            if not numbers or not isinstance(e.annotations, str) or not isinstance(e.reason, str):
                raise DataError(
                    f"{name}: is not a quarantine list ({e!a:.120} has a field of a wrong type)"
                )
        return Quarantine(listed)

    def check(self, location: Callable[[int], tuple[str, int]], num_examples: int, path: str) -> None:
        """Checks that the entries belong to an index.

        Args:
            location: Returns annotation file and line of an example of the index.
            num_examples: Number of examples of the index.
            path: Path of the list, for the error.

        Raises:
            DataError: An entry belongs to another index.
        """
        for e in self.entries:
            file, line = location(e.example) if 0 <= e.example < num_examples else ("", 0)
            # The annotation file may have moved, but its name and the line stay.
            names = [Path(displayable(name)).name for name in (file, e.annotations)]
            if (names[0], line) != (names[1], e.line):
                raise DataError(
                    f"{path}: example {e.example} ({e.annotations} line {e.line}) "
                    "is another one in this index"
                )

    def save(self, path: str | Path) -> None:
        """Writes one JSON object a line; the file is replaced atomically. Raises OutputError."""
        write_text(path, "".join(json.dumps(e, ensure_ascii=False) + "\n" for e in self.to_json()))

    @staticmethod
    def load(path: str | Path) -> Quarantine:
        """Reads a saved list. Raises DataError when it is missing or malformed."""
        try:
            lines = read_bounded(path).split(b"\n")
            entries = [parse_json(line) for line in lines if line.strip()]
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise DataError(f"{path}: is not JSON lines ({error})") from error
        return Quarantine.from_json(entries, str(path))
