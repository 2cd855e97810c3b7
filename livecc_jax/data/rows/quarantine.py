"""Examples that turned out unusable while training, so that a run can be repeated exactly."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from livecc_jax.errors import DataError

EVERY_ROW = -1


@dataclass(frozen=True)
class Quarantined:
    """Example `example` of the index (line `line` of `annotations`), and why it was left out.

    row: number of the row it was left out of, or EVERY_ROW. An example comes in a row an epoch, and one
    that a store did not give may be there again in the next: repeating the run means leaving it out
    where it was left out.
    """

    example: int
    annotations: str
    line: int
    reason: str
    row: int = EVERY_ROW


class Quarantine:
    """A growing set of quarantined examples, at most one entry an example and row."""

    def __init__(self, entries: list[Quarantined] | None = None) -> None:
        self._entries = {(e.example, e.row): e for e in entries or []}

    def __len__(self) -> int:
        """Examples that were left out of some row."""
        return len({example for example, _ in self._entries})

    def add(self, entry: Quarantined) -> bool:
        """Take an entry; False when its example is there already, for its row."""
        return self._entries.setdefault((entry.example, entry.row), entry) is entry

    @property
    def left_out(self) -> frozenset[tuple[int, int]]:
        """(example, row or EVERY_ROW) of the entries."""
        return frozenset(self._entries)

    @property
    def entries(self) -> list[Quarantined]:
        """Entries in order of their examples, then of their rows."""
        return [self._entries[key] for key in sorted(self._entries)]

    def to_json(self) -> list[dict]:
        """Entries as JSON objects."""
        return [asdict(e) for e in self.entries]

    @staticmethod
    def from_json(entries: list[dict], where: str) -> Quarantine:
        """Read back `to_json`. Raises DataError, naming `where`, for anything else."""
        try:
            return Quarantine([Quarantined(**e) for e in entries])
        except TypeError as error:
            raise DataError(f"{where}: is not a quarantine list ({error})") from error

    def check(self, where: Callable[[int], tuple[str, int]], size: int, path: str) -> None:
        """Raise DataError, naming `path`, when the entries are of another index.

        Args:
            where: annotation file and line of an example of the index.
            size: examples of the index.
            path: of the list.
        """
        for e in self.entries:
            file, line = where(e.example) if 0 <= e.example < size else ("", 0)
            # The annotations may have moved; the name and the line stay.
            if (Path(file).name, line) != (Path(e.annotations).name, e.line):
                raise DataError(
                    f"{path}: example {e.example} ({e.annotations} line {e.line}) "
                    "is not that of this index"
                )

    def save(self, path: str | Path) -> None:
        """Write one JSON object a line, replacing the file in one step."""
        path = Path(path)
        part = path.with_name(path.name + ".part")
        part.write_text(
            "".join(json.dumps(e, ensure_ascii=False) + "\n" for e in self.to_json()), encoding="utf-8"
        )
        part.replace(path)

    @staticmethod
    def load(path: str | Path) -> Quarantine:
        """Read a saved list. Raises DataError when it is missing or malformed."""
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
            entries = [json.loads(line) for line in lines]
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise DataError(f"{path}: is not JSON lines ({error})") from error
        return Quarantine.from_json(entries, str(path))
