"""WebVTT (W3C), with the times of words that YouTube's automatic captions hold.

webvtt-py finds the same cues (tests compare them), but takes five times as long, refuses a file for
one impossible time, and leaves times within a cue to us.
"""

from __future__ import annotations

import re

from livecc_jax.produce.captions.cues import Captions, Cue, Row, clean
from livecc_jax.produce.captions.decode import CLOCK, clock_ms

_TIMES = re.compile(rf"\s*{CLOCK}\s*-->\s*{CLOCK}")
_TIME_TAG = re.compile(r"<(?:(\d{1,9}):)?(\d\d):(\d\d)[.,](\d{1,9})>")
_LANGUAGE = re.compile(r"(?im)^Language:\s*([A-Za-z][\w-]*)\s*$")


def read_vtt(text: str) -> Captions:
    """Returns the cues of a WebVTT file.

    A line with an arrow and two times begins a cue, and an empty line ends it. So the header,
    comments, styles, regions and identifiers are outside of cues, whatever they hold.

    Args:
        text: The file's text.
    """
    has_times = bool(_TIME_TAG.search(text))
    cues: list[Cue] = []
    rows: list[Row] | None = None
    header: list[str] = []
    for line in text.split("\n"):
        if "-->" in line:
            match = _TIMES.match(line)
            rows = None
            if match:
                parts, rows = match.groups(), []
                cues.append(Cue(clock_ms(*parts[:4]), clock_ms(*parts[4:]), rows))
        elif not line:
            rows = None
        elif rows is None:
            if not cues:
                header.append(line)
        elif has_times and "<" in line:
            rows.append(_timed_row(line))
        else:
            rows.append(Row(clean(line)))
    language = match[1] if (match := _LANGUAGE.search("\n".join(header))) else ""
    return Captions(cues, "auto" if has_times else "", language, has_times)


def _timed_row(line: str) -> Row:
    """Returns a row with marks where the text after time tags begins."""
    line = line.replace("<c>", "").replace("</c>", "")  # what YouTube puts around each word
    first, *parts = _TIME_TAG.split(line)
    text, marks = clean(first), []
    for i in range(0, len(parts), 5):
        hours, minutes, seconds, fraction, part = parts[i : i + 5]
        if part := clean(part):
            marks.append((len(text), clock_ms(hours, minutes, seconds, fraction)))
            text += part
    return Row(text, tuple(marks))
