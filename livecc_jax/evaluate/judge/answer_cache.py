"""A cache of judge answers on disk, so that a stopped run resumes and a repeated run costs nothing."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import Any

from livecc_jax.bounded_json import parse_json
from livecc_jax.writing import RecordFile, make_folder

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
                    record = parse_json(line)
                    self._records[record["key"]] = record
                except (ValueError, KeyError, TypeError):
                    log.warning("%s: an incomplete line is skipped", path)
        make_folder(path.parent)
        self._file = RecordFile(path, append=True)
        if last_line_incomplete:
            self._file.write("\n")

    def get(self, key: str) -> dict[str, Any] | None:
        """Returns the record of a key, or None."""
        return self._records.get(key)

    def put(self, record: dict[str, Any]) -> None:
        """Stores a record under its field `key`. Threads may call this at the same time.

        Raises OutputError when the file cannot be written.
        """
        with self._lock:
            self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
            self._records[record["key"]] = record

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
