"""TTML (W3C) and its profiles: DFXP, IMSC, EBU-TT, SMPTE-TT; only what tells text and times.

ttconv reads TTML too, but drops cues of no length, takes a time that it cannot read for 0, and
knows one namespace only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from livecc_jax.produce.captions.cues import NO_TIME, Captions, Cue, clean, rows_of
from livecc_jax.produce.captions.decode import clock_ms
from livecc_jax.produce.captions.xml import local_name, parse_xml

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_OFFSET = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)(h|ms|m|s|f|t)?")
_FRAMES = re.compile(r"(\d{1,9}):(\d{1,3}):(\d{1,2}):(\d{1,5})(?:\.\d+)?")
_CLOCK = re.compile(r"(?:(\d{1,9}):)?(\d{1,3}):(\d{1,2})(?:[.,](\d{1,9}))?")
_SPACE = re.compile(r"[ \t\n\r]+")
_UNIT_MS = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1, None: 1000}
_TIMED = ("body", "div", "p", "span")
_RUBY = ("text", "textcontainer", "delimiter")  # the reading beside a word, which is not said again


@dataclass(frozen=True)
class _Clock:
    """Rates of a document, in frames and ticks a second."""

    frame_rate: Fraction
    tick_rate: Fraction
    smpte: bool
    drop: bool

    def ms(self, text: str | None) -> int | None:
        """Returns a time expression in milliseconds; None for none and for one that is not
        understood.
        """
        if text is None:
            return None
        text = text.strip()
        if match := _CLOCK.fullmatch(text):
            return clock_ms(*match.groups())
        if match := _FRAMES.fullmatch(text):
            return self._frames_ms(*map(int, match.groups()))
        if match := _OFFSET.fullmatch(text):
            number, unit = Fraction(match[1]), match[2]
            if unit == "f":
                return round(number / self.frame_rate * 1000)
            if unit == "t":
                return round(number / self.tick_rate * 1000)
            return round(number * _UNIT_MS[unit])
        return None

    def _frames_ms(self, hours: int, minutes: int, seconds: int, frames: int) -> int:
        whole = (hours * 60 + minutes) * 60 + seconds
        if not self.smpte:
            return round((whole + frames / self.frame_rate) * 1000)
        count = whole * round(self.frame_rate) + frames
        if self.drop:  # two frame numbers are left out each minute, but not each tenth
            total = hours * 60 + minutes
            count -= 2 * (total - total // 10)
        return round(count / self.frame_rate * 1000)


def read_ttml(text: str, language: str = "") -> Captions:
    """Returns the cues of a TTML document.

    Args:
        text: The document.
        language: Which of several languages is wanted; by default the first.

    Raises:
        DataError: It is no XML.
    """
    root = parse_xml(text)
    clock = _clock(root)
    found = list(_cues(root, clock, 0, None, _attribute(root, "lang")))
    languages = list(dict.fromkeys(lang for lang, _ in found if lang))
    chosen = languages[0] if languages else ""
    if len(languages) > 1:
        wanted = language.partition("-")[0].lower()
        chosen = next(
            (x for x in languages if wanted and x.partition("-")[0].lower() == wanted), chosen
        )
        found = [(lang, cue) for lang, cue in found if lang in ("", chosen)]
    return Captions([cue for _, cue in found], language=chosen)


def _clock(root: Element) -> _Clock:
    rate = _whole(_attribute(root, "framerate"), 30)
    multiplier = re.fullmatch(r"\s*(\d{1,9})[ :](\d{1,9})\s*", _attribute(root, "frameratemultiplier"))
    frame_rate = Fraction(rate)
    if multiplier and int(multiplier[1]) and int(multiplier[2]):
        frame_rate *= Fraction(int(multiplier[1]), int(multiplier[2]))
    sub_frames = _whole(_attribute(root, "subframerate"), 1)
    # The standard's default: frames and their parts where a frame rate is given, else seconds.
    default = rate * sub_frames if _attribute(root, "framerate") else 1
    ticks = Fraction(_whole(_attribute(root, "tickrate"), default))
    drop = _attribute(root, "dropmode").lower() == "dropntsc"
    return _Clock(frame_rate, ticks, _attribute(root, "timebase").lower() == "smpte", drop)


def _whole(text: str, default: int) -> int:
    match = re.match(r"\s*(\d{1,9})", text)
    return int(match[1]) or default if match else default


def _attribute(element: Element, name: str) -> str:
    """Returns an attribute by its name without namespace, in whatever case; "" for none."""
    for key, value in element.attrib.items():
        if local_name(key) == name:
            return value
    return ""


def _span(
    element: Element, clock: _Clock, begin: int, end: int | None, parent: Element | None, after: int
) -> tuple[int, int | None]:
    """Returns when an element begins and ends, in milliseconds of the document.

    Args:
        element: The element.
        clock: Rates of the document.
        begin: When its parent begins.
        end: When its parent ends; None if that is open.
        parent: The parent.
        after: When the element before it ends, for a parent whose parts follow one another.
    """
    base = after if parent is not None and _attribute(parent, "timecontainer") == "seq" else begin
    start = base + (clock.ms(element.get("begin")) or 0)
    stops = [_relative(clock, element, "end", base), _relative(clock, element, "dur", start)]
    stops = [stop for stop in stops if stop is not None]
    stop = min(stops) if stops else None
    if end is not None:
        stop = end if stop is None else min(stop, end)
    return start, stop


def _relative(clock: _Clock, element: Element, name: str, base: int) -> int | None:
    time = clock.ms(element.get(name))
    return None if time is None else base + time


def _cues(
    parent: Element, clock: _Clock, begin: int, end: int | None, language: str
) -> Iterator[tuple[str, Cue]]:
    """Yields the paragraphs below an element with their languages."""
    after = begin
    for element in parent:
        name = local_name(element.tag)
        if name not in _TIMED or name == "span":
            continue
        start, stop = _span(element, clock, begin, end, parent, after)
        after = start if stop is None else stop
        lang = _attribute(element, "lang") if name in ("body", "div") else ""
        if name == "p":
            for cue in _paragraph(element, clock, start, stop):
                yield language, cue
        else:
            yield from _cues(element, clock, start, stop, lang or language)


def _paragraph(element: Element, clock: _Clock, start: int, stop: int | None) -> Iterator[Cue]:
    pieces = list(_pieces(element, clock, start, stop))
    is_timed = any(time is not None for _, time, _ in pieces)
    if is_timed and element.get("begin") is None:
        # Its parts alone are timed: each is a cue.
        for text, time, until in pieces:
            if time is not None:
                yield Cue(time, until, rows_of([(text, NO_TIME)]))
        return
    yield Cue(start, stop, rows_of([(t, NO_TIME if time is None else time) for t, time, _ in pieces]))


def _pieces(
    element: Element, clock: _Clock, start: int, stop: int | None, time: int | None = None
) -> Iterator[tuple[str, int | None, int | None]]:
    """Yields (text, time of its own or None, end of that) of an element's text, in order."""
    after = start
    yield _text(element.text), time, stop
    for part in element:
        name = local_name(part.tag)
        if name == "br":
            yield "\n", None, None
        elif name == "span" and _attribute(part, "ruby").lower() not in _RUBY:
            begin, until = _span(part, clock, start, stop, element, after)
            after = begin if until is None else until
            own = begin if part.get("begin") is not None else time
            yield from _pieces(part, clock, begin, until, own)
        yield _text(part.tail), time, stop


def _text(text: str | None) -> str:
    """Returns text with its white space as XML has it: any of it is one space."""
    return clean(_SPACE.sub(" ", text), markup=False, entities=False) if text else ""
