"""Transcripts of speech recognisers: WhisperX, faster-whisper, whisper, and JSON of the same shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from livecc_jax.errors import DataError
from livecc_jax.produce.captions.cues import MAX_TIME_MS, clean
from livecc_jax.produce.captions.words import share
from livecc_jax.produce.records import Word

_Timed = tuple[int | None, int | None, str]


def segments_of(value: Any) -> list[Any] | None:
    """Returns the segments of a transcript; None for JSON that is none.

    Args:
        value: A JSON value: an object with `segments` (also `chunks` of transformers,
            `transcription` of whisper.cpp, or `words` alone), or a list of segments.
    """
    if isinstance(value, list):
        return value if any(isinstance(part, Mapping) for part in value) else None
    if not isinstance(value, Mapping):
        return None
    if isinstance(segments := value.get("segments"), list):
        words = value.get("words")
        if isinstance(words, list) and words and not any(_words(segment) for segment in segments):
            return [{"words": words}]
        return segments
    for key in ("chunks", "transcription"):
        if isinstance(value.get(key), list):
            return value[key]
    return [{"words": value["words"]}] if isinstance(value.get("words"), list) else None


def read_asr(segments: Sequence[Any]) -> tuple[Word, ...]:
    """Returns the words of segments in order of time, as they are given (rule 14).

    Args:
        segments: The segments, of which those that are no objects are passed over.

    Raises:
        DataError: A time is impossible.
    """
    parts = [part for part in segments if isinstance(part, Mapping)]
    has_spaces = any(_text(word)[:1].isspace() for part in parts for word in _words(part))
    spans = [_span(part) for part in parts]
    found: list[Word] = []
    for number, part in enumerate(parts):
        start, end = spans[number]
        words = _joined([_timed(word) for word in _words(part)], has_spaces)
        words = [(s, e, t) for s, e, text in words if (t := text.strip())]
        if not words:
            texts = clean(_text(part), markup=False, entities=False).split()
            if not texts:
                continue
            if start is None:
                start = found[-1].end_ms if found else 0
            if end is None:
                end = next((s for s, _ in spans[number + 1 :] if s is not None), start)
            found += share(texts, start, max(start, end))
            continue
        found += _filled(words, start, end, found[-1].end_ms if found else 0)
    return _in_order(found)


def _words(segment: Any) -> list[Any]:
    words = segment.get("words") if isinstance(segment, Mapping) else None
    return [w for w in words if isinstance(w, Mapping | list)] if isinstance(words, list) else []


def _text(value: Any) -> str:
    """Returns the text of a segment or of a word, which may be a list of start, end and text."""
    if isinstance(value, Mapping):
        text = value.get("word", value.get("text"))
    else:
        text = value[2] if len(value) > 2 else None
    return text if isinstance(text, str) else ""


def _timed(word: Any) -> _Timed:
    start, end = (
        (word.get("start"), word.get("end")) if isinstance(word, Mapping) else [*word, 0, 0][:2]
    )
    text = clean(_text(word), markup=False, entities=False)
    return _ms(start), _ms(end), text


def _span(segment: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Returns start and end of a segment in milliseconds."""
    start, end, unit = segment.get("start"), segment.get("end"), 1000
    if isinstance(times := segment.get("timestamp"), list) and len(times) == 2:
        start, end = times
    elif isinstance(times := segment.get("offsets"), Mapping):
        start, end, unit = times.get("from"), times.get("to"), 1
    return _ms(start, unit), _ms(end, unit)


def _ms(value: Any, unit: int = 1000) -> int | None:
    """Returns a time in milliseconds, at least 0; None for something else, such as NaN."""
    if type(value) not in (int, float) or value != value:
        return None
    if abs(value) * unit > MAX_TIME_MS:
        raise DataError("holds an impossible time")
    return max(0, round(value * unit))


def _joined(words: list[_Timed], has_spaces: bool) -> list[_Timed]:
    """Joins parts of words where words begin with a space: ` rock` and `-solid` are one."""
    if not has_spaces:
        return words
    joined: list[_Timed] = []
    for start, end, text in words:
        if joined and not text[:1].isspace():
            first, last, before = joined[-1]
            joined[-1] = (
                first if first is not None else start,
                end if end is not None else last,
                before + text,
            )
        else:
            joined.append((start, end, text))
    return joined


def _filled(words: list[_Timed], start: int | None, end: int | None, before: int) -> list[Word]:
    """Gives words without times an even share of the gap between their neighbours, or up to the
    segment's edge.
    """
    found: list[Word] = []
    i = 0
    last = before if start is None else start
    while i < len(words):
        first, until, text = words[i]
        if first is not None or until is not None:
            if first is None:
                first = min(last, until)
            if until is None:
                until = _next_start(words, i + 1, first if end is None else max(first, end))
            found.append(Word(first, max(first, until), text))
            last = found[-1].end_ms
            i += 1
            continue
        j = i
        while j < len(words) and words[j][0] is None and words[j][1] is None:
            j += 1
        stop = _next_start(words, j, last if end is None else end)
        low = min(last, stop) if j < len(words) else last
        found += share([text for _, _, text in words[i:j]], low, max(low, stop))
        last = found[-1].end_ms
        i = j
    return found


def _next_start(words: list[_Timed], i: int, otherwise: int) -> int:
    """Returns when the next word that has a time begins."""
    for start, end, _ in words[i:]:
        if start is not None or end is not None:
            return start if start is not None else end
    return otherwise


def _in_order(words: list[Word]) -> tuple[Word, ...]:
    """Returns words by their starts; one that ends after the next one does ends where that one
    begins.
    """
    words.sort(key=lambda word: word.start_ms)
    latest = None
    for i in range(len(words) - 1, -1, -1):
        word = words[i]
        if latest is not None and word.end_ms > latest:
            words[i] = Word(word.start_ms, max(word.start_ms, words[i + 1].start_ms), word.text)
        latest = words[i].end_ms
    return tuple(words)
