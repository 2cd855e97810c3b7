"""Frames files: the sampled frames of a video without a video codec, for machines that lack a decoder.

A file `NAME.frames` holds pictures of one size and their timestamps. Each picture is compressed by
itself, without loss (zlib), so any of them is read alone; numpy is all that reading needs. Whatever
takes a video takes such a file: indexing, training, streaming, evaluation.

| bytes | content |
|---|---|
| 8 | `LIVECCF1` |
| 4 | length of the header, little-endian |
| header | JSON: `count`, `height`, `width`, `frame_duration_us`, `tables` (CRC-32 of the two tables) |
| 8 count | int64 little-endian: timestamps in microseconds, ascending |
| 8 (count + 1) | int64 little-endian: where pictures start after this table, and where the last ends |
| rest | the pictures, each one a zlib stream of uint8 [height, width, 3], RGB |
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from livecc_jax.bounded_json import parse_json
from livecc_jax.errors import MediaError
from livecc_jax.writing import atomic_file

SUFFIX = ".frames"
MAGIC = b"LIVECCF1"
LEVEL = 1  # of zlib: the pictures of a drawn video shrink tenfold already
MAX_HEADER, MAX_COUNT, MAX_SIDE = 1 << 16, 10_000_000, 1 << 14


class Header(NamedTuple):
    """What a frames file says of its pictures.

    Attributes:
        pts_us: int64 [n], timestamps in microseconds.
        starts: int64 [n + 1], where each picture starts in the file, and the last ends.
        frame_duration_us: Nominal duration of a frame of the video that they were taken from.
        height: Height in pixels.
        width: Width in pixels.
    """

    pts_us: np.ndarray
    starts: np.ndarray
    frame_duration_us: int
    height: int
    width: int


def is_frame_file(path: str | Path) -> bool:
    """Returns whether a path names a frames file."""
    return str(path).endswith(SUFFIX)


def write_frame_file(
    path: str | Path, frames: np.ndarray, pts_us: Sequence[int] | np.ndarray, frame_duration_us: int
) -> None:
    """Writes a frames file, complete or not at all.

    Args:
        path: The file; its name ends in `.frames`.
        frames: uint8 [n, height, width, 3], RGB.
        pts_us: int64 [n], timestamps in microseconds, ascending. A frame's time is its timestamp plus
            the frame duration, as for videos.
        frame_duration_us: Nominal duration of a frame of the video that they stand for.

    Raises:
        OutputError: The file cannot be written.
    """
    times = np.asarray(pts_us, "<i8")
    if frames.dtype != np.uint8 or frames.shape[:1] != times.shape or frames.shape[3:] != (3,):
        raise ValueError("frames must be uint8 [n, height, width, 3], with a timestamp each")
    blobs = [zlib.compress(np.ascontiguousarray(frame).tobytes(), LEVEL) for frame in frames]
    starts = np.concatenate([[0], np.cumsum([len(blob) for blob in blobs])]).astype("<i8")
    tables = times.tobytes() + starts.tobytes()
    header = json.dumps(
        {
            "count": len(frames),
            "height": frames.shape[1],
            "width": frames.shape[2],
            "frame_duration_us": int(frame_duration_us),
            "tables": zlib.crc32(tables),
        }
    ).encode()
    with atomic_file(path) as file:
        file.write(MAGIC + struct.pack("<I", len(header)) + header + tables)
        for blob in blobs:
            file.write(blob)


def read_header(path: str | Path) -> Header:
    """Reads timestamps and size of a frames file. Raises MediaError when it is none, or is damaged."""
    try:
        with open(path, "rb") as file:
            return _read_header(file, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise MediaError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, struct.error) as error:
        raise MediaError(f"{path}: is no readable frames file ({error!s:.120})") from error


def _read_header(file: IO[bytes], size: int) -> Header:
    if file.read(len(MAGIC)) != MAGIC:
        raise ValueError("it does not begin as one")
    (length,) = struct.unpack("<I", file.read(4))
    if length > MAX_HEADER:
        raise ValueError("its header is too long")
    said = parse_json(file.read(length), max_bytes=MAX_HEADER, encoding="utf-8")
    count, height, width, duration = (
        said[key] for key in ("count", "height", "width", "frame_duration_us")
    )
    limits = ((count, MAX_COUNT), (height, MAX_SIDE), (width, MAX_SIDE), (duration, 1 << 40))
    if any(type(value) is not int or not 1 <= value <= limit for value, limit in limits):
        raise ValueError("its header holds impossible numbers")
    tables_bytes = 8 * (2 * count + 1)
    begin = file.tell() + tables_bytes
    if begin > size:
        raise ValueError("it is cut short")
    tables = file.read(tables_bytes)
    if zlib.crc32(tables) != said["tables"]:
        raise ValueError("its tables have changed")
    pts_us = np.frombuffer(tables[: 8 * count], "<i8").astype(np.int64)
    starts = np.frombuffer(tables[8 * count :], "<i8").astype(np.int64) + begin
    if (np.diff(pts_us) <= 0).any() or (np.diff(starts) < 0).any() or starts[0] != begin:
        raise ValueError("its tables do not ascend")
    if starts[-1] != size:
        raise ValueError(f"it has {size} bytes and should have {starts[-1]}")
    return Header(pts_us, starts, duration, height, width)


def read_frames(path: str | Path, pts_us: np.ndarray) -> Iterator[np.ndarray]:
    """Yields pictures by their timestamps.

    Args:
        path: The file.
        pts_us: int64 [k], timestamps in microseconds, ascending; they may repeat.

    Yields:
        uint8 [height, width, 3], RGB; a repeated one is the same array.

    Raises:
        MediaError: The file is damaged, or has no picture with such a timestamp.
    """
    header = read_header(path)
    size = header.height * header.width * 3
    last, picture = -1, None
    try:
        with open(path, "rb") as file:
            for time in np.asarray(pts_us).tolist():
                number = int(np.searchsorted(header.pts_us, time))
                if number == len(header.pts_us) or header.pts_us[number] != time:
                    raise MediaError(f"{path}: has no frame at {time / 1e6:g} s")
                if number != last or picture is None:
                    file.seek(header.starts[number])
                    blob = file.read(int(header.starts[number + 1] - header.starts[number]))
                    picture = _unpack(blob, size, path, number)
                    picture = picture.reshape(header.height, header.width, 3)
                    last = number
                yield picture
    except OSError as error:
        raise MediaError(f"{path}: cannot be read: {error.strerror}") from error


def _unpack(blob: bytes, size: int, path: str | Path, number: int) -> np.ndarray:
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(blob, size + 1)
    except zlib.error as error:
        raise MediaError(f"{path}: frame {number} is damaged ({error})") from error
    if len(data) != size or not unpacker.eof:
        raise MediaError(f"{path}: frame {number} is damaged (it has another size)")
    return np.frombuffer(data, np.uint8)
