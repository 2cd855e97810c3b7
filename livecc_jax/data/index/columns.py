"""The columns of an index: their dtypes and shapes, and opening them from disk."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from livecc_jax.errors import DataError

STREAM, CONVERSATION, PROVISIONAL = range(3)  # values of the column `kind`


@dataclass(frozen=True)
class Column:
    """One .npy file.

    Attributes:
        dtype: Type of its values.
        per: Name of the column with the same number of records; "" when `*_starts` delimit records.
        width: Values of a record; 0 makes a one-dimensional array with one value each.
        starts_of: Name of the column whose records this column delimits.
    """

    dtype: type
    per: str = ""
    width: int = 0
    starts_of: str = ""


COLUMNS = {
    # One record an example.
    "source": Column(np.int32, "tokens"),  # number of the annotation file in meta.json
    "line": Column(np.int64, "tokens"),  # number of the line in the annotation file, from 0
    "pieces": Column(np.int64, "tokens", 4),  # slice of a long streaming example, else -1
    "kind": Column(np.uint8, "tokens"),
    "tokens": Column(np.int32, "tokens"),
    "targets": Column(np.int32, "tokens"),
    "windows": Column(np.int32, "tokens"),
    "text_starts": Column(np.int64, "tokens", starts_of="text"),
    "media_starts": Column(np.int64, "tokens", starts_of="media_file"),
    "text": Column(np.uint8),  # JSON from `index/codec.py`
    # One record a media slice.
    "media_file": Column(np.int64),  # number of the record in the columns of files
    "media_size": Column(np.int32, "media_file", 2),  # height and width in pixels, after resizing
    "media_first_us": Column(np.int64, "media_file"),  # timestamp of its first frame
    "frame_starts": Column(np.int64, "media_file", starts_of="frame_gaps_us"),
    "frame_gaps_us": Column(np.uint32),  # time since the previous frame; 0 for the first frame
    # One record a media file.
    "file_size": Column(np.int64, "file_size"),
    "file_mtime_ns": Column(np.int64, "file_size"),
    "file_check": Column(np.int64, "file_size"),
    "file_shape": Column(np.int64, "file_size", 4),  # frame duration and lead in us, width, height
    "path_starts": Column(np.int64, "file_size", starts_of="path"),
    "path": Column(np.uint8),
}

NOT_IN_DIGEST = ("file_mtime_ns",)  # a copy of the files has other times and is the same data


def array_bytes(values: np.ndarray) -> memoryview:
    """Returns the bytes of an array without copying them."""
    return memoryview(values.reshape(-1).view(np.uint8))


def open_array(file: Path, dtype: type, width: int = 0) -> np.ndarray:
    """Memory-maps an array of an index.

    Args:
        file: The .npy file.
        dtype: Dtype that its values must have.
        width: Values of a record; 0 for a one-dimensional array.

    Raises:
        DataError: The file cannot be read, has another dtype or shape, or is longer or shorter than it
            says.
    """
    try:
        values = np.load(file, mmap_mode="r", allow_pickle=False)
        excess = os.path.getsize(file) - values.offset - values.nbytes
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # numpy raises errors of any kind for a header that is damaged
        raise DataError(f"{file}: cannot be read: it is empty, cut short or not an array") from error
    if values.dtype != dtype or values.shape[1:] != (width,) * bool(width) or not values.shape:
        raise DataError(
            f"{file}: holds {values.dtype} of shape {values.shape}, "
            f"not records of {width or 1} {np.dtype(dtype)}"
        )
    if excess or not values.flags.c_contiguous:
        raise DataError(f"{file}: is longer than its header says, or its values are in another order")
    return values


def open_columns(folder: Path, num_examples: int) -> dict[str, np.ndarray]:
    """Memory-maps the columns of an index, whose lengths must fit together.

    Args:
        folder: Folder of the index.
        num_examples: Number of examples of the index.

    Raises:
        DataError: A column cannot be read, or has another dtype, shape or length than it should.
    """
    columns = {
        name: open_array(folder / f"{name}.npy", column.dtype, column.width)
        for name, column in COLUMNS.items()
    }
    starts = {c.starts_of: columns[name] for name, c in COLUMNS.items() if c.starts_of}
    for name, column in COLUMNS.items():
        if column.per:
            num_records = num_examples if column.per == "tokens" else len(columns[column.per])
            expected = num_records + bool(column.starts_of)
        else:
            expected = int(starts[name][-1]) if len(starts[name]) else 0
        if len(columns[name]) != expected:
            raise DataError(f"{folder / name}.npy: does not hold {expected} records")
    return columns
