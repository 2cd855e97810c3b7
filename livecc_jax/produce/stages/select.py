"""Chooses videos by what is known about them: size, length, title, category, licence and opt-outs."""

from __future__ import annotations

import functools
import unicodedata
from pathlib import Path

from livecc_jax.errors import DataError
from livecc_jax.produce.models import Models
from livecc_jax.produce.parameters import Parameters
from livecc_jax.produce.records import Rejection, Source, reject
from livecc_jax.produce.sources.metadata import names_in_address, youtube_id
from livecc_jax.produce.stages.measure import measure

STAGE = "select"


def select(
    source: Source, parameters: Parameters, models: Models | None = None
) -> list[Source | Rejection]:
    """Keeps a source whose metadata are within the bounds, which are included. What is not known is
    not kept.

    Args:
        source: A source.
        parameters: Reads the fields of the stage "select".
        models: Not used.

    Returns:
        The source, or its rejection.
    """
    source = measure(source)
    filters = set(parameters.filters)
    checks = (
        ("licence", _licence),
        ("size", _size),
        ("duration", _duration),
        ("title", _title),
        ("category", _category),
    )
    for name, check in checks:
        if name in filters and (fault := check(source, parameters)):
            return [reject(source, STAGE, *fault)]
    return [source]


def read_opt_outs(path: str | Path) -> tuple[str, ...]:
    """Reads a list of what must not be used: one id, channel or address a line; # begins a comment.

    Args:
        path: A text file in UTF-8.

    Raises:
        DataError: The file cannot be read.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise DataError(f"{path}: the list of opt-outs cannot be read: {error}") from error
    lines = (line.partition(" #")[0].strip() for line in text.splitlines())
    return tuple(sorted({line for line in lines if line and not line.startswith("#")}))


def _size(source: Source, parameters: Parameters) -> tuple | None:
    if not source.width or not source.height:
        return ("size is not known",)
    side = min(source.width, source.height)
    return (f"smaller than {parameters.min_side}p", side) if side < parameters.min_side else None


def _duration(source: Source, parameters: Parameters) -> tuple | None:
    if source.duration_ms is None:
        return ("duration is not known",)
    seconds = source.duration_ms / 1000
    if source.duration_ms < parameters.min_duration_ms:
        return (f"video shorter than {parameters.min_duration_ms / 1000:g} s", seconds)
    if source.duration_ms > parameters.max_duration_ms:
        return (f"video longer than {parameters.max_duration_ms / 1000:g} s", seconds)
    return None


def _title(source: Source, parameters: Parameters) -> tuple | None:
    # Characters that are not seen make no title.
    seen = (c for c in source.title if not c.isspace() and unicodedata.category(c) not in ("Cf", "Cc"))
    return None if any(seen) else ("title is blank",)


def _category(source: Source, parameters: Parameters) -> tuple | None:
    if not parameters.categories:
        return None
    wanted = {_folded(name) for name in parameters.categories}
    if _folded(source.category) in wanted:
        return None
    return ("category is not wanted", source.category)


def _licence(source: Source, parameters: Parameters) -> tuple | None:
    if parameters.opt_out:
        info = source.info
        names = {source.id, source.video, Path(source.video).name, Path(source.video).stem}
        names |= {str(info[key]) for key in _OWNERS if info.get(key)}
        names.add(youtube_id(Path(source.video).stem))
        gone = _as_compared(parameters.opt_out)
        if found := sorted(_as_compared(tuple(sorted(names - {""}))).keys() & gone.keys()):
            return ("opted out", gone[found[0]])
    if parameters.licences:
        licence = source.info.get("license")
        if not isinstance(licence, str) or not licence.strip():
            return ("licence is not known",)
        if _folded(licence) not in {_folded(name) for name in parameters.licences}:
            return ("licence is not allowed", licence)
    return None


_OWNERS = (
    "channel", "channel_id", "channel_url", "uploader", "uploader_id", "uploader_url", "webpage_url",
)  # fmt: skip


@functools.lru_cache(maxsize=64)
def _as_compared(names: tuple[str, ...]) -> dict[str, str]:
    """Returns names by the forms in which they are compared.

    A video is the same by its id and by any of its addresses, a channel by its address and its handle,
    of which case does not count.
    """
    forms = {}
    for name in names:
        for form in (name, *sorted(names_in_address(name))):
            forms.setdefault(form.casefold() if form.startswith("@") else form.rstrip("/"), name)
    return forms


def _folded(text: str) -> str:
    """Returns a text as names are compared: without regard to case, spaces, and `&` or `and`."""
    return " ".join(text.casefold().replace("&", " and ").split())
