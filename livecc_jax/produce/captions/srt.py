"""SubRip. Its text is what stands between time lines; there is no grammar that real files keep to.

pysubs2 reads it too, but takes a number at the end of a cue's text for the next cue's counter.
"""

from __future__ import annotations

import re

from livecc_jax.produce.captions.cues import Captions, Cue, Row, clean
from livecc_jax.produce.captions.decode import CLOCK, clock_ms

_TIMES = re.compile(rf"[\s\ufeff]*{CLOCK}\s*-{{1,2}}\s?>\s*{CLOCK}")
_NUMBER = re.compile(r"[\s\ufeff]*\d+\s*")


def read_srt(text: str) -> Captions:
    """Returns the cues of an SRT file. The number right before a time line is a counter, others are
    text.

    Args:
        text: The file's text.
    """
    lines = text.split("\n")
    times = []
    for number, line in enumerate(lines):
        if ">" in line and (match := _TIMES.match(line)):
            parts = match.groups()
            times.append((number, clock_ms(*parts[:4]), clock_ms(*parts[4:])))
    cues = []
    for i, (number, start, end) in enumerate(times):
        stop = len(lines)
        if i + 1 < len(times):
            stop = times[i + 1][0]
            if stop - 1 > number and _NUMBER.fullmatch(lines[stop - 1]):
                stop -= 1
        rows = [Row(clean(line, overrides=True)) for line in lines[number + 1 : stop]]
        while rows and not rows[-1].text.strip():
            rows.pop()
        cues.append(Cue(start, end, rows))
    return Captions(cues)
