"""WebVTT, with the times of words that YouTube's automatic captions hold. webvtt-py finds cues; we
read their text.
"""

from __future__ import annotations

import re

from livecc_jax.errors import DataError
from livecc_jax.produce.captions.cues import NO_TIME, TAG, Captions, Cue, Row, clean, rows_of
from livecc_jax.produce.captions.decode import CLOCK, clock_ms

_TIME_TAG = re.compile(r"<(?:(\d{1,9}):)?(\d\d):(\d\d)[.,](\d{1,9})>")
_TIMES = re.compile(rf"(?m)^[ \t]*{CLOCK}[ \t]*-->[ \t]*{CLOCK}")
_COMMA = re.compile(r"(?m)^[ \t]*[\d:]+,\d+[ \t]*-->")  # as in SRT
_LANGUAGE = re.compile(r"(?im)^Language:\s*([A-Za-z][\w-]*)\s*$")


def read_vtt(text: str) -> Captions:
    """Returns the cues of a WebVTT file.

    Args:
        text: The file's text.

    Raises:
        DataError: It is no WebVTT.
    """
    import webvtt

    text = text.lstrip("\ufeff \t\n")
    text = text if text.startswith("WEBVTT") else f"WEBVTT\n\n{text}"
    try:
        if _COMMA.search(text):
            text = _TIMES.sub(_standard_times, text)
        try:
            found = webvtt.from_string(text)
        except webvtt.errors.MalformedCaptionError:  # a time such as 75:00.000
            found = webvtt.from_string(_TIMES.sub(_standard_times, text))
    except Exception as error:  # whatever it raises, the file is not read
        raise DataError(f"is no WebVTT that can be read: {error}") from error
    has_times = bool(_TIME_TAG.search(text))
    cues = []
    for caption in found.captions:
        start = caption.start_time.in_milliseconds()
        rows = _timed_rows(caption.raw_text) if has_times else _rows(caption.raw_text)
        cues.append(Cue(start, caption.end_time.in_milliseconds(), rows))
    header = "\n".join(found.metadata) if found.metadata else ""
    language = match[1] if (match := _LANGUAGE.search(header)) else ""
    return Captions(cues, "auto" if has_times else "", language, has_times)


def _standard_times(match: re.Match[str]) -> str:
    """Returns a time line as the standard has it."""
    parts = match.groups()
    return " --> ".join(_standard(clock_ms(*times)) for times in (parts[:4], parts[4:]))


def _standard(ms: int) -> str:
    minutes, ms = divmod(ms, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{ms // 1000:02}.{ms % 1000:03}"


def _rows(text: str) -> list[Row]:
    return [Row(clean(line)) for line in text.split("\n")]


def _timed_rows(text: str) -> list[Row]:
    """Returns rows with marks where time tags stand."""
    pieces, position, time = [], 0, NO_TIME
    for tag in TAG.finditer(text):
        pieces.append((clean(text[position : tag.start()], markup=False), time))
        time, position = NO_TIME, tag.end()
        if match := _TIME_TAG.fullmatch(tag[0]):
            time = clock_ms(*match.groups())
    pieces.append((clean(text[position:], markup=False), time))
    return rows_of(_carry_times(pieces))


def _carry_times(pieces: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Gives the text after `<00:01.000><c>` the time, though the tag `<c>` stands between."""
    carried, waiting = [], NO_TIME
    for text, time in pieces:
        waiting = time if time != NO_TIME else waiting
        carried.append((text, waiting if text else NO_TIME))
        if text:
            waiting = NO_TIME
    return carried
