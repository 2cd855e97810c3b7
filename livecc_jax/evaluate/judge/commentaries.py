"""Reads the full text of commentaries, without times, as the judge compares them."""

from __future__ import annotations

from pathlib import Path

from livecc_jax.errors import DataError
from livecc_jax.evaluate.benchmarks.record_fields import (
    MalformedRecord,
    SkipMalformed,
    string_field,
)
from livecc_jax.evaluate.benchmarks.record_files import read_records
from livecc_jax.evaluate.benchmarks.scored_answers import ProblemLog


def read_commentaries(path: str | Path, keys: tuple[str, ...]) -> tuple[dict[str, str], ProblemLog]:
    """Reads the commentary of every event.

    Args:
        path: JSON or JSON lines of {video_id, event_id, <one of keys>}.
        keys: Fields that may hold the commentary; the first one that a record has is used.

    Returns:
        (event to commentary, problems of the file). If an event comes twice, its first is used.

    Raises:
        DataError: The file cannot be read or holds no commentary.
    """
    problem_log = ProblemLog()
    commentaries: dict[str, str] = {}
    for where, record in read_records(path, problem_log):
        with SkipMalformed(problem_log, where):
            if record.get("event_id") is None:
                raise MalformedRecord("'event_id' is absent")
            event = f"{string_field(record, 'video_id')}_{record['event_id']}"
            key = next((k for k in keys if k in record), keys[0])
            if event in commentaries:
                problem_log.add_problem("duplicate", f"{where}: {event} comes again; its first is used")
            else:
                commentaries[event] = string_field(record, key)
    if not commentaries:
        raise DataError(f"{path}: holds no commentary ({', '.join(keys)}) of any event")
    return commentaries, problem_log
