"""A cache of judge answers on disk, so that a stopped run resumes and a repeated run costs nothing."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


class AnswerCache:
    """Judge answers in a file, one JSON line each, appended as they arrive.

    A line that a killed run left incomplete is skipped.

    Args:
        path: The file; it is created if it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self._records: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()
        last_line_incomplete = False
        if path.exists():
            *lines, last = path.read_text(encoding="utf-8", errors="replace").split("\n")
            last_line_incomplete = bool(last)
            for line in filter(None, [*lines, last]):
                try:
                    record = json.loads(line)
                    self._records[record["key"]] = record
                except (ValueError, KeyError, TypeError):
                    log.warning("%s: an incomplete line is skipped", path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (open as long as the object)
        if last_line_incomplete:
            self._file.write("\n")

    def get(self, key: str) -> dict[str, Any] | None:
        """Returns the record of a key, or None."""
        return self._records.get(key)

    def put(self, record: dict[str, Any]) -> None:
        """Stores a record under its field `key`. Threads may call this at the same time."""
        with self._lock:
            self._records[record["key"]] = record
            self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
