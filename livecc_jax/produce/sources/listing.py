"""Lists sources in a fixed order: lines of lists as they stand, files of folders by name."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import count

from livecc_jax.data.files.paths import is_remote
from livecc_jax.data.files.remote import open_store, with_retries
from livecc_jax.errors import DataError, MediaError
from livecc_jax.produce.sources.entries import Entry, FolderVideo, ListLine

MAX_LINE_BYTES = 64 << 20  # of a line of a list; 100,000 words take 4 MB
VIDEO_ENDINGS = (
    "mp4", "mkv", "webm", "mov", "m4v", "avi", "flv", "ts", "mts", "m2ts", "mpg", "mpeg", "ogv",
    "3gp", "wmv",
)  # fmt: skip
CAPTION_ENDINGS = (
    "json3", "srv3", "srv2", "srv1", "vtt", "ttml", "dfxp", "srt", "ass", "ssa", "json",
)  # fmt: skip
INFO = ".info.json"
# YouTube's languages: en, pt-BR, zh-Hans, en-orig, and manual ones with a key (en-nP7-2PuUl7o).
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9_-]+)*|und|default")
# yt-dlp's parts of a video that were not merged, and files that it has not finished.
_PART = re.compile(r"\.(?:f\d+[A-Za-z0-9-]*|temp)$")


def list_sources(sources: Sequence[str]) -> Iterator[Entry]:
    """Yields the sources that paths name, in order, without reading more than the lists.

    Args:
        sources: Each is a JSON list (`.jsonl`), a folder, a video, a glob, or an address of one of
            these in a bucket.

    Raises:
        DataError: A path does not exist, holds nothing, or cannot be read.
    """
    orders = count()
    for source in sources:
        is_empty = True
        for entry in _entries(str(source), orders):
            is_empty = False
            yield entry
        if is_empty:
            raise DataError(f"{source}: holds no sources: neither lines of a list nor videos")


def _entries(source: str, orders: Iterator[int]) -> Iterator[Entry]:
    if is_remote(source):
        yield from _remote(source, orders)
    elif os.path.isdir(source):
        yield from _folder(source, orders)
    elif os.path.exists(source) or not glob.has_magic(source):
        yield from _file(source, orders)
    else:
        yield from _globbed(sorted(glob.glob(source, recursive=True)), source, orders)


def _file(path: str, orders: Iterator[int]) -> Iterator[Entry]:
    if _ending(path) in VIDEO_ENDINGS:
        folder, name = os.path.split(path)
        if not os.path.exists(path):
            raise DataError(f"{path}: does not exist")
        yield from _videos(folder, _names(folder), orders, only={name})
    else:
        yield from _lines(path, orders)


def _globbed(found: Sequence[str], source: str, orders: Iterator[int]) -> Iterator[Entry]:
    """Yields what files of a glob name; captions and other files beside videos belong to these."""
    folders: dict[str, set[str]] = {}
    for path in found:
        if is_remote(path) or not os.path.isdir(path):
            folder, _, name = path.rpartition("/")
            folders.setdefault(folder, set()).add(name)
        else:
            yield from _folder(path, orders)
    for folder, names in sorted(folders.items()):
        for name in sorted(names):
            if name.endswith(".jsonl"):
                yield from _lines(f"{folder}/{name}" if folder else name, orders)
        chosen = [name for name in names if _is_video(name) or name.endswith(INFO)]
        stems = {_stem(name) for name in chosen} | {_stem(name, parts=False) for name in chosen}
        if stems:
            yield from _videos(folder, _names(folder), orders, stems=stems)


def _folder(folder: str, orders: Iterator[int]) -> Iterator[Entry]:
    for path, folders, names in os.walk(folder, onerror=_raise):
        folders.sort()
        yield from _videos(path, names, orders)


def _raise(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be read: {error.strerror}")


def _names(folder: str) -> list[str]:
    if is_remote(folder):
        store, name = open_store(folder)
        found = with_retries(folder, lambda: store.ls(name, detail=False))
        return [path.rpartition("/")[2] for path in found]
    try:
        return os.listdir(folder or ".")
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from error


def _remote(address: str, orders: Iterator[int]) -> Iterator[Entry]:
    try:
        if address.endswith(".jsonl"):
            yield from _lines(address, orders)
            return
        store, name = open_store(address)
        scheme = address.split("://", 1)[0]
        if glob.has_magic(name):
            found = with_retries(address, lambda: store.glob(name))
        elif _ending(address) in VIDEO_ENDINGS:
            found = [name]
        else:
            found = with_retries(address, lambda: store.find(name))
        yield from _globbed(sorted(f"{scheme}://{path}" for path in found), address, orders)
    except MediaError as error:
        raise DataError(str(error)) from error


def _lines(path: str, orders: Iterator[int]) -> Iterator[ListLine]:
    try:
        if is_remote(path):
            store, name = open_store(path)
            opened = with_retries(path, lambda: store.open(name, "rb"))
        else:
            opened = open(path, "rb")  # noqa: SIM115 (closed below)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(f"{path!a:.300}: cannot be read: {reason}") from error
    with opened as file:
        for number in count(1):
            line = file.readline(MAX_LINE_BYTES)
            if not line:
                return
            too_long = False
            while line[-1:] != b"\n" and (more := file.readline(MAX_LINE_BYTES)):
                line, too_long = more, True
            if too_long:
                yield ListLine(next(orders), path, number, None)
            elif stripped := line.strip().removeprefix(b"\xef\xbb\xbf" if number == 1 else b""):
                yield ListLine(next(orders), path, number, stripped)


def _videos(
    folder: str,
    names: Iterable[str],
    orders: Iterator[int],
    only: set[str] | None = None,
    stems: set[str] | None = None,
) -> Iterator[FolderVideo]:
    """Yields the videos among the files of one folder, by name, each with the files that belong to it.

    Args:
        folder: Path or address of the folder; "" for the working directory.
        names: Names of its files.
        orders: Gives each its position.
        only: Names of videos that are wanted; None for all.
        stems: Stems that are wanted; None for all.
    """
    names = sorted(names)
    videos: dict[str, str] = {}
    infos = {name.removesuffix(INFO): name for name in names if name.endswith(INFO)}
    captions: dict[str, list[tuple[str, str]]] = {}
    for name in names:
        if _is_video(name):
            stem = _stem(name, parts=name.rpartition(".")[0] not in infos)
            # A merged file comes before its parts; else of two the first by the order of endings.
            if stem not in videos or _rank(name) < _rank(videos[stem]):
                videos[stem] = name
    known = {*videos, *infos}
    for name in names:
        if _ending(name) in CAPTION_ENDINGS and not name.endswith(INFO):
            owner = _owner(name.rpartition(".")[0], known)
            if owner is not None:
                captions.setdefault(owner[0], []).append((owner[1], name))
    prefix = f"{folder.rstrip('/')}/" if folder else ""
    for stem in sorted(known):
        video = videos.get(stem, "")
        if (only is not None and video not in only) or (stems is not None and stem not in stems):
            continue
        yield FolderVideo(
            next(orders),
            prefix + video if video else "",
            prefix + stem,
            prefix + infos[stem] if stem in infos else "",
            tuple((language, prefix + name) for language, name in sorted(captions.get(stem, ()))),
        )


def _owner(base: str, known: set[str]) -> tuple[str, str] | None:
    """Returns the stem that a caption file belongs to and the language in its name; the longest
    stem counts.
    """
    if base in known:
        return base, ""
    end = len(base)
    while (end := base.rfind(".", 0, end)) > 0:
        stem, language = base[:end], base[end + 1 :]
        if stem in known:
            return (stem, language) if _LANGUAGE.fullmatch(language) else None
    return None


def _is_video(name: str) -> bool:
    return _ending(name) in VIDEO_ENDINGS and not name.startswith(".")


def _stem(name: str, parts: bool = True) -> str:
    """Returns a name without its ending, and without yt-dlp's mark of a part (`.f137`) where there
    are parts.
    """
    if name.endswith(INFO):
        return name.removesuffix(INFO)
    base = name.rpartition(".")[0]
    return _PART.sub("", base) if parts else base


def _rank(name: str) -> tuple[bool, int, str]:
    return bool(_PART.search(name.rpartition(".")[0])), VIDEO_ENDINGS.index(_ending(name)), name


def _ending(path: str) -> str:
    return path.rpartition("/")[2].rpartition(".")[2].lower()
