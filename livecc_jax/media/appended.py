"""Finds another recording that was appended to a file, which FFmpeg passes over without a word."""

from __future__ import annotations

import mmap
import struct
from typing import BinaryIO

# How a file of each kind begins. It holds these bytes once, unless files were joined.
SIGNATURES = (
    b"DKIF\0\0\x20\0",  # IVF
    b"nut/multimedia container\0",
    b"YUV4MPEG2 ",
    b".RMF\0\0\0\x12\0",  # RealMedia
    bytes.fromhex("b7d800203749da11a64e0007e95ead8d"),  # WTV
    bytes.fromhex("060e2b34020501010d0102010102"),  # MXF: partition of a header
)


def find_signature(file: BinaryIO, size: int) -> int | None:
    """Returns where the beginning of a file occurs in it again; None if it does not.

    Args:
        file: The file; only files that begin with one of the signatures are searched.
        size: Its size in bytes.
    """
    file.seek(0)
    start = file.read(max(map(len, SIGNATURES)))
    for signature in SIGNATURES:
        if start.startswith(signature) and size > len(signature):
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                at = data.find(signature, len(signature))
            return at if at >= 0 else None
    return None


class FragmentClocks:
    """Tells whether the fragments of an MP4 are of one recording: their times go on."""

    def __init__(self) -> None:
        self._latest: dict[int, int] = {}  # by number of the track

    def restarts(self, moof: bytes, after_header: bool) -> bool:
        """Whether a fragment begins before one of the same track that is stored earlier.

        Args:
            moof: Contents of its `moof` box, without the box's header.
            after_header: Whether the file's header stands before it a second time; then it may not
                begin with the earlier one either, as an empty fragment does.
        """
        starts: dict[int, int] = {}  # of the first part of each track
        for name, content in _boxes(moof):
            if name != b"traf":
                continue
            parts = dict(_boxes(content))
            if len(parts.get(b"tfhd", b"")) < 8 or len(parts.get(b"tfdt", b"")) < 8:
                continue
            (track,) = struct.unpack_from(">I", parts[b"tfhd"], 4)
            start = int.from_bytes(parts[b"tfdt"][4 : 12 if parts[b"tfdt"][0] else 8], "big")
            starts.setdefault(track, start)
        restarts = any(
            start < self._latest.get(track, 0) + (after_header and track in self._latest)
            for track, start in starts.items()
        )
        self._latest |= starts
        return restarts


def _boxes(data: bytes) -> list[tuple[bytes, bytes]]:
    """Returns name and contents of the boxes in some data, as far as they are whole."""
    boxes, at = [], 0
    while at + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, at)
        if size < 8 or at + size > len(data):
            break
        boxes.append((name, data[at + 8 : at + size]))
        at += size
    return boxes
