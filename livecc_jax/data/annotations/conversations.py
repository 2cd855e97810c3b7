"""Parses conversations of annotation files into examples (docs/formats.md, section 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from livecc_jax.data.files.paths import join
from livecc_jax.errors import ExampleError
from livecc_jax.timeline.example import (
    ChatExample,
    Example,
    ImageFile,
    Message,
    StreamExample,
    VideoClip,
    Word,
    seconds_to_us,
)
from livecc_jax.timeline.turns import order_words

NUMBER_TYPES = (int, float)  # compared with `type`, so that bool does not count as a number
MAX_SECONDS = 1e9  # longer than any file
MAX_DECLARED_SECONDS = 7 * 86_400  # of a file that is not opened: its frames are counted in memory
MAX_DECLARED_PIXELS = 1_000_000  # of a side of a file that is not opened
MAX_PATH_CHARACTERS = 8192
MAX_TEXT_CHARACTERS = 1_000_000  # of a conversation: a tokenizer takes 70 bytes of memory for each


@dataclass(frozen=True)
class DeclaredClip(VideoClip):
    """A clip whose annotation gives the duration and frame size of its file.

    Attributes:
        duration_us: Duration of the file in microseconds.
        width: Width of a frame in pixels.
        height: Height of a frame in pixels.
    """

    duration_us: int = 0
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class DeclaredImage(ImageFile):
    """An image whose annotation gives its size in pixels."""

    width: int = 0
    height: int = 0


def parse(raw: Any, folder: str, location: str) -> Example:
    """Parses a JSON conversation.

    Args:
        raw: The decoded JSON value of the line.
        folder: Folder of the annotation file; relative media paths are relative to it.
        location: Names file and line in errors.

    Raises:
        ExampleError: The value is not a conversation of the documented form.
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
            example: Example = _stream(raw, folder)
            texts = [example.query, example.title, example.previous, *(w.text for w in example.words)]
        else:
            example = ChatExample(tuple(_message(turn, folder) for turn in raw))
            texts = [item for m in example.messages for item in m.content if isinstance(item, str)]
        if (size := sum(map(len, texts))) > MAX_TEXT_CHARACTERS:
            raise ExampleError(f"has {size} characters of text, more than {MAX_TEXT_CHARACTERS}")
        return example
    except ExampleError as error:
        raise ExampleError(f"{location}: {error}") from None


def _items(turn: Any) -> list[Any]:
    if not isinstance(turn, dict) or not isinstance(turn.get("role"), str):
        raise ExampleError("every turn must be an object with a role")
    content = turn.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list) or not all(isinstance(item, dict) for item in content):
        raise ExampleError(
            f"the content of a {turn['role']!a:.40} turn must be text or a list of objects"
        )
    return content


def _stream(raw: list, folder: str) -> StreamExample:
    if [turn["role"] for turn in raw] != ["user", "assistant"]:
        raise ExampleError("a streaming example must have one user and one assistant turn")
    question, answer = _items(raw[0]), _items(raw[1])
    videos = [item for item in question if item.get("type") == "video"]
    texts = [item for item in question if item.get("type") == "text"]
    if len(videos) != 1 or len(texts) > 1 or len(videos) + len(texts) != len(question):
        raise ExampleError("a streaming example's user turn must hold one video and at most one text")
    if len(answer) != 1 or answer[0].get("type") != "text_stream":
        raise ExampleError("a streaming example's assistant turn must hold one text_stream")
    text = texts[0] if texts else {}
    words = answer[0].get("text_stream")
    if not isinstance(words, list):
        raise ExampleError("text_stream must be a list of [start, end, word]")
    ordered, reordered = order_words([_word(i, w) for i, w in enumerate(words)])
    return StreamExample(
        _clip(videos[0], folder),
        ordered,
        *(_string(text, key) for key in ("text", "title", "previous", "category")),
        reordered,
    )


def _message(turn: dict, folder: str) -> Message:
    role = turn["role"] if isinstance(turn, dict) and "role" in turn else None
    if role not in ("system", "user", "assistant"):
        raise ExampleError(f"role {role!a:.40} is not system, user or assistant")
    content: list[str | VideoClip | ImageFile] = []
    for item in _items(turn):
        kind = item.get("type")
        if kind == "text":
            content.append(_string(item, "text"))
        elif kind == "video":
            content.append(_clip(item, folder))
        elif kind == "image":
            content.append(_image(item, folder))
        else:
            raise ExampleError(f"content of type {kind!a:.40} is not text, image, video or text_stream")
    if role == "assistant" and not all(isinstance(item, str) for item in content):
        raise ExampleError("an assistant turn must hold text alone")
    return Message(role, tuple(content))


def _string(item: dict, key: str) -> str:
    value = item.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ExampleError(f"{key!r} must be a string, not {value!a:.40}")
    return _checked_unicode(value)


def _checked_unicode(text: str) -> str:
    """Returns the text if it is valid Unicode; JSON can spell lone surrogates, which it is not."""
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
    if "\0" in value:
        raise ExampleError(f"the path of a {key} holds a NUL character: {value!a:.60}")
    if len(value) > MAX_PATH_CHARACTERS:
        raise ExampleError(f"the path of a {key} has {len(value)} characters")
    return join(folder, _checked_unicode(value))


def _clip(item: dict, folder: str) -> VideoClip:
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
        return VideoClip(path, start, end)
    duration = _seconds(item["duration"], "duration")
    if duration > MAX_DECLARED_SECONDS * 1_000_000:
        raise ExampleError(f"{path}: its duration of {duration / 1e6:g} s is more than a week")
    return DeclaredClip(path, start, end, duration, *_declared_size(item, path))


def _image(item: dict, folder: str) -> ImageFile:
    path = _path(item, "image", folder)
    if item.get("width") is None or item.get("height") is None:
        return ImageFile(path)
    return DeclaredImage(path, *_declared_size(item, path))


def _declared_size(item: dict, path: str) -> tuple[int, int]:
    size = item.get("width"), item.get("height")
    if not all(type(v) is int and 0 < v <= MAX_DECLARED_PIXELS for v in size):
        raise ExampleError(
            f"{path}: its width and height must be whole numbers of pixels, not {size!a:.60}"
        )
    return size


def _seconds(value: Any, name: str) -> int:
    # JSON as Python reads it may hold NaN and Infinity, which fail the comparison.
    if type(value) not in NUMBER_TYPES or not -MAX_SECONDS <= value <= MAX_SECONDS:
        raise ExampleError(f"{name} must be a number of seconds, not {value!a:.40}")
    return seconds_to_us(value)


def _word(i: int, raw: Any) -> Word:
    if not isinstance(raw, list) or len(raw) != 3 or not isinstance(raw[2], str):
        raise ExampleError(f"word {i} must be [start, end, word], not {raw!a:.60}")
    start, end, text = raw[0], raw[1], _checked_unicode(raw[2])
    # Fast path, as a clip has about a thousand words; NaN and Infinity fail the comparisons.
    if (
        type(start) in NUMBER_TYPES
        and type(end) in NUMBER_TYPES
        and 0 <= start < MAX_SECONDS
        and 0 <= end < MAX_SECONDS
    ):
        return Word(seconds_to_us(start), seconds_to_us(end), text)
    return Word(_seconds(start, f"word {i} start"), _seconds(end, f"word {i} end"), text)
