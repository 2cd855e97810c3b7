"""Random access to annotation files: JSON lines, each a conversation.

The format is LiveCC's (docs/formats.md): the last line holds the byte offsets of the others. A file
without that line works too: it is read once to find the offsets.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from livecc_jax.bounded_json import JsonError, parse_json
from livecc_jax.data.annotations.conversations import parse
from livecc_jax.data.files.paths import folder_of
from livecc_jax.data.files.remote import RandomAccessFile
from livecc_jax.errors import DataError, ExampleError, MediaError
from livecc_jax.timeline.example import Example

CHUNK_BYTES = 1 << 20
MAX_LINE_BYTES = 16 << 20  # of one conversation; a longer line is rejected without being read
MAX_BLOCK_BYTES = 32 << 20  # lines that are read in one request, unless one alone has more
MAX_OFFSETS_BYTES = 1 << 30  # of a last line that holds offsets, for about a hundred million lines
_OFFSET_CHARACTERS = b"0123456789-, \t\r\n"


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
        except ValueError as error:  # a NUL, or a character that no file name can have
            raise DataError(f"{self.path!a:.200}: is no possible path") from error
        except MediaError as error:
            raise DataError(str(error)) from error
        self.size = self._file.size
        if not self.size:
            raise DataError(f"{self.path}: the annotation file is empty")
        if lines is not None:
            self.offsets, self.end = lines
            return
        start = self._last_line_start()
        offsets = self._parse_offsets(start)
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
            ExampleError: The line is not where its offset says, not UTF-8, not JSON, or no usable
                conversation.
            DataError: There is no line i.
        """
        return self.parse(i, self.raw_conversation(i))

    def parse(self, i: int, raw: Any) -> Example:
        """Parses the JSON value of conversation i, or raises the error that stands in its place.

        Args:
            i: Number of the line, from 0.
            raw: What `raw_conversations` yielded for it.

        Raises:
            ExampleError: The line is damaged, or no usable conversation.
        """
        if isinstance(raw, ExampleError):
            raise raw
        return parse(raw, self.folder, f"{self.path} line {i + 1}")

    def raw_conversation(self, i: int) -> Any:
        """Returns the JSON value of conversation i. Raises ExampleError when its line is damaged."""
        if not 0 <= i < len(self):
            raise DataError(f"{self.path}: there is no example {i}, only 0 to {len(self) - 1}")
        raw = next(self.raw_conversations(i, i + 1))
        if isinstance(raw, ExampleError):
            raise raw
        return raw

    def raw_conversations(self, first: int, stop: int) -> Iterator[Any]:
        """Yields the JSON values of conversations first, ..., stop - 1, read in few requests.

        In place of a line that is damaged or too long, its ExampleError is yielded: one bad line costs
        that line and no other.

        Raises:
            DataError: The offsets in the last line are those of another file.
        """
        ends = np.append(self.offsets[first + 1 : stop + 1], [] if stop < len(self) else self.end)
        bounds = [int(self.offsets[first]), *ends.astype(np.int64).tolist()]
        block, block_start = b"", bounds[0]
        for k, (start, end) in enumerate(pairwise(bounds)):
            if end - start > MAX_LINE_BYTES:
                yield ExampleError(
                    f"{self.path} line {first + k + 1}: has {end - start} bytes, more than the "
                    f"{MAX_LINE_BYTES} of a conversation"
                )
                continue
            if end > block_start + len(block):
                last = k + 1
                while last + 1 < len(bounds) and bounds[last + 1] - start <= MAX_BLOCK_BYTES:
                    last += 1
                block_start = max(start - 1, 0)
                block = self._file.read(block_start, bounds[last])
            previous_byte = block[start - block_start - 1 : start - block_start] if start else b""
            line = block[start - block_start : end - block_start]
            try:
                yield self._parse_line(first + k, start, end, previous_byte, line)
            except ExampleError as error:
                yield error

    def _parse_line(self, i: int, start: int, stop: int, previous_byte: bytes, line: bytes) -> Any:
        body = line.rstrip(b"\r\n")
        begins = previous_byte in (b"", b"\n")
        ends = line.endswith(b"\n") or stop == self.end
        if not begins or not ends or b"\n" in body:
            # A line break that is damaged spoils the two lines beside it, each at one of its ends. A
            # line with neither end in its place shows that the offsets belong to another file.
            kind = ExampleError if begins or ends else DataError
            raise kind(
                f"{self.path} line {i + 1}: the offsets in the file's last line do not match its lines "
                f"(this one does not span bytes {start} to {stop})"
            )
        if not body.strip():
            raise ExampleError(f"{self.path} line {i + 1}: line {i + 1} is blank")
        try:
            # Fields that are not used may hold anything; `conversations.parse` checks those that are.
            return parse_json(body, max_bytes=MAX_LINE_BYTES, encoding="utf-8", half_characters=True)
        except JsonError as error:
            raise ExampleError(f"{self.path} line {i + 1}: {error.within_line}") from error

    def __iter__(self) -> Iterator[Example]:
        return (self[i] for i in range(len(self)))

    def _last_line_start(self) -> int:
        """Returns the offset of the last line that is not blank."""
        stop, in_line = self.size, False
        while stop > 0:
            start = max(0, stop - CHUNK_BYTES)
            chunk = self._file.read(start, stop)
            if not in_line:
                chunk = chunk.rstrip(b"\r\n ")
                in_line = bool(chunk)
            newline = chunk.rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            stop = start
        return 0

    def _parse_offsets(self, start: int) -> list[int] | None:
        """Returns the offsets in the last line; None when that line holds anything else.

        Args:
            start: Offset of the last line.
        """
        if self.size - start > MAX_OFFSETS_BYTES:
            return None
        line = self._file.read(start, self.size)
        if line.translate(None, _OFFSET_CHARACTERS) != b"[]":  # a conversation is not parsed here
            return None
        try:
            return parse_json(line, max_bytes=MAX_OFFSETS_BYTES)
        except JsonError:
            return None

    def _scan_offsets(self) -> tuple[np.ndarray, int]:
        """Reads the whole file for the offsets of its lines and the end of the last one.

        Blank lines at the end of the file do not count. Memory does not grow with the length of a line.
        """
        offsets, start, end, waiting = array("q"), 0, 0, array("q")
        is_blank = True
        for block_start in range(0, self.size, CHUNK_BYTES):
            block_stop = min(block_start + CHUNK_BYTES, self.size)
            *lines, rest = self._file.read(block_start, block_stop).split(b"\n")
            position = block_start
            for part in lines:
                position += len(part) + 1
                if is_blank and not part.strip():
                    waiting.append(start)  # counts only if another line follows
                else:
                    offsets.extend(waiting)
                    offsets.append(start)
                    waiting, end = array("q"), position
                start, is_blank = position, True
            is_blank = is_blank and not rest.strip()
        if not is_blank:
            offsets.extend(waiting)
            offsets.append(start)
            end = self.size
        if not offsets:
            raise DataError(f"{self.path}: the annotation file is empty")
        return np.array(offsets, np.int64), end
