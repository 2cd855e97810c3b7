"""Reads one source: its metadata, and its words where the list holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from livecc_jax.bounded_json import JsonError, parse_json
from livecc_jax.data.annotations.conversations import (
    MAX_DECLARED_PIXELS,
    MAX_DECLARED_SECONDS,
    MAX_PATH_CHARACTERS,
    MAX_SECONDS,
    NUMBER_TYPES,
)
from livecc_jax.data.files.paths import folder_of, join
from livecc_jax.produce.parameters import Parameters
from livecc_jax.produce.records import Rejection, Source, Word
from livecc_jax.produce.sources.entries import Entry, FolderVideo, ListLine
from livecc_jax.produce.sources.metadata import INFO_KEYS, clean_info, youtube_id
from livecc_jax.produce.sources.ytdlp import read_folder_video
from livecc_jax.redact import visible

STAGE = "source"
MAX_TITLE_CHARACTERS = 10_000
KINDS = ("manual", "auto", "asr")


class _Fault(Exception):
    """What is wrong with a line, in words that do not contain its values."""


def read_source(entry: Entry, parameters: Parameters) -> Source | Rejection:
    """Returns the source that an entry names, or the rejection of an entry that is none.

    Args:
        entry: What a listing gave.
        parameters: Reads `caption_language`.
    """
    if isinstance(entry, FolderVideo):
        return read_folder_video(entry, parameters)
    try:
        return _read_line(entry)
    except _Fault as fault:
        sample = visible((entry.text or b"")[:200].decode("utf-8", "replace"))
        name = f"{entry.file} line {entry.number}"
        return Rejection(entry.order, name, "", STAGE, str(fault), text=sample)


def _read_line(line: ListLine) -> Source:
    if line.text is None:
        raise _Fault("line is too long")
    try:
        value = parse_json(line.text, max_bytes=len(line.text), encoding="utf-8")
    except JsonError as error:
        raise _Fault(f"line cannot be read: {error.reason}") from error
    if not isinstance(value, dict):
        raise _Fault("line is no JSON object")
    video = value.get("video")
    if not isinstance(video, str) or not video or "\0" in video or len(video) > MAX_PATH_CHARACTERS:
        raise _Fault("video does not name a file")
    folder = folder_of(line.file)
    captions = _text(value, "captions", MAX_PATH_CHARACTERS)
    kind = _text(value, "captions_kind")
    name = video.rpartition("/")[2]
    stem = name.rpartition(".")[0] or name
    return Source(
        order=line.order,
        id=_text(value, "id") or youtube_id(stem) or video,
        video=join(folder, video),
        title=_text(value, "title"),
        category=_text(value, "category"),
        captions=join(folder, captions) if captions else "",
        captions_kind=kind if kind in KINDS else "",
        language=_text(value, "language"),
        duration_ms=_duration_ms(value),
        width=_pixels(value, "width"),
        height=_pixels(value, "height"),
        words=_words(value.get("words")),
        info=clean_info({key: value[key] for key in INFO_KEYS if value.get(key) is not None}),
    )


def _text(value: Mapping[str, Any], key: str, most: int = MAX_TITLE_CHARACTERS) -> str:
    text = value.get(key)
    if text is None:
        return ""
    if not isinstance(text, str):
        raise _Fault(f"{key} is no text")
    if len(text) > most or (key == "captions" and "\0" in text):
        raise _Fault(f"{key} is too long" if len(text) > most else f"{key} names no file")
    return text


def _duration_ms(value: Mapping[str, Any]) -> int | None:
    seconds = value.get("duration")
    if seconds is None:
        return None
    if type(seconds) not in NUMBER_TYPES or not 0 < seconds <= MAX_DECLARED_SECONDS:
        raise _Fault("duration is no number of seconds above 0")
    return round(seconds * 1000)


def _pixels(value: Mapping[str, Any], key: str) -> int | None:
    pixels = value.get(key)
    if pixels is None:
        return None
    if type(pixels) not in NUMBER_TYPES or not 0 < pixels <= MAX_DECLARED_PIXELS or pixels % 1:
        raise _Fault(f"{key} is no whole number of pixels")
    return int(pixels)


def _words(value: Any) -> tuple[Word, ...] | None:
    """Returns words as they are given, in milliseconds; those without letters are left out."""
    if value is None:
        return None
    try:
        words = [
            Word(round(start * 1000), round(end * 1000), text.strip())
            for start, end, text in value
            if text.strip()
        ]
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _Fault("words are no list of [start, end, word]") from error
    times = [time for start, end, _ in words for time in (start, end)]
    if times and (min(times) < 0 or max(times) > MAX_SECONDS * 1000):
        raise _Fault("words have impossible times")
    return tuple(words)
