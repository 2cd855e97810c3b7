"""Conversations of annotation files as examples (docs/formats.md, section 1)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from livecc_jax.data.files.remote import join
from livecc_jax.errors import ExampleError
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

NUMBERS = (int, float)  # and not their subclass bool
MUCH = 1e9  # seconds, more than any file has


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
    return _whole(value)


def _whole(text: str) -> str:
    """The text, if it is Unicode: JSON can spell halves of characters, which no tokenizer takes."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ExampleError(f"{text!a:.60} holds half a character (a lone surrogate)") from error
    return text


def _path(item: dict, key: str, folder: str) -> str:
    value = item.get(key)
    if not isinstance(value, str) or not value:
        raise ExampleError(f"a {key} must name its file")
    return join(folder, _whole(value))


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
    start, end, text = raw[0], raw[1], _whole(raw[2])
    # Nearly always so, and there are a thousand words a clip (NaN and Infinity are in no range).
    if type(start) in NUMBERS and type(end) in NUMBERS and 0 <= start < MUCH and 0 <= end < MUCH:
        return Word(microseconds(start), microseconds(end), text)
    return Word(_seconds(start, f"word {i} start"), _seconds(end, f"word {i} end"), text)
