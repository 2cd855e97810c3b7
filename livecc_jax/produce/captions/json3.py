"""YouTube's json3: events of segments, automatic ones with the offset of every word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from livecc_jax.errors import DataError
from livecc_jax.produce.captions.cues import NO_TIME, Captions, Cue, clean, plain_rows, rows_of


def read_json3(value: Mapping[str, Any]) -> Captions:
    """Returns the cues of a json3 file. Events without segments are windows, no text.

    Args:
        value: The JSON object.

    Raises:
        DataError: Its events are no list.
    """
    events = value.get("events")
    if not isinstance(events, list):
        raise DataError("its events are no list")
    cues, is_auto = [], False
    for event in events:
        segments = event.get("segs") if isinstance(event, dict) else None
        if not isinstance(segments, list):
            continue
        start, duration = event.get("tStartMs"), event.get("dDurationMs")
        if type(start) is not int or start < 0:
            start = _ms(start) or 0
        if type(duration) is not int or duration < 0:
            duration = _ms(duration)
        if len(segments) == 1 and (text := _only_text(segments[0])):
            cues.append(Cue(start, None if duration is None else start + duration, plain_rows(text)))
            is_auto = is_auto or "acAsrConf" in segments[0]
            continue
        pieces, has_times = [], False
        for segment in segments:
            text = segment.get("utf8") if isinstance(segment, dict) else None
            if not isinstance(text, str) or not text:
                continue
            offset = segment.get("tOffsetMs")
            if offset is not None:
                offset = _ms(offset)
                has_times = has_times or offset is not None
            if "<" in text or "&" in text or not text.isascii():
                text = clean(text)
            pieces.append((text, NO_TIME if offset is None else start + offset))
            is_auto = is_auto or "acAsrConf" in segment
        is_auto = is_auto or has_times
        text = "".join([text for text, _ in pieces])
        rows = rows_of(pieces) if has_times else plain_rows(text)
        cues.append(Cue(start, None if duration is None else start + duration, rows))
    kind = "auto" if is_auto else "manual"
    return Captions(cues, kind if cues else "", has_times=is_auto)


def _only_text(segment: Any) -> str:
    """Returns the text of a segment without an offset; "" for another."""
    if not isinstance(segment, dict) or "tOffsetMs" in segment:
        return ""
    text = segment.get("utf8")
    return clean(text) if isinstance(text, str) else ""


def _ms(value: Any) -> int | None:
    """Returns a number of milliseconds, at least 0; None for something else."""
    if isinstance(value, str) and value.strip().isdecimal() and len(value) < 16:
        value = int(value)
    if type(value) not in (int, float) or value != value or abs(value) > 1e15:
        return None
    return max(0, round(value))
