"""Examples that turned out unusable while training, so that a run can be repeated exactly."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from livecc_jax.errors import DataError


@dataclass(frozen=True, order=True)
class Quarantined:
    """Example `example` of the index (line `line` of `annotations`), and why it was left out."""

    example: int
    annotations: str
    line: int
    reason: str


class Quarantine:
    """A growing set of quarantined examples, at most one entry an example."""

    def __init__(self, entries: list[Quarantined] | None = None) -> None:
        self._entries = {e.example: e for e in entries or []}

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: Quarantined) -> bool:
        """Take an entry; False when its example is there already."""
        return self._entries.setdefault(entry.example, entry) is entry

    @property
    def examples(self) -> frozenset[int]:
        """Numbers of the examples."""
        return frozenset(self._entries)

    @property
    def entries(self) -> list[Quarantined]:
        """Entries in order of their examples."""
        return sorted(self._entries.values())

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
