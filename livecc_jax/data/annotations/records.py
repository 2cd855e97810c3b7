"""Annotation files: JSON lines, each a conversation, the last line the byte offsets of the others.

The format is LiveCC's (docs/formats.md). A file without the last line works too: its offsets are found
by reading it once.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from livecc_jax.data.annotations.conversations import parse
from livecc_jax.data.files.remote import ByteFile, folder_of
from livecc_jax.errors import DataError, MediaError
from livecc_jax.timeline.example import Example

CHUNK = 1 << 20


class AnnotationFile:
    """Random access to the conversations of one file, local or in a bucket.

    Args:
        path: a path or an address such as `gs://bucket/name`.
        lines: offsets and end that another object found in the same file; saves the search.

    Raises:
        DataError: the file is missing, empty, or its offsets do not match its lines.
    """

    def __init__(self, path: str | Path, lines: tuple[np.ndarray, int] | None = None) -> None:
        self.path = str(path)
        self.folder = folder_of(self.path)
        try:
            self._file = ByteFile(self.path)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror}") from error
        except MediaError as error:
            raise DataError(str(error)) from error
        self.size = self._file.size
        if not self.size:
            raise DataError(f"{self.path}: the annotation file is empty")
        if lines is not None:
            self.offsets, self.end = lines
            return
        start = self._last_line_start()
        offsets = _offsets(self._file.read(start, self.size))
        if offsets is None:
            self.offsets, self.end = self._scan()
            return
        # From the first byte to the last line, each further than the one before.
        if not offsets or offsets[0] != 0 or any(a >= b for a, b in pairwise([*offsets, start])):
            raise DataError(
                f"{self.path}: the offsets in its last line do not match its {start} bytes of lines"
            )
        self.offsets, self.end = np.array(offsets, np.int64), start

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, i: int) -> Example:
        """Conversation i, parsed.

        Raises:
            DataError: the line is not where its offset says, not UTF-8 or not JSON.
            ExampleError: the line is JSON but not a usable conversation.
        """
        return self.parse(i, self.raw(i))

    def parse(self, i: int, raw: Any) -> Example:
        """What JSON has of conversation i, parsed; see `parse`."""
        return parse(raw, self.folder, f"{self.path} line {i + 1}")

    def raw(self, i: int) -> Any:
        """Conversation i as JSON has it."""
        if not 0 <= i < len(self):
            raise DataError(f"{self.path}: there is no example {i}, only 0 to {len(self) - 1}")
        return next(self.raws(i, i + 1))

    def raws(self, first: int, stop: int) -> Iterator[Any]:
        """Conversations first, ..., stop - 1 as JSON has them, read together."""
        ends = np.append(self.offsets[first + 1 : stop + 1], [] if stop < len(self) else self.end)
        start = int(self.offsets[first])
        before = max(start - 1, 0)
        block = self._file.read(before, int(ends[-1]))
        for i, end in zip(range(first, stop), ends.astype(np.int64).tolist()):
            ahead = block[start - before - 1 : start - before] if start else b""
            yield self._json(i, start, end, ahead, block[start - before : end - before])
            start = end

    def _json(self, i: int, start: int, stop: int, ahead: bytes, line: bytes) -> Any:
        body = line.rstrip(b"\r\n")
        whole = line.endswith(b"\n") or stop == self.end
        if ahead not in (b"", b"\n") or not whole or b"\n" in body:
            raise DataError(
                f"{self.path}: the offsets in its last line do not match its lines "
                f"(line {i + 1} does not span bytes {start} to {stop})"
            )
        try:
            return json.loads(body.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self.path} line {i + 1}: is not UTF-8 text (byte {start + error.start})"
            ) from error
        except json.JSONDecodeError as error:
            raise DataError(
                f"{self.path} line {i + 1}: broken JSON, {error.msg} at column {error.colno}"
            ) from error

    def __iter__(self) -> Iterator[Example]:
        return (self[i] for i in range(len(self)))

    def _last_line_start(self) -> int:
        """Byte at which the last line that is not blank begins."""
        tail, at = b"", self.size
        while at > 0:
            step = min(CHUNK, at)
            at -= step
            tail = self._file.read(at, at + step) + tail
            found = tail.rstrip(b"\r\n ").rfind(b"\n")
            if found >= 0:
                return at + found + 1
        return 0

    def _scan(self) -> tuple[np.ndarray, int]:
        """Offsets of the lines, and where the last one ends; blank lines may only follow."""
        offsets, at, end, blank = array("q"), 0, 0, 0
        for number, line in enumerate(self._lines(), 1):
            if not line.strip():
                blank = blank or number
            elif blank:
                raise DataError(f"{self.path}: line {blank} is blank")
            else:
                offsets.append(at)
                end = at + len(line)
            at += len(line)
        if not offsets:
            raise DataError(f"{self.path}: the annotation file is empty")
        return np.array(offsets, np.int64), end

    def _lines(self) -> Iterator[bytes]:
        rest = b""
        for at in range(0, self.size, CHUNK):
            *lines, rest = (rest + self._file.read(at, min(at + CHUNK, self.size))).split(b"\n")
            for line in lines:
                yield line + b"\n"
        if rest:
            yield rest


def _offsets(line: bytes) -> list[int] | None:
    """The offsets that a last line holds; None when it is a conversation (or anything else)."""
    try:
        values = json.loads(line)
    except ValueError:
        return None
    if isinstance(values, list) and all(type(v) is int for v in values):
        return values
    return None
