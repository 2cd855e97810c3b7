"""Reads and writes JSON files, with errors that name the file and the field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from livecc_jax.errors import CheckpointError


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
            raise self.fail(name, f"is {value!r}, which is not of the right type")
        return value

    def count(self, name: str, default: int | None = None) -> int:
        """Returns a positive integer. Raises CheckpointError when the field is none."""
        value = self.get(name, int, default)
        if value < 1:
            raise self.fail(name, f"is {value}, but must be at least 1")
        return value

    def only(self, name: str, supported: Any, kind: type | tuple[type, ...] = str) -> None:
        """Check a field with one supported value, which is also its default. Raises CheckpointError."""
        if self.get(name, kind, supported) != supported:
            raise self.fail(name, f"is {self.data[name]!r}; only {supported!r} is supported")

    def inside(self, name: str) -> JsonFields:
        """Returns the fields of an object within this one. Raises CheckpointError without it."""
        if self.data.get(name) is None:
            raise self.fail(name, "is missing")
        return JsonFields(self.data[name], self.where, f"{self.prefix}{name}.")


def read_json(file: Path) -> Any:
    """Read a JSON file. Raises CheckpointError when it is missing, unreadable or not valid."""
    try:
        return json.loads(file.read_bytes())
    except FileNotFoundError as e:
        raise CheckpointError(f"{file}: there is no such file") from e
    except OSError as e:
        raise CheckpointError(f"{file}: cannot be read ({e.strerror})") from e
    except ValueError as e:
        raise CheckpointError(f"{file}: is not valid JSON ({e})") from e


def write_json(file: Path, data: Any) -> None:
    """Write an indented JSON file. Raises CheckpointError when it cannot be written."""
    try:
        file.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    except OSError as e:
        raise CheckpointError(f"{file}: cannot be written ({e.strerror})") from e
