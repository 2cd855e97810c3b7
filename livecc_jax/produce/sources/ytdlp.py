"""Reads a video of a folder as yt-dlp leaves it: metadata from info.json, and the right caption file.

The names of caption files do not say whether they are manual or automatic, or in which language is
spoken; info.json does. Observed with yt-dlp 2026.10.26.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from livecc_jax.bounded_json import JsonError, parse_json
from livecc_jax.data.annotations.conversations import MAX_DECLARED_PIXELS, MAX_DECLARED_SECONDS
from livecc_jax.errors import DataError
from livecc_jax.produce.parameters import Parameters
from livecc_jax.produce.records import Rejection, Source
from livecc_jax.produce.sources.entries import FolderVideo
from livecc_jax.produce.sources.metadata import INFO_KEYS, ROUNDED, clean_info, clean_text, youtube_id
from livecc_jax.produce.store import read_bytes

MAX_INFO_BYTES = 64 << 20
# The best first: with word times and everything once; with word times; without.
FORMATS = ("json3", "srv3", "vtt", "srv2", "ttml", "dfxp", "ass", "ssa", "srt", "srv1", "json")
ASR_ENDINGS = ("json",)
_BRACKETED_ID = re.compile(r"\s*\[[A-Za-z0-9_-]{6,20}\]$")


def read_folder_video(entry: FolderVideo, parameters: Parameters) -> Source | Rejection:
    """Returns the source of a video of a folder.

    Args:
        entry: The video and the files beside it.
        parameters: Reads `caption_language`.
    """
    info: dict[str, Any] = {}
    if entry.info:
        try:
            value = parse_json(read_bytes(entry.info, MAX_INFO_BYTES), half_characters=True)
        except (JsonError, DataError) as error:
            reason = "info.json cannot be read"
            return Rejection(entry.order, entry.stem, entry.video, "source", reason, text=str(error))
        info = value if isinstance(value, dict) else {}
    if info.get("_type") in ("playlist", "multi_video"):
        return Rejection(entry.order, entry.stem, "", "source", "info.json describes a playlist")
    video = entry.video or f"{entry.stem}.{_string(info, 'ext') or 'mp4'}"
    captions, kind, language = choose_captions(entry.captions, info, parameters.caption_language)
    kept = {key: info[key] for key in INFO_KEYS if info.get(key) is not None}
    duration = info.get("duration")
    if type(duration) is int or (type(duration) is float and duration % 1 == 0):
        kept[ROUNDED] = True
    if not captions and entry.captions:
        kept["captions_refused"] = f"no captions of what is said in {parameters.caption_language!r}"
    categories = info.get("categories")
    category = categories[0] if isinstance(categories, list) and categories else info.get("category")
    return Source(
        order=entry.order,
        id=_string(info, "id") or youtube_id(entry.name) or entry.stem,
        video=video,
        title=_string(info, "title") or _string(info, "fulltitle") or _title(entry.name, info),
        category=clean_text(category) if isinstance(category, str) else "",
        captions=captions,
        captions_kind=kind,
        language=language,
        duration_ms=_duration_ms(duration),
        width=_pixels(info.get("width")),
        height=_pixels(info.get("height")),
        info=clean_info(kept),
    )


def choose_captions(
    files: tuple[tuple[str, str], ...], info: Mapping[str, Any], wanted: str
) -> tuple[str, str, str]:
    """Returns path, kind and language of the captions that say what is said; empty strings for none.

    Manual captions come before automatic ones. Sites also offer their automatic captions translated
    into every language;
    these are never taken: automatic ones count only in the language that is spoken.

    Args:
        files: Language, as the name has it, and path of each caption file.
        info: yt-dlp's metadata; empty for none.
        wanted: Wanted language, such as "en" (which "en-GB" is too); "" for any.
    """
    found = []
    for language, path in files:
        ending = path.rpartition(".")[2].lower()
        rank = _rank(language, ending, info, wanted) if ending in FORMATS else None
        if rank is not None:
            order = (rank[0], language.lower() != wanted.lower(), language, FORMATS.index(ending), path)
            found.append((order, path, rank[1], language.removesuffix("-orig")))
    if not found:
        return "", "", ""
    _, path, kind, language = min(found)
    return path, kind, language


def _rank(language: str, ending: str, info: Mapping[str, Any], wanted: str) -> tuple[int, str] | None:
    """Returns how good captions are, 0 the best, and their kind; None for captions that must not be
    used.
    """
    automatic = info.get("automatic_captions")
    automatic = automatic if isinstance(automatic, dict) else {}
    manual = info.get("subtitles")
    manual = manual if isinstance(manual, dict) else {}
    if not language:  # a transcript beside the video, which someone put there
        return (1, "asr") if ending in ASR_ENDINGS else (1, "")
    if wanted and base_language(language) != base_language(wanted):
        return None
    if language in manual:
        return 0, "manual"
    if language not in automatic and not language.endswith("-orig"):
        return 2, ""  # nothing is known of it
    if language.endswith("-orig"):
        return 3, "auto"
    originals = {base_language(name) for name in automatic if name.endswith("-orig")}
    spoken = info.get("language")
    if isinstance(spoken, str) and spoken and spoken != "und":
        originals = {base_language(spoken)}
    if originals and base_language(language) not in originals:
        return None
    return None if _is_translation(automatic.get(language)) else (4, "auto")


def base_language(code: str) -> str:
    """Returns the language of a code without region and script: "pt" of "pt-BR"."""
    return re.split(r"[-_]", code, maxsplit=1)[0].lower()


def _is_translation(formats: Any) -> bool:
    addresses = (
        [f.get("url") for f in formats if isinstance(f, dict)] if isinstance(formats, list) else []
    )
    texts = [address for address in addresses if isinstance(address, str)]
    return bool(texts) and all(re.search(r"[?&]tlang=", address) for address in texts)


def _title(name: str, info: Mapping[str, Any]) -> str:
    """Returns the title that a file name holds where nothing else gives one; an id is no title."""
    if info:
        return ""
    return "" if youtube_id(name) == name else _BRACKETED_ID.sub("", name)


def _duration_ms(seconds: Any) -> int | None:
    if type(seconds) not in (int, float) or not 0 < seconds <= MAX_DECLARED_SECONDS:
        return None
    return round(seconds * 1000)


def _pixels(value: Any) -> int | None:
    return value if type(value) is int and 0 < value <= MAX_DECLARED_PIXELS else None


def _string(info: Mapping[str, Any], key: str) -> str:
    value = info.get(key)
    return clean_text(value) if isinstance(value, str) else ""
