"""Reads and writes JSON files, with errors that name the file and the field."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from livecc_jax.bounded_json import JsonError, read_json_file
from livecc_jax.errors import CheckpointError

MAX_BYTES = 64 << 20  # of a JSON file of a checkpoint
MAX_COUNT = 1_000_000  # of a size of the architecture, where no smaller limit is set


class JsonFields:
    """Typed look-ups in one JSON object; each error names the file and the field.

    Args:
        data: The JSON value.
        where: The file, for error messages.
        prefix: Path of the object within the file, as `vision_config.`.

    Raises:
        CheckpointError: The value is not an object.
    """

    def __init__(self, data: Any, where: Path, prefix: str = "") -> None:
        if not isinstance(data, Mapping):
            raise CheckpointError(f"{where}: {prefix.rstrip('.') or 'the file'} is not a JSON object")
        self.data, self.where, self.prefix = data, where, prefix

    def fail(self, name: str, what: str) -> CheckpointError:
        """Returns an error about a field, for the caller to raise."""
        return CheckpointError(f"{self.where}: {self.prefix}{name} {what}")

    def get(self, name: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        """Returns the field, or `default` where the field is absent or null.

        Raises CheckpointError when the value is of another type, or None.
        """
        value = self.data.get(name)
        if value is None:
            value = default
        if value is None:
            raise self.fail(name, "is missing")
        right_type = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        if not right_type:
            raise self.fail(name, f"is {value!r:.80}, which is not of the right type")
        return value

    def count(self, name: str, default: int | None = None, most: int = MAX_COUNT) -> int:
        """Returns a positive integer.

        Args:
            name: Name of the field.
            default: Value where the field is absent or null; None makes that an error.
            most: Largest value that is accepted.

        Raises:
            CheckpointError: The field is no such integer.
        """
        value = self.get(name, int, default)
        if value < 1:
            raise self.fail(name, f"is {value}, but must be at least 1")
        if value > most:
            raise self.fail(name, f"is {value}, more than the {most} that are supported")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """Returns a finite number as a float, or raises CheckpointError; for `default` see `count`."""
        value = self.get(name, (int, float), default)
        if not math.isfinite(value):
            raise self.fail(name, f"is {value!r}, which is not a finite number")
        return float(value)

    def positive(
        self,
        name: str,
        default: float | None = None,
        *,
        least: float = 0.0,
        most: float = float("inf"),
    ) -> float:
        """Returns a number above 0.

        Args:
            name: Name of the field.
            default: Value of a missing field; see `count`.
            least: Smallest value that is accepted.
            most: Largest value that is accepted.

        Raises:
            CheckpointError: The field is no such number.
        """
        value = self.number(name, default)
        if value <= 0:
            raise self.fail(name, f"is {value:g}, but must be positive")
        if not least <= value <= most:
            raise self.fail(name, f"is {value:g}, but must lie between {least:g} and {most:g}")
        return value

    def only(self, name: str, supported: Any, kind: type | tuple[type, ...] = str) -> None:
        """Check a field with one supported value, which is also its default. Raises CheckpointError."""
        if self.get(name, kind, supported) != supported:
            raise self.fail(name, f"is {self.data[name]!r:.80}; only {supported!r} is supported")

    def inside(self, name: str) -> JsonFields:
        """Returns the fields of an object within this one. Raises CheckpointError without it."""
        if self.data.get(name) is None:
            raise self.fail(name, "is missing")
        return JsonFields(self.data[name], self.where, f"{self.prefix}{name}.")


def read_json(file: Path) -> Any:
    """Read a JSON file. Raises CheckpointError when it is missing, unreadable or not valid."""
    try:
        return read_json_file(file, max_bytes=MAX_BYTES)
    except FileNotFoundError as e:
        raise CheckpointError(f"{file}: there is no such file") from e
    except OSError as e:
        raise CheckpointError(f"{file}: cannot be read ({e.strerror})") from e
    except JsonError as e:
        raise CheckpointError(f"{file}: is not valid JSON ({e})") from e


def write_json(file: Path, data: Any) -> None:
    """Write an indented JSON file. Raises CheckpointError when it cannot be written."""
    try:
        file.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    except OSError as e:
        raise CheckpointError(f"{file}: cannot be written ({e.strerror})") from e
