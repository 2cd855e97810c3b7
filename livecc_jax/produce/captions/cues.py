"""Cues, the rows of text in them, and what is taken out of every row: markup, entities, characters
that are not seen.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

MAX_TIME_MS = 10**12  # 10^9 s, the largest time of an annotation
NO_TIME = -1


class Row(NamedTuple):
    """A line of text.

    Attributes:
        text: The text, without markup.
        marks: (position, ms): from this character on, words start at that time or later, until the
            next mark. Empty where the file has no times of words.
    """

    text: str
    marks: tuple[tuple[int, int], ...] = ()


_new_row = partial(tuple.__new__, Row)  # twice as fast as `Row(...)`


class Cue(NamedTuple):
    """Text that is shown for some time.

    Attributes:
        start_ms: Start in milliseconds.
        end_ms: End in milliseconds; None where the file gives none.
        rows: Its rows, from top to bottom.
    """

    start_ms: int
    end_ms: int | None
    rows: list[Row]


@dataclass
class Captions:
    """What a reader of a format finds.

    Attributes:
        cues: The cues in the order of the file.
        kind: "manual" or "auto" where the format tells; else "".
        language: Language that the file states; "" for none.
        has_times: Whether the file times words; then lines of one word are no longer than others.
        always_rolls: Whether rows may be carried over from cue to cue however few are (WebVTT with
            word times).
    """

    cues: list[Cue] = field(default_factory=list)
    kind: str = ""
    language: str = ""
    always_rolls: bool = False
    has_times: bool = False


# A `<` that a letter, a slash or a time follows; `< 2` and `<3` are text.
TAG = re.compile(r"<(?:[^\W\d_]|/)[^<>]*>|<\d+:\d\d(?::\d\d)?[.,]\d+>")
_BREAK = re.compile(r"(?i)<br\s*/?>")  # parts words, as other tags do not
_OVERRIDE = re.compile(r"\{\\[^{}]*\}")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
# Zero-width space, word joiner, byte order marks in the middle, soft hyphen, marks of direction. The
# joiners U+200C and U+200D are letters of Persian spelling and parts of emoji.
_INVISIBLE = re.compile("[\u200b\ufeff\u2060\u00ad\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_HALVES = re.compile("[\ud800-\udfff]")


def clean(text: str, markup: bool = True, entities: bool = True, overrides: bool = False) -> str:
    """Returns a text without markup and invisible characters.

    Args:
        text: Text of a row or of a part of one.
        markup: Whether tags are taken out.
        entities: Whether entities are decoded, once, after tags have gone: `&lt;i&gt;` becomes `<i>`.
        overrides: Whether `{\\...}` is taken out, as in SRT.
    """
    if markup and "<" in text:
        text = TAG.sub("", _BREAK.sub(" ", text))
    if overrides and "{" in text:
        text = _OVERRIDE.sub("", text)
    if entities and "&" in text:
        text = _ENTITY.sub(lambda match: html.unescape(match[0]), text)
    if not text.isascii():
        text = _HALVES.sub("\ufffd", _INVISIBLE.sub("", text))
    return text


def rows_of(pieces: Iterable[tuple[str, int]]) -> list[Row]:
    """Returns rows from pieces of text, each with the time at which it begins, parted by line breaks.

    Args:
        pieces: (text, ms or NO_TIME). Pieces are joined as they are: one may begin within a word.
    """
    rows: list[Row] = []
    text, marks, time = "", [], NO_TIME
    for piece, piece_time in pieces:
        time = piece_time
        for number, part in enumerate(piece.split("\n")):
            if number:
                rows.append(Row(text, tuple(marks)))
                text, marks = "", []
            if time != NO_TIME and part:
                marks.append((len(text), time))
            text += part
    rows.append(Row(text, tuple(marks)))
    return rows


def plain_rows(text: str) -> list[Row]:
    """Returns the rows of a text without times of words."""
    if "\n" in text:
        return [_new_row((line, ())) for line in text.split("\n")]
    return [_new_row((text, ()))]
