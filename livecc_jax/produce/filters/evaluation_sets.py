"""What evaluation sets hold, in a form in which clips are compared with them: ids, runs of words,
hashes of frames."""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from livecc_jax.bounded_json import JsonError, parse_json
from livecc_jax.errors import DataError, MediaError
from livecc_jax.produce.filters.fingerprints import plain_words
from livecc_jax.produce.filters.pictures import DECODE_SIDE, picture_hash
from livecc_jax.produce.sources.metadata import names_in_address, youtube_id

log = logging.getLogger(__name__)

ID_KEYS = ("video_id", "videoID", "id", "video", "video_name", "vid", "video_path")
TEXT_KEYS = (
    "gt_asr",
    "event_asr_text",
    "asr",
    "text",
    "caption",
    "commentary",
    "transcript",
    "words",
    "text_stream",
)
VIDEO_ENDINGS = (".mp4", ".mkv", ".webm", ".mov", ".avi")
FILE_ENDINGS = (".jsonl", ".json", ".txt", ".csv", ".tsv")
MAX_FILE_BYTES = 1 << 30
FRAME_US = 500_000  # between two frames of an evaluation video that are hashed
MAX_FRAMES = 2_000  # of a video


@dataclass(frozen=True)
class EvaluationSets:
    """Evaluation sets.

    Attributes:
        ids: Ids and names of their videos.
        runs: Hashes of their runs of words, uint64, sorted.
        frames: Hashes of frames of their videos, uint64.
    """

    ids: frozenset[str]
    runs: np.ndarray
    frames: np.ndarray


def open_evaluation_sets(paths: Sequence[str], words: int, with_frames: bool) -> EvaluationSets:
    """Reads evaluation sets.

    Args:
        paths: JSON, JSON Lines, tables with tabs or commas (a first column of ids; other cells of
            several words are texts), text files (an id or a text a line), videos, or folders of these.
        words: Length of a run of words; shorter texts have none.
        with_frames: Whether videos that are there are decoded and their frames hashed.

    Raises:
        DataError: A file cannot be read, or a path holds nothing to compare with.
    """
    ids: set[str] = set()
    runs: set[int] = set()
    frames: list[int] = []
    for name in paths:
        is_empty = True
        for path in _files(name):
            if path.suffix.lower() in VIDEO_ENDINGS:
                is_empty = False
                ids |= names_of(path.name)
                if with_frames:
                    frames += _hash_frames(path)
                continue
            for kind, value in _facts(path):
                is_empty = False
                if kind == "id":
                    ids |= names_of(value)
                else:
                    runs.update(run_hashes(value, words))
        if is_empty:  # such as tables of a kind that is not read: nothing would be kept away from it
            raise DataError(
                f"{name}: holds no ids, texts or videos of an evaluation set that can be read "
                f"({', '.join(FILE_ENDINGS + VIDEO_ENDINGS)})"
            )
    return EvaluationSets(
        frozenset(ids),
        np.array(sorted(runs), np.uint64),
        np.array(sorted(set(frames)), np.uint64),
    )


def names_of(name: str) -> set[str]:
    """Returns what a video may be called: its name, without folder and ending, its YouTube id, that
    in an address too.
    """
    base = name.rpartition("/")[2]
    stem = re.sub(r"\.[A-Za-z0-9]{2,4}$", "", base)
    return {n for n in (name, base, stem, youtube_id(stem), *names_in_address(name)) if n}


def run_hashes(text: str, words: int) -> Iterator[int]:
    """Yields a hash of each run of so many words of a text, in order."""
    plain = plain_words(text)
    for i in range(len(plain) - words + 1):
        run = " ".join(plain[i : i + words])
        yield int.from_bytes(hashlib.blake2b(run.encode(), digest_size=8).digest(), "little")


def _files(name: str) -> Iterator[Path]:
    path = Path(name)
    if path.is_dir():
        for folder, folders, names in os.walk(path):
            folders.sort()
            for inner in sorted(names):
                if inner.lower().endswith(FILE_ENDINGS + VIDEO_ENDINGS):
                    yield Path(folder) / inner
    elif path.is_file():
        yield path
    else:
        raise DataError(f"{path}: there is no such evaluation set")


def _facts(path: Path) -> Iterator[tuple[str, str]]:
    """Yields ("id", name) and ("text", text) of a file."""
    if path.stat().st_size > MAX_FILE_BYTES:
        raise DataError(f"{path}: is larger than an evaluation set that can be read")
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    suffix = path.suffix.lower()
    if suffix == ".json":
        yield from _of_json(_parsed(path, text))
    elif suffix == ".jsonl":
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield from _of_json(_parsed(path, line, f" line {number}"))
    elif suffix in (".csv", ".tsv"):
        yield from _of_table(path, text)
    else:
        for line in text.splitlines():
            if line.strip():
                # An id has no spaces.
                yield ("text" if len(line.split()) > 1 else "id"), line.strip()


def _of_table(path: Path, text: str) -> Iterator[tuple[str, str]]:
    """Yields the first cell of each row as an id, and those of several words as texts."""
    separator = "\t" if path.suffix.lower() == ".tsv" or "\t" in text.split("\n", 1)[0] else ","
    csv.field_size_limit(MAX_FILE_BYTES)  # of a cell; by default 131,072 characters
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator):
            if row and row[0].strip():
                yield "id", row[0].strip()
            yield from (("text", cell) for cell in row if len(cell.split()) > 1)
    except csv.Error as error:
        raise DataError(f"{path}: is no table that can be read: {error}") from error


def _parsed(path: Path, text: str, where: str = "") -> Any:
    try:
        return parse_json(text)
    except JsonError as error:
        raise DataError(f"{path}{where}: {error}") from error


def _of_json(value: Any) -> Iterator[tuple[str, str]]:
    """Yields ids and texts of a JSON value, however deep they lie."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting += item
        elif isinstance(item, dict):
            for key, inner in item.items():
                if key in ID_KEYS and isinstance(inner, str | int) and not isinstance(inner, bool):
                    yield "id", str(inner)
                elif key in TEXT_KEYS and isinstance(inner, str):
                    yield "text", inner
                elif key in TEXT_KEYS and isinstance(inner, list) and (said := _words(inner)):
                    yield "text", said
                elif isinstance(inner, dict | list):
                    waiting.append(inner)


def _words(value: list[Any]) -> str:
    """Returns the text of a list of words, with or without times; "" for another list."""
    texts = [w[-1] if isinstance(w, list) and w else w for w in value]
    return " ".join(texts) if texts and all(isinstance(t, str) for t in texts) else ""


def _hash_frames(path: Path) -> list[int]:
    """Returns hashes of a video's frames, one each half second; none where it cannot be read."""
    import cv2

    from livecc_jax.media.video import iter_frames, probe

    try:
        info = probe(path)
        times = np.arange(0, int(info.pts_us[-1]) + 1, FRAME_US)[:MAX_FRAMES]
        numbers = np.unique(np.searchsorted(info.pts_us, times, side="right") - 1)
        hashes = []
        for frame in iter_frames(info, numbers[numbers >= 0]):
            scale = DECODE_SIDE / max(frame.shape[:2])
            if scale < 1:
                size = [max(1, round(n * scale)) for n in frame.shape[1::-1]]
                frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
            if (value := picture_hash(frame)) is not None:
                hashes.append(value)
        return hashes
    except MediaError as error:
        log.warning("%s: frames of an evaluation video cannot be read: %s", path, error)
        return []
