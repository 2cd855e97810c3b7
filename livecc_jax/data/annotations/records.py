"""Random access to annotation files: JSON lines, each a conversation.

The format is LiveCC's (docs/formats.md): the last line holds the byte offsets of the others. A file
without that line works too: it is read once to find the offsets.
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
from livecc_jax.data.files.paths import folder_of
from livecc_jax.data.files.remote import RandomAccessFile
from livecc_jax.errors import DataError, MediaError
from livecc_jax.timeline.example import Example

CHUNK_BYTES = 1 << 20


class AnnotationFile:
    """Random access to the conversations of one file, local or in a bucket.

    Args:
        path: A path, or an address such as `gs://bucket/name`.
        lines: Offsets of the lines and end of the last one, if another object has determined them for
            the same file; this saves reading the file.

    Raises:
        DataError: The file is missing, empty, or its offsets do not match its lines.
    """

    def __init__(self, path: str | Path, lines: tuple[np.ndarray, int] | None = None) -> None:
        self.path = str(path)
        self.folder = folder_of(self.path)
        try:
            self._file = RandomAccessFile(self.path)
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
        offsets = _parse_offsets(self._file.read(start, self.size))
        if offsets is None:
            self.offsets, self.end = self._scan_offsets()
            return
        # The first line starts at byte 0, and offsets ascend.
        if not offsets or offsets[0] != 0 or any(a >= b for a, b in pairwise([*offsets, start])):
            raise DataError(
                f"{self.path}: the offsets in its last line do not match its {start} bytes of lines"
            )
        self.offsets, self.end = np.array(offsets, np.int64), start

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, i: int) -> Example:
        """Parses conversation i.

        Raises:
            DataError: The line is not where its offset says, not UTF-8 or not JSON.
            ExampleError: The line is JSON but not a usable conversation.
        """
        return self.parse(i, self.raw_conversation(i))

    def parse(self, i: int, raw: Any) -> Example:
        """Parses the JSON value of conversation i; see `parse`."""
        return parse(raw, self.folder, f"{self.path} line {i + 1}")

    def raw_conversation(self, i: int) -> Any:
        """Returns the JSON value of conversation i."""
        if not 0 <= i < len(self):
            raise DataError(f"{self.path}: there is no example {i}, only 0 to {len(self) - 1}")
        return next(self.raw_conversations(i, i + 1))

    def raw_conversations(self, first: int, stop: int) -> Iterator[Any]:
        """Yields the JSON values of conversations first, ..., stop - 1, read in one request."""
        ends = np.append(self.offsets[first + 1 : stop + 1], [] if stop < len(self) else self.end)
        start = int(self.offsets[first])
        block_start = max(start - 1, 0)
        block = self._file.read(block_start, int(ends[-1]))
        for i, end in zip(range(first, stop), ends.astype(np.int64).tolist()):
            previous_byte = block[start - block_start - 1 : start - block_start] if start else b""
            line = block[start - block_start : end - block_start]
            yield self._parse_line(i, start, end, previous_byte, line)
            start = end

    def _parse_line(self, i: int, start: int, stop: int, previous_byte: bytes, line: bytes) -> Any:
        body = line.rstrip(b"\r\n")
        is_complete = line.endswith(b"\n") or stop == self.end
        if previous_byte not in (b"", b"\n") or not is_complete or b"\n" in body:
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
        """Returns the offset of the last line that is not blank."""
        tail, start = b"", self.size
        while start > 0:
            step = min(CHUNK_BYTES, start)
            start -= step
            tail = self._file.read(start, start + step) + tail
            newline = tail.rstrip(b"\r\n ").rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
        return 0

    def _scan_offsets(self) -> tuple[np.ndarray, int]:
        """Reads the whole file for the offsets of its lines and the end of the last one.

        Blank lines are accepted only at the end of the file.
        """
        offsets, start, end, first_blank = array("q"), 0, 0, 0
        for number, line in enumerate(self._lines(), 1):
            if not line.strip():
                first_blank = first_blank or number
            elif first_blank:
                raise DataError(f"{self.path}: line {first_blank} is blank")
            else:
                offsets.append(start)
                end = start + len(line)
            start += len(line)
        if not offsets:
            raise DataError(f"{self.path}: the annotation file is empty")
        return np.array(offsets, np.int64), end

    def _lines(self) -> Iterator[bytes]:
        rest = b""
        for start in range(0, self.size, CHUNK_BYTES):
            chunk = self._file.read(start, min(start + CHUNK_BYTES, self.size))
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line + b"\n"
        if rest:
            yield rest


def _parse_offsets(line: bytes) -> list[int] | None:
    """Parses the offsets in a last line; returns None when the line holds anything else."""
    try:
        values = json.loads(line)
    except ValueError:
        return None
    if isinstance(values, list) and all(type(v) is int for v in values):
        return values
    return None
