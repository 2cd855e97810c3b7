"""What travels through data production: sources, clips and rejections, and their JSON.

Times are integers in milliseconds, so that bounds are compared exactly (33.3 - 3.3 < 30 in floats).
JSON texts have one form: the same record gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

SCHEMA = 2  # raised when the JSON of a record changes, or what it means


class Word(NamedTuple):
    """A word that is said.

    Attributes:
        start_ms: Start in milliseconds of the video file.
        end_ms: End in milliseconds, at or after the start.
        text: The word, without white space.
    """

    start_ms: int
    end_ms: int
    text: str


@dataclass(frozen=True)
class Source:
    """One video with what is known about it before it is opened.

    Attributes:
        order: Position among all sources of the run, from 0. Results are joined in this order.
        id: Name of the video where it comes from (its YouTube id), else its path; lists of opt-outs
            and of evaluation videos are compared with it.
        video: Path or address of the file. The file need not exist as long as no stage opens it.
        title: Title; "" when unknown.
        category: Category in the site's words, such as "Howto & Style"; "" when unknown.
        captions: Path or address of the caption file that was chosen; "" for none.
        captions_kind: "manual", "auto", "asr", or "" when unknown.
        language: Language of the captions (a code such as "en" or "pt-BR"); "" when unknown.
        duration_ms: Duration in milliseconds; None when unknown.
        width: Displayed width in pixels; None when unknown.
        height: Displayed height in pixels; None when unknown.
        words: The words, in order of time; None while they have not been read.
        info: Further metadata, such as licence, channel, upload date and tags. JSON values.
    """

    order: int
    id: str
    video: str
    title: str = ""
    category: str = ""
    captions: str = ""
    captions_kind: str = ""
    language: str = ""
    duration_ms: int | None = None
    width: int | None = None
    height: int | None = None
    words: tuple[Word, ...] | None = None
    info: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as JSON values."""
        return _to_json(self)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Source:
        """Returns the source whose `to_json` is given."""
        return Source(**_with_words(value))


@dataclass(frozen=True)
class Clip:
    """A cut of a source: the words that are said, and the window of the video that shows them.

    Attributes:
        order: `Source.order`.
        index: Number of the clip among those cut from its source, from 0; rejected ones count.
        id: `Source.id`.
        video: `Source.video`.
        start_ms: Start of the window in milliseconds of the file, at or before the first word.
        end_ms: End of the window, after the last word where the video is long enough.
        words: The words, in order of time.
        previous: What is said before the clip, joined by single spaces; "" for fine-tuning.
        title: `Source.title`.
        category: `Source.category`.
        query: The user's request, for fine-tuning; "" before the prompt stage.
        language: `Source.language`.
        duration_ms: `Source.duration_ms`.
        width: `Source.width`.
        height: `Source.height`.
        measures: What stages measured, such as `text_loss`. JSON values.
        info: `Source.info`.
    """

    order: int
    index: int
    id: str
    video: str
    start_ms: int
    end_ms: int
    words: tuple[Word, ...]
    previous: str = ""
    title: str = ""
    category: str = ""
    query: str = ""
    language: str = ""
    duration_ms: int | None = None
    width: int | None = None
    height: int | None = None
    measures: Mapping[str, Any] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The words joined by single spaces."""
        return " ".join([word.text for word in self.words])

    @property
    def speech_ms(self) -> int:
        """Milliseconds from the first word's start to the last word's end."""
        return self.words[-1].end_ms - self.words[0].start_ms

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as JSON values."""
        return _to_json(self)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Clip:
        """Returns the clip whose `to_json` is given."""
        return Clip(**_with_words(value))


@dataclass(frozen=True)
class Rejection:
    """A source, or a stretch of one, that a stage dropped.

    Attributes:
        order: `Source.order`.
        id: `Source.id`.
        video: `Source.video`.
        stage: Name of the stage.
        reason: What is wrong, in a few words that do not contain the measured value, so that equal
            reasons can be counted.
        value: What was measured, as a JSON value; None where nothing can be measured.
        clip: Start of the first and end of the last word, in milliseconds, of the stretch that was
            dropped; None for the whole source.
        index: `Clip.index`; None for the whole source.
        num_words: Words that were dropped with it.
        text: The beginning of what was said, or the title, as a sample for the report.
    """

    order: int
    id: str
    video: str
    stage: str
    reason: str
    value: Any = None
    clip: tuple[int, int] | None = None
    index: int | None = None
    num_words: int = 0
    text: str = ""

    def to_json(self) -> dict[str, Any]:
        """Returns the fields as JSON values."""
        return _to_json(self)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Rejection:
        """Returns the rejection whose `to_json` is given."""
        clip = value.get("clip")
        return Rejection(**{**value, "clip": None if clip is None else tuple(clip)})


Record = Source | Clip
SAMPLE_CHARACTERS = 200


def reject(record: Record, stage: str, reason: str, value: Any = None) -> Rejection:
    """Returns the rejection of a source or a clip.

    Args:
        record: What is dropped.
        stage: Name of the stage.
        reason: What is wrong, without the measured value.
        value: What was measured, as a JSON value.
    """
    if isinstance(record, Source):
        words = record.words or ()
        sample = record.title or " ".join([word.text for word in words[:40]])
        span, index = None, None
    else:
        words, index = record.words, record.index
        # From the first to the last word, as of stretches that cutting drops: hours then add up.
        span = (words[0].start_ms, words[-1].end_ms) if words else (record.start_ms, record.end_ms)
        sample = " ".join([word.text for word in words[:40]])
    return Rejection(
        record.order,
        record.id,
        record.video,
        stage,
        reason,
        value,
        span,
        index,
        len(words),
        sample[:SAMPLE_CHARACTERS],
    )


def dumps(value: Any) -> str:
    """Returns JSON in the one form that is written: no spaces, keys in their order, letters as they
    are.

    Args:
        value: A JSON value. NaN and infinity become null: they are no JSON.
    """
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """Returns a digest of a JSON value, 16 hexadecimal digits; the order of keys does not count."""
    text = json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, list | tuple) else value


def _to_json(record: Any) -> dict[str, Any]:
    # Not `asdict`, which copies every word.
    return {f.name: getattr(record, f.name) for f in fields(record)}


def _with_words(value: Mapping[str, Any]) -> dict[str, Any]:
    words = value.get("words")
    return {**value, "words": None if words is None else tuple([Word(*word) for word in words])}
