"""Bytes to text (rule 1), and times of day to milliseconds."""

from __future__ import annotations

import codecs
import re

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# windows-1252 as the web reads it: the five bytes without a character are controls, as in Latin-1.
_WINDOWS_1252 = {
    byte: bytes([byte]).decode("cp1252")
    for byte in range(0x80, 0xA0)
    if byte not in b"\x81\x8d\x8f\x90\x9d"
}


def decode(data: bytes) -> str:
    r"""Returns the text of a file, with `\n` at the end of lines.

    A byte order mark decides; else it is UTF-8; else, where that fails, windows-1252, which is how
    the web reads Latin-1. What the file says of its own encoding is not believed.
    """
    text = None
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            text = data[len(mark) :].decode(encoding, "replace")
            break
    if text is None and (encoding := _utf_16_without_mark(data)):
        text = data.decode(encoding, "replace")
    if text is None:
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            text = data.decode("latin-1").translate(_WINDOWS_1252)
    if "\r" not in text:
        return text
    if text.count("\r\r\n") * 2 > text.count("\n"):  # line ends that were converted twice
        text = text.replace("\r\r\n", "\n")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _utf_16_without_mark(data: bytes) -> str:
    """Returns the encoding of Latin letters in 16 bits each; "" for other texts, in which no
    character is NUL.
    """
    head = data[:512]
    if len(head) < 8 or b"\0" not in head:
        return ""
    odd, even = head[1::2].count(0), head[::2].count(0)
    if odd * 2 > len(head) // 2 and even == 0:
        return "utf-16-le"
    return "utf-16-be" if even * 2 > len(head) // 2 and odd == 0 else ""


CLOCK = r"(?:(\d{1,9}):)?(\d{1,3}):(\d{1,2})(?:[.,](\d{1,9}))?"
_CLOCK = re.compile(CLOCK)


def clock_ms(hours: str | None, minutes: str, seconds: str, fraction: str | None) -> int:
    """Returns the milliseconds of a time of day, given its parts as text; a fraction has any number
    of digits.
    """
    whole = (int(hours or 0) * 60 + int(minutes)) * 60 + int(seconds)
    return whole * 1000 + (int(fraction[:3].ljust(3, "0")) if fraction else 0)


def parse_clock(text: str) -> int | None:
    """Returns the milliseconds of a text such as `1:02:03.450` or `02:03,45`; None for another."""
    match = _CLOCK.fullmatch(text.strip())
    return clock_ms(*match.groups()) if match else None
