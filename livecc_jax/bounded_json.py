"""Reads JSON that may be damaged or hostile: size, depth and digits are bounded before it is parsed.

Every JSON text that the package did not make a moment ago is read here (docs/formats.md, Limits). A
fault is a `JsonError`: a ValueError whose message reads as the end of a sentence about the file.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

MAX_BYTES = 256 << 20  # of one text, where the caller sets no smaller limit
MAX_DEPTH = 64  # lists and objects within one another
MAX_DIGITS = 100  # digits of a number in a row; a float64 needs 17, an int64 needs 19

_DIGITS_TO_0 = bytes(ord("0") if chr(b).isdigit() and b < 128 else b for b in range(256))
_TOO_MANY_DIGITS = b"0" * (MAX_DIGITS + 1)
_TO_SQUARE = bytes.maketrans(b"{}", b"[]")
_NOT_BRACKETS = bytes(b for b in range(256) if b not in b"[]{}")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class JsonError(ValueError):
    """A text is not JSON, or exceeds a limit.

    Args:
        reason: What is wrong, without the place.
        line: Line of the text at which the parser stopped, from 1; 0 where there is no such place.
        column: Column in that line, from 1.
    """

    def __init__(self, reason: str, line: int = 0, column: int = 0) -> None:
        self.reason, self.line, self.column = reason, line, column
        place = f" at line {line} column {column}" if line else ""
        super().__init__(reason + place)

    @property
    def within_line(self) -> str:
        """The reason with the column alone, for a caller that names the line itself."""
        return f"{self.reason} at column {self.column}" if self.line else self.reason


def parse_json(
    text: bytes | str,
    *,
    max_bytes: int = MAX_BYTES,
    encoding: str = "",
    unique_keys: bool = False,
    half_characters: bool = False,
) -> Any:
    """Returns the value of a JSON text.

    Args:
        text: The text, decoded or not.
        max_bytes: Most bytes that it may have.
        encoding: Its encoding; by default UTF-8, -16 or -32, whichever its first bytes show.
        unique_keys: Whether an object that holds a key twice is refused; else the last one counts.
        half_characters: Whether strings may hold lone surrogates, which are no Unicode text and cannot
            be written to a file or printed.

    Raises:
        JsonError: The text is not JSON or not text, or it exceeds a limit.
    """
    try:
        data = text.encode() if isinstance(text, str) else bytes(text)
    except UnicodeEncodeError as error:
        raise JsonError("holds half a character (a lone surrogate)") from error
    if len(data) > max_bytes:
        raise JsonError(_too_large(len(data), max_bytes))
    try:
        encoding = encoding or json.detect_encoding(data)
        decoded = text if isinstance(text, str) else data.decode(encoding)
    except UnicodeDecodeError as error:
        raise JsonError(f"is not UTF-8 text (byte {error.start})") from error
    if not isinstance(text, str) and not encoding.startswith("utf-8"):
        data = decoded.encode()  # the checks below look for ASCII characters
    _check_depth_and_digits(data)
    try:
        value = json.loads(decoded, object_pairs_hook=_unique_keys if unique_keys else None)
    except json.JSONDecodeError as error:
        raise JsonError(f"broken JSON, {error.msg}", error.lineno, error.colno) from error
    except RecursionError as error:  # brackets that are never closed
        raise JsonError(_TOO_DEEP) from error
    if not half_characters and _SURROGATE.search(data) and holds_half_character(value):
        raise JsonError("holds half a character (a lone surrogate)")
    return value


def read_json_file(
    file: str | Path,
    *,
    max_bytes: int = MAX_BYTES,
    unique_keys: bool = False,
    half_characters: bool = False,
) -> Any:
    """Returns the value of a JSON file; one that is too large is not read.

    Args:
        file: The file.
        max_bytes: Most bytes that it may have.
        unique_keys: See `parse_json`.
        half_characters: See `parse_json`.

    Raises:
        JsonError: The file is not JSON, or exceeds a limit.
        OSError: The file cannot be read.
    """
    data = read_bounded(file, max_bytes)
    return parse_json(
        data, max_bytes=max_bytes, unique_keys=unique_keys, half_characters=half_characters
    )


def read_bounded(file: str | Path, max_bytes: int = MAX_BYTES) -> bytes:
    """Returns the bytes of a file; one that is too large is not read.

    Args:
        file: The file.
        max_bytes: Most bytes that it may have.

    Raises:
        JsonError: The file has more bytes, or its name holds a NUL.
        OSError: The file cannot be read.
    """
    if "\0" in str(file):
        raise JsonError("has a name with a NUL character in it")
    with open(file, "rb") as source:
        size = os.fstat(source.fileno()).st_size
        if size > max_bytes:
            raise JsonError(_too_large(size, max_bytes))
        data = source.read(size)
        while more := source.read(1 << 20):  # a pipe has no size; a file may grow while it is read
            data += more
            if len(data) > max_bytes:
                raise JsonError(_too_large(len(data), max_bytes))
    return data


def holds_half_character(value: Any) -> bool:
    """Returns whether a string within a JSON value holds a lone surrogate.

    Args:
        value: A value of bounded depth, as `parse_json` returns it.
    """
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return True
        return False
    if isinstance(value, dict):
        return any(holds_half_character(part) for item in value.items() for part in item)
    return isinstance(value, list) and any(map(holds_half_character, value))


_TOO_DEEP = f"holds lists or objects more than {MAX_DEPTH} deep within one another"


def _too_large(size: int, limit: int) -> str:
    return f"has {size} bytes, more than the {limit} that are read"


def _check_depth_and_digits(data: bytes) -> None:
    """Raises JsonError for deep nesting and long numbers; broken JSON is left to the parser.

    A number of thousands of digits would take long to convert or exceed a float, and deep nesting
    overflows the stack of whoever walks through the value.
    """
    long = _TOO_MANY_DIGITS in data.translate(_DIGITS_TO_0)
    deep = data.count(b"[") + data.count(b"{") > MAX_DEPTH
    if not long and not deep:
        return
    # What is outside of strings: escaped quotes end no string, so they are taken out first.
    unescaped = data.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in data else data
    outside = b"".join(unescaped.split(b'"')[::2])
    if long and _TOO_MANY_DIGITS in outside.translate(_DIGITS_TO_0):
        raise JsonError(f"holds a number of more than {MAX_DIGITS} digits")
    # Taking out every innermost pair of brackets takes off one level.
    brackets = outside.translate(_TO_SQUARE, _NOT_BRACKETS)
    for _ in range(MAX_DEPTH):
        fewer = brackets.replace(b"[]", b"")
        if len(fewer) == len(brackets):
            break
        brackets = fewer
    else:
        if brackets:
            raise JsonError(_TOO_DEEP)
    # What is left are brackets that are never closed. How many of them the parser can take depends on
    # the version of Python.
    if brackets.count(b"[") > MAX_DEPTH:
        raise JsonError(_TOO_DEEP)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns a JSON object. Raises JsonError when a key is repeated."""
    out = dict(pairs)
    if len(out) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise JsonError(f"{key!r:.80} is there twice")
            seen.add(key)
    return out
