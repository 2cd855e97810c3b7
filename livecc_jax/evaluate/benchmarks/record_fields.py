"""Read typed fields of a record; a record with a bad field is counted and skipped."""

from __future__ import annotations

from typing import Any

from livecc_jax.bounded_json import parse_json
from livecc_jax.evaluate.benchmarks.scored_answers import ProblemLog
from livecc_jax.timeline.example import seconds_to_us

MAX_SECONDS = 1e9  # longer than any file


class MalformedRecord(Exception):
    """A record lacks a field that its layout has, or has a bad value in it; the message says which."""


class SkipMalformed:
    """Context in which a record is read: if MalformedRecord is raised, it is counted and suppressed.

    Args:
        problem_log: Counts the malformed record.
        where: Where the record is, for the description of the problem.
    """

    def __init__(self, problem_log: ProblemLog, where: str) -> None:
        self._problem_log, self._where = problem_log, where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, MalformedRecord):
            self._problem_log.add_problem("malformed", f"{self._where}: {error}")
            return True
        return False


def string_field(record: dict[str, Any], key: str) -> str:
    """Returns a string field.

    Raises:
        MalformedRecord: The field is absent or not a string.
    """
    value = record.get(key)
    if not isinstance(value, str):
        raise MalformedRecord(
            f"{key!r} is {'absent' if key not in record else f'{value!r:.40}'}, not a string"
        )
    return value


def string_field_or(record: dict[str, Any], key: str, default: str) -> str:
    """Returns a string field, or the default if the field is absent or empty.

    Raises:
        MalformedRecord: The field is not a string.
    """
    return string_field(record, key) if record.get(key) else default


def id_field(record: dict[str, Any], key: str) -> str:
    """Returns an id, which may be a string or an integer in the file.

    Raises:
        MalformedRecord: The field is neither.
    """
    return str(record[key]) if type(record.get(key)) is int else string_field(record, key)


def response_field(record: dict[str, Any]) -> str:
    """Returns the response; if it is null or absent, this is "", which counts as not answered.

    Raises:
        MalformedRecord: The response is neither null nor a string.
    """
    if record.get("response") is None:
        return ""
    return string_field(record, "response")


def enum_field(record: dict[str, Any], key: str, values: tuple[str, ...]) -> str:
    """Returns a string field that has one of the given values.

    Raises:
        MalformedRecord: It has another value.
    """
    value = string_field(record, key)
    if value not in values:
        raise MalformedRecord(f"{key!r} is {value!r:.40}, which the benchmark does not have")
    return value


def parse_string_list(value: Any) -> list[str]:
    """Returns a list of strings, which CSV files hold as JSON text.

    Raises:
        MalformedRecord: The value is not a list.
    """
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except ValueError:
            value = None
    if not isinstance(value, list):
        raise MalformedRecord("a list of options is none")
    return [str(v) for v in value]


def seconds_field(record: dict[str, Any], key: str) -> float:
    """Returns a field that is a number of seconds.

    Raises:
        MalformedRecord: It is not a number, or longer than any file.
    """
    value = record.get(key)
    try:
        seconds = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise MalformedRecord(f"{key!r} is {value!r:.40}, not seconds") from None
    # NaN and infinity fail the comparison.
    if not -MAX_SECONDS <= seconds <= MAX_SECONDS or isinstance(value, bool):
        raise MalformedRecord(f"{key!r} is {value!r:.40}, not seconds")
    return seconds


def span_fields_us(
    record: dict[str, Any], start_key: str, end_key: str
) -> tuple[int | None, int | None]:
    """Returns a time span in microseconds from two fields in seconds; None for an absent field.

    Raises:
        MalformedRecord: A field is not a number, or the end is not after the start.
    """
    start_us, end_us = (
        None if record.get(key) in (None, "") else seconds_to_us(seconds_field(record, key))
        for key in (start_key, end_key)
    )
    if start_us is not None and end_us is not None and end_us <= start_us:
        raise MalformedRecord(f"{end_key!r} is not after {start_key!r}")
    return start_us, end_us
