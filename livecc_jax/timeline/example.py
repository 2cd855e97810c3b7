"""Parsed annotations: the examples that timelines are built from.

Times are integer microseconds, so that comparing a word's end with a frame's time is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Word(NamedTuple):  # fast to create: a clip has hundreds
    """One spoken word, with its start and end in the video file in microseconds."""

    start_us: int
    end_us: int
    text: str


@dataclass(frozen=True)
class VideoClip:
    """A span of a video file; None stands for its beginning or its end."""

    path: str
    start_us: int | None = None
    end_us: int | None = None


@dataclass(frozen=True)
class ImageFile:
    """A still image file."""

    path: str


@dataclass(frozen=True)
class StreamExample:
    """A clip and the timed words that are spoken over it.

    Attributes:
        clip: The span of the video.
        words: The words, in order.
        query: The user's request.
        title: Title of the video.
        previous: Commentary before the clip.
        category: Category of the video.
        reordered: Number of words that ran backwards and were put in order (`turns.order_words`).
    """

    clip: VideoClip
    words: tuple[Word, ...]
    query: str = ""
    title: str = ""
    previous: str = ""
    category: str = ""
    reordered: int = 0


@dataclass(frozen=True)
class Message:
    """One message of an ordinary conversation; `role` is system, user or assistant."""

    role: str
    content: tuple[str | VideoClip | ImageFile, ...]


@dataclass(frozen=True)
class ChatExample:
    """An ordinary question-answering conversation over videos, images or text alone."""

    messages: tuple[Message, ...]


Example = StreamExample | ChatExample


def media_paths(example: Example) -> list[str]:
    """Returns the paths of the videos and images of an example, in order."""
    if isinstance(example, StreamExample):
        return [example.clip.path]
    return [item.path for m in example.messages for item in m.content if not isinstance(item, str)]


def seconds_to_us(seconds: float) -> int:
    """Converts seconds to the nearest microsecond."""
    return round(seconds * 1_000_000)
