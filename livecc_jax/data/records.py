"""Annotation files: JSON lines, each a conversation, the last line the byte offsets of the others.

The format is LiveCC's (docs/formats.md). A file without the last line works too: its offsets are found
by reading it once.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from livecc_jax.data.remote import ByteFile, folder_of, join
from livecc_jax.errors import DataError, ExampleError, MediaError
from livecc_jax.timeline.example import (
    ChatExample,
    Clip,
    Example,
    Message,
    Picture,
    StreamExample,
    Word,
    microseconds,
)

CHUNK = 1 << 20


@dataclass(frozen=True)
class DeclaredClip(Clip):
    """A clip whose annotation says how long its file is (us), and how large its pictures (pixels)."""

    duration_us: int = 0
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class DeclaredPicture(Picture):
    """A picture whose annotation says its size in pixels."""

    width: int = 0
    height: int = 0


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


def parse(raw: Any, folder: str, where: str) -> Example:
    """A JSON conversation as an Example; relative media paths are relative to `folder`.

    Args:
        raw: what the line holds.
        folder: the annotation file's.
        where: names file and line in errors.

    Raises:
        ExampleError: it is not a conversation of the documented form.
    """
    try:
        if not isinstance(raw, list) or not raw:
            raise ExampleError("a conversation must be a list of turns")
        streams = [
            item
            for turn in raw
            for item in _items(turn)
            if isinstance(item, dict) and item.get("type") == "text_stream"
        ]
        if streams:
            return _stream(raw, folder)
        return ChatExample(tuple(_message(turn, folder) for turn in raw))
    except ExampleError as error:
        raise ExampleError(f"{where}: {error}") from None


def _items(turn: Any) -> list[Any]:
    if not isinstance(turn, dict) or not isinstance(turn.get("role"), str):
        raise ExampleError("every turn must be an object with a role")
    content = turn.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list) or not all(isinstance(item, dict) for item in content):
        raise ExampleError(f"the content of a {turn['role']} turn must be text or a list of objects")
    return content


def _stream(raw: list, folder: str) -> StreamExample:
    if [turn["role"] for turn in raw] != ["user", "assistant"]:
        raise ExampleError("a streaming example must have one user and one assistant turn")
    asked, answered = _items(raw[0]), _items(raw[1])
    videos = [item for item in asked if item.get("type") == "video"]
    texts = [item for item in asked if item.get("type") == "text"]
    if len(videos) != 1 or len(texts) > 1 or len(videos) + len(texts) != len(asked):
        raise ExampleError("a streaming example's user turn must hold one video and at most one text")
    if len(answered) != 1 or answered[0].get("type") != "text_stream":
        raise ExampleError("a streaming example's assistant turn must hold one text_stream")
    text = texts[0] if texts else {}
    words = answered[0].get("text_stream")
    if not isinstance(words, list):
        raise ExampleError("text_stream must be a list of [start, end, word]")
    return StreamExample(
        _clip(videos[0], folder),
        tuple(_word(i, w) for i, w in enumerate(words)),
        *(_string(text, key) for key in ("text", "title", "previous", "category")),
    )


def _message(turn: dict, folder: str) -> Message:
    role = turn["role"] if isinstance(turn, dict) and "role" in turn else None
    if role not in ("system", "user", "assistant"):
        raise ExampleError(f"role {role!r} is not system, user or assistant")
    content: list[str | Clip | Picture] = []
    for item in _items(turn):
        kind = item.get("type")
        if kind == "text":
            content.append(_string(item, "text"))
        elif kind == "video":
            content.append(_clip(item, folder))
        elif kind == "image":
            content.append(_picture(item, folder))
        else:
            raise ExampleError(f"content of type {kind!r} is not text, image, video or text_stream")
    if role == "assistant" and not all(isinstance(item, str) for item in content):
        raise ExampleError("an assistant turn must hold text alone")
    return Message(role, tuple(content))


def _string(item: dict, key: str) -> str:
    value = item.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ExampleError(f"{key!r} must be a string, not {value!r:.40}")
    return value


def _path(item: dict, key: str, folder: str) -> str:
    value = item.get(key)
    if not isinstance(value, str) or not value:
        raise ExampleError(f"a {key} must name its file")
    return join(folder, value)


def _clip(item: dict, folder: str) -> Clip:
    path = _path(item, "video", folder)
    start, end = (
        None if item.get(key) is None else _seconds(item[key], key)
        for key in ("video_start", "video_end")
    )
    if start is not None and end is not None and end <= start:
        raise ExampleError(
            f"video_end {end / 1e6:g} is not after video_start {start / 1e6:g} in {path}"
        )
    if item.get("duration") is None:
        return Clip(path, start, end)
    duration = _seconds(item["duration"], "duration")
    return DeclaredClip(path, start, end, duration, *_declared_size(item, path))


def _picture(item: dict, folder: str) -> Picture:
    path = _path(item, "image", folder)
    if item.get("width") is None or item.get("height") is None:
        return Picture(path)
    return DeclaredPicture(path, *_declared_size(item, path))


def _declared_size(item: dict, path: str) -> tuple[int, int]:
    size = item.get("width"), item.get("height")
    if not all(type(v) is int and v > 0 for v in size):
        raise ExampleError(f"{path}: its width and height must be whole numbers of pixels, not {size}")
    return size


def _seconds(value: Any, what: str) -> int:
    # JSON as Python reads it may hold NaN and Infinity, and true counts as 1.
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ExampleError(f"{what} must be a number of seconds, not {value!r:.40}")
    return microseconds(value)


def _word(i: int, raw: Any) -> Word:
    if not isinstance(raw, list) or len(raw) != 3 or not isinstance(raw[2], str):
        raise ExampleError(f"word {i} must be [start, end, word], not {raw!r:.60}")
    return Word(_seconds(raw[0], f"word {i} start"), _seconds(raw[1], f"word {i} end"), raw[2])
