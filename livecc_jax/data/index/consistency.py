"""Checks the columns of an index against each other, before any of their values is used as a size."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from livecc_jax.data.index.checksums import FIELD, FILE, BlockCheck, digest_of
from livecc_jax.data.index.columns import COLUMNS, PROVISIONAL
from livecc_jax.data.index.meta import family_of
from livecc_jax.errors import DataError
from livecc_jax.media.sampling import MAX_FRAMES

log = logging.getLogger(__name__)

RECORDS = 1 << 20  # checked at a time, so that memory stays small
MAX_DIGEST_BYTES = 64 << 20  # of an index without checksums whose digest is computed on opening

Columns = Mapping[str, np.ndarray]


def check_integrity(folder: Path, columns: Columns, meta: Mapping[str, Any]) -> BlockCheck | None:
    """Checks that an index is as it was written, as far as that is quick.

    Args:
        folder: Folder of the index.
        columns: The columns by name.
        meta: The content of meta.json.

    Returns:
        What checks the columns' blocks when they are used; None for an index of an earlier version,
        which has no checksums. If that is small, its digest has been computed; otherwise a warning says
        that damage would not be noticed.

    Raises:
        DataError: meta.json, the checksums or the columns of a small index are damaged.
    """
    if FIELD in meta or (folder / FILE).exists():
        return BlockCheck(folder, columns, {FIELD: None} | meta)
    if sum(values.nbytes for values in columns.values()) > MAX_DIGEST_BYTES:
        log.warning("%s: has no checksums, so damage to it is not noticed; index again", folder)
        return None
    # How earlier versions computed it; an index with other settings has checksums.
    settings = {k: meta[k] for k in ("pixel_budget", "context", "form", "tokenizer")}
    if digest_of(json.dumps(settings), columns) != meta["digest"]:
        raise DataError(
            f"{folder}: is damaged: its columns are not those of the digest in meta.json; copy the "
            "index again or make it anew"
        )
    return None


def check_columns(folder: Path, columns: Columns, meta: Mapping[str, Any]) -> None:
    """Checks that numbers of records, ranges and sizes of all columns fit together.

    Args:
        folder: Folder of the index.
        columns: The columns by name; their lengths fit already.
        meta: The content of meta.json.

    Raises:
        DataError: A value of a column does not fit the other columns or meta.json.
    """
    lines = np.array([source["lines"] for source in meta["annotations"]], np.int64)
    patches = family_of(meta).patches
    max_pixels = meta["window"] * patches.size**2

    def require(name: str, fits: Callable[[np.ndarray], np.ndarray], what: str) -> None:
        for first, block in _blocks(columns[name]):
            wrong = ~fits(block)
            if wrong.any():
                record = first + int(np.flatnonzero(wrong)[0])
                raise DataError(f"{folder / name}.npy: is damaged: record {record} {what}")

    for name, column in COLUMNS.items():
        if column.starts_of:
            if columns[name][0] != 0:
                raise DataError(f"{folder / name}.npy: is damaged: its first record is not 0")
            for first, block in _blocks(columns[name], overlap=1):
                if (wrong := block[1:] < block[:-1]).any():
                    record = first + 1 + int(np.flatnonzero(wrong)[0])
                    raise DataError(
                        f"{folder / name}.npy: is damaged: record {record} is less than the one before"
                    )
    for first, block in _blocks(columns["frame_starts"], overlap=1):
        if (wrong := np.diff(block) > MAX_FRAMES).any():
            medium = first + int(np.flatnonzero(wrong)[0])
            raise DataError(
                f"{folder / 'frame_starts.npy'}: is damaged: record {medium} has more than "
                f"{MAX_FRAMES} frames"
            )
    require("kind", lambda v: v <= PROVISIONAL, "is no kind of example")
    require("source", lambda v: (v >= 0) & (v < len(lines)), "names no annotation file of meta.json")
    for first, sources in _blocks(columns["source"]):
        numbers = columns["line"][first : first + len(sources)]
        if (wrong := (numbers < 0) | (numbers >= lines[sources])).any():
            record = first + int(np.flatnonzero(wrong)[0])
            raise DataError(
                f"{folder / 'line.npy'}: is damaged: record {record} is past the file's lines"
            )
    for name in ("tokens", "targets"):
        require(name, lambda v: v > 0, "is not above 0")
    for name in ("windows", "file_size", "file_mtime_ns", "file_check"):
        require(name, lambda v: v >= 0, "is below 0")
    files = len(columns["file_size"])
    require("media_file", lambda v: (v >= 0) & (v < files), "names no file of the index")

    def is_size(sizes: np.ndarray) -> np.ndarray:
        height, width = sizes[:, 0].astype(np.int64), sizes[:, 1].astype(np.int64)
        whole = (height % patches.factor == 0) & (width % patches.factor == 0)
        return (height > 0) & (width > 0) & whole & (height * width <= max_pixels)

    require("media_size", is_size, "is no size of a picture within a vision window")


def _blocks(values: np.ndarray, overlap: int = 0) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the number of the first record and the records, a block at a time.

    Args:
        values: The column.
        overlap: Records of the next block that a block holds too.
    """
    for first in range(0, max(1, len(values) - overlap), RECORDS):
        yield first, values[first : first + RECORDS + overlap]
