"""Reads the words of any caption or transcript file, whose format is told by its content."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from livecc_jax.bounded_json import JsonError, parse_json
from livecc_jax.errors import DataError
from livecc_jax.produce.captions.asr import read_asr, segments_of
from livecc_jax.produce.captions.ass import read_ass
from livecc_jax.produce.captions.cues import MAX_TIME_MS, Captions
from livecc_jax.produce.captions.decode import decode
from livecc_jax.produce.captions.json3 import read_json3
from livecc_jax.produce.captions.srt import read_srt
from livecc_jax.produce.captions.srv import read_srv
from livecc_jax.produce.captions.ttml import read_ttml
from livecc_jax.produce.captions.vtt import read_vtt
from livecc_jax.produce.captions.words import LONGEST_WORD_MS, words_of
from livecc_jax.produce.records import Word
from livecc_jax.produce.store import read_bytes

MAX_FILE_BYTES = 256 << 20
KINDS = ("auto", "manual", "asr")
_ROOT = re.compile(r"<(?![?!])(?:[\w.-]+:)?(\w+)")
_XML = {"timedtext": "srv", "transcript": "srv", "tt": "ttml"}
_SECTION = re.compile(r"(?im)^\s*\[(?:script info|v4\+? styles|events)\]")
_SRT = re.compile(r"(?m)^[\d:., ]+-->[\d:., ]+")  # a time line, which JSON of one line cannot hold
# Languages of two letters (ISO 639-1), as `ID.LANG.EXT` has them.
_CODES = {
    "aa", "ab", "ae", "af", "ak", "am", "an", "ar", "as", "av", "ay", "az", "ba", "be", "bg",
    "bh", "bi", "bm", "bn", "bo", "br", "bs", "ca", "ce", "ch", "co", "cr", "cs", "cu", "cv",
    "cy", "da", "de", "dv", "dz", "ee", "el", "en", "eo", "es", "et", "eu", "fa", "ff", "fi",
    "fj", "fo", "fr", "fy", "ga", "gd", "gl", "gn", "gu", "gv", "ha", "he", "hi", "ho", "hr",
    "ht", "hu", "hy", "hz", "ia", "id", "ie", "ig", "ii", "ik", "io", "is", "it", "iu", "iw",
    "ja", "jv", "ka", "kg", "ki", "kj", "kk", "kl", "km", "kn", "ko", "kr", "ks", "ku", "kv",
    "kw", "ky", "la", "lb", "lg", "li", "ln", "lo", "lt", "lu", "lv", "mg", "mh", "mi", "mk",
    "ml", "mn", "mr", "ms", "mt", "my", "na", "nb", "nd", "ne", "ng", "nl", "nn", "no", "nr",
    "nv", "ny", "oc", "oj", "om", "or", "os", "pa", "pi", "pl", "ps", "pt", "qu", "rm", "rn",
    "ro", "ru", "rw", "sa", "sc", "sd", "se", "sg", "si", "sk", "sl", "sm", "sn", "so", "sq",
    "sr", "ss", "st", "su", "sv", "sw", "ta", "te", "tg", "th", "ti", "tk", "tl", "tn", "to",
    "tr", "ts", "tt", "tw", "ty", "ug", "uk", "ur", "uz", "ve", "vi", "vo", "wa", "wo", "xh",
    "yi", "yo", "za", "zh", "zu",
}  # fmt: skip
_NAMED = re.compile(r"\.([a-z]{2}(?:-[A-Za-z0-9]+)*?)(-orig)?\.[A-Za-z0-9]+$")


@dataclass(frozen=True)
class CaptionWords:
    """The words of a file.

    Attributes:
        words: The words in order of time.
        kind: "auto", "manual" or "asr"; "" where the file does not tell.
        language: Language that the file or its name states; "" for none.
        format: Name of the format.
    """

    words: tuple[Word, ...]
    kind: str
    language: str
    format: str


def read_captions(
    path: str, language: str = "", longest_word_ms: int = LONGEST_WORD_MS
) -> CaptionWords:
    """Reads the words of a caption or transcript file.

    Args:
        path: Path or address of the file.
        language: Which of several languages in the file is wanted.
        longest_word_ms: See `words_of`.

    Raises:
        DataError: The file cannot be read, is empty, or is no captions.
    """
    data = read_bytes(path, MAX_FILE_BYTES)
    try:
        found = parse_captions(data, path, language, longest_word_ms)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    if found.language:
        return found
    match = _NAMED.search(path.rpartition("/")[2])
    if not match or match[1][:2] not in _CODES:
        return found
    kind = found.kind or ("auto" if match[2] else "")
    return CaptionWords(found.words, kind, match[1], found.format)


def parse_captions(
    data: bytes, name: str = "", language: str = "", longest_word_ms: int = LONGEST_WORD_MS
) -> CaptionWords:
    """Returns the words of the content of a caption file.

    Args:
        data: The content.
        name: Name of the file, whose ending is a hint where the content does not tell the format.
        language: Which of several languages in the file is wanted.
        longest_word_ms: See `words_of`.

    Raises:
        DataError: The content is empty, or is no captions.
    """
    text = decode(data)
    start = text.lstrip("\ufeff \t\n")
    if start[:1] in ("", "\0") and not start.strip("\0"):
        raise DataError("is empty")
    is_srt = "-->" in start and _SRT.search(start)
    if start[0] in "{[" and not is_srt and not _SECTION.match(start):
        return _from_json(start, longest_word_ms)
    format, captions = _from_text(start, name, language)
    _check_times(captions)
    return CaptionWords(words_of(captions, longest_word_ms), captions.kind, captions.language, format)


def _check_times(captions: Captions) -> None:
    for cue in captions.cues:
        if cue.start_ms > MAX_TIME_MS or (cue.end_ms or 0) > MAX_TIME_MS:
            raise DataError("holds an impossible time")


def _from_text(text: str, name: str, language: str) -> tuple[str, Captions]:
    if text.startswith("WEBVTT"):
        return "vtt", read_vtt(text)
    if text[0] == "<" and (match := _ROOT.search(_without_comments(text))):
        format = _XML.get(match[1].lower())
        if format == "srv":
            return "srv", read_srv(text)
        if format == "ttml":
            return "ttml", read_ttml(text, language)
    before, arrow, _ = text.partition("-->")
    if _SECTION.search(before) or (not arrow and re.search(r"(?m)^\s*Dialogue\s*:", text)):
        return "ass", read_ass(text)
    if arrow:
        return ("vtt", read_vtt(text)) if name.lower().endswith(".vtt") else ("srt", read_srt(text))
    raise DataError("is no caption file of a format that is known")


def _without_comments(text: str) -> str:
    return re.sub(r"<!--.*?-->|<\?.*?\?>", "", text[:100_000], flags=re.DOTALL)


def _from_json(text: str, longest_word_ms: int) -> CaptionWords:
    try:
        value = parse_json(text, half_characters=True)
    except JsonError as error:
        raise DataError(f"is no JSON: {error}") from error
    if isinstance(value, Mapping) and "events" in value:
        captions = read_json3(value)
        _check_times(captions)
        return CaptionWords(words_of(captions, longest_word_ms), captions.kind, "", "json3")
    segments = segments_of(value)
    if segments is None:
        raise DataError("is JSON, but neither json3 nor a transcript")
    kind = _stated(value, "kind")
    words = read_asr(segments)
    return CaptionWords(words, kind if kind in KINDS else "asr", _stated(value, "language"), "asr")


def _stated(value: Any, key: str) -> str:
    text = value.get(key) if isinstance(value, Mapping) else None
    return text if isinstance(text, str) and len(text) <= 64 and text.isprintable() else ""
