"""YouTube's XML captions: srv3 with the offsets of words, srv2, and srv1."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from livecc_jax.produce.captions.cues import NO_TIME, Captions, Cue, clean, plain_rows, rows_of
from livecc_jax.produce.captions.xml import local_name, parse_xml

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element


def read_srv(text: str) -> Captions:
    """Returns the cues of srv1, srv2 or srv3.

    Args:
        text: The file's text.

    Raises:
        DataError: It is no XML.
    """
    root = parse_xml(text)
    cues, timed, is_srv3 = [], False, False
    for element in root.iter():
        name = local_name(element.tag)
        if name == "p":
            is_srv3 = True
            pieces, has_times = _pieces(element)
            timed |= has_times
            rows = rows_of(pieces) if has_times else plain_rows("".join([text for text, _ in pieces]))
            cues.append(_cue(element, "t", "d", 1, rows))
        elif name == "text":
            # srv1 has seconds, and its text is escaped twice: for XML, and as HTML within.
            said = clean("".join(element.itertext()))
            keys = ("start", "dur", 1000) if "start" in element.attrib else ("t", "d", 1)
            cues.append(_cue(element, *keys, plain_rows(said)))
    kind = ("auto" if timed else "manual") if is_srv3 else ""
    return Captions([cue for cue in cues if cue is not None], kind, has_times=timed)


def _cue(element: Element, start_key: str, length_key: str, unit: int, rows: list) -> Cue | None:
    start = _ms(element.get(start_key), unit)
    length = _ms(element.get(length_key), unit)
    if start is None:
        return None
    return Cue(start, None if length is None else start + length, rows)


def _pieces(element: Element) -> tuple[list[tuple[str, int]], bool]:
    """Returns pieces of text with their times, and whether one has a time."""
    start = _ms(element.get("t"), 1) or 0
    pieces, has_times = [(clean(element.text or "", False, False), NO_TIME)], False
    for part in element:
        name = local_name(part.tag)
        offset = _ms(part.get("t"), 1) if name == "s" else None
        has_times |= offset is not None
        text = "\n" if name == "br" else clean("".join(part.itertext()), False, False)
        pieces.append((text, NO_TIME if offset is None else start + offset))
        pieces.append((clean(part.tail or "", False, False), NO_TIME))
    return pieces, has_times


def _ms(text: str | None, unit: int) -> int | None:
    """Returns a time in milliseconds, at least 0, that is given in units of `unit` ms; None for
    something else.
    """
    try:
        value = float(text) * unit if text is not None else math.nan
    except ValueError:
        return None
    return max(0, round(value)) if abs(value) < 1e15 else None
