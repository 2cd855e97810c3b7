"""Advanced SubStation Alpha, and SubStation Alpha before it.

pysubs2 reads them too, but in a fixed order of fields, whatever the file's Format says.
"""

from __future__ import annotations

import re

from livecc_jax.produce.captions.cues import Captions, Cue, Row, clean
from livecc_jax.produce.captions.decode import parse_clock

_FIELDS = ["layer", "start", "end", "style", "name", "marginl", "marginr", "marginv", "effect", "text"]
_BLOCK = re.compile(r"\{[^}]*\}")
_DRAWING = re.compile(r"\\p(\d+)")
_LINE = re.compile(r"(?i)\s*(format|dialogue)\s*:(.*)", re.DOTALL)


def read_ass(text: str) -> Captions:
    """Returns the cues of the Dialogue lines of an ASS file.

    Args:
        text: The file's text.
    """
    fields, cues, in_events = _FIELDS, [], True
    for line in text.split("\n"):
        if line.lstrip("\ufeff \t").startswith("["):
            in_events = line.strip("\ufeff \t").lower() == "[events]"
            continue
        match = _LINE.match(line)
        if not match:
            continue
        if match[1].lower() == "format":
            if in_events:
                fields = [name.strip().lower() for name in match[2].split(",")]
            continue
        values = match[2].split(",", len(fields) - 1)
        event = dict(zip(fields, values))
        start, end = parse_clock(event.get("start", "")), parse_clock(event.get("end", ""))
        if start is not None and "text" in event:
            cues.append(Cue(start, end, [Row(row) for row in _text(event["text"]).split("\n")]))
    return Captions(cues)


def _text(text: str) -> str:
    r"""Returns what is shown of a line's text: no overrides, no drawings, `\N` and `\n` as line
    breaks."""
    shown, position, drawing = "", 0, False
    for block in _BLOCK.finditer(text):
        if not drawing:
            shown += text[position : block.start()]
        for scale in _DRAWING.findall(block[0]):
            drawing = int(scale) > 0
        position = block.end()
    if not drawing:
        shown += text[position:]
    return clean(shown.replace("\\N", "\n").replace("\\n", "\n").replace("\\h", " "))
