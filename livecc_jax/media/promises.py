"""What the header of a video file promises of its length, which shows whether the file was cut short.

Transport and program streams promise nothing, nor do recordings whose header was written before their
end was known, as browsers write them. MP4 lists its frames; `video.probe` compares that list itself.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from livecc_jax.media.appended import FragmentClocks, find_signature

SEARCHED_BYTES = 1 << 20  # of a header, for one of its fields
PAGE_BYTES = 27 + 255 + 255 * 255  # the longest page of an Ogg file

EBML, SEGMENT, SEGMENT_INFO, CLUSTER = 0x1A45DFA3, 0x18538067, 0x1549A966, 0x1F43B675
TIMESTAMP_SCALE, DURATION = 0x2AD7B1, 0x4489
TRACKS, TRACK, CODEC_HEADER = 0x1654AE6B, 0xAE, 0x63A2
ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


@dataclass(frozen=True)
class Promise:
    """What a file's header says of its length.

    Attributes:
        size: Bytes that the file should have; None if it does not say.
        seconds: Length in seconds; None if it does not say.
        unread: Place in bytes of another recording, which is in the file but which FFmpeg does not
            read; None if there is none.
    """

    size: int | None = None
    seconds: float | None = None
    unread: int | None = None


def read_promise(path: str) -> Promise:
    """Reads a file's header. Raises OSError when the file cannot be read."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        unread = find_signature(file, size)
        if unread is not None:
            return Promise(unread=unread)
        file.seek(0)
        start = file.read(16)
        for matches, reader in _READERS:
            if matches(start):
                file.seek(0)
                try:
                    return reader(file, size)
                except (struct.error, IndexError, ValueError):
                    return Promise()  # a damaged header promises nothing
    return Promise()


def _read_matroska(file: BinaryIO, size: int) -> Promise:
    """Follows the segments of a file, which are several if files were joined with `cat`."""
    promised, total, headers = None, 0.0, None
    position = 0
    while position < size:
        number, length, contents = _element(file, position)
        if number != EBML or length is None:
            break
        number, length, contents = _element(file, contents + length)
        if number != SEGMENT:
            break
        seconds, codec_headers = _read_segment(file, contents, size)
        if headers not in (None, codec_headers):
            return Promise(unread=position)  # FFmpeg would decode it with the first one's headers
        headers = codec_headers
        total = None if total is None or seconds is None else total + seconds
        if length is None:
            return Promise(seconds=total)
        promised = position = contents + length
    return Promise(promised, total or None)


def _element(file: BinaryIO, position: int) -> tuple[int, int | None, int]:
    """Returns number, length and place of the contents of an EBML element; None is an open length."""
    file.seek(position)
    data = file.read(12)
    id_bytes = 9 - data[0].bit_length()
    length_bytes = 9 - data[id_bytes].bit_length()
    if id_bytes > 4 or length_bytes > 8:
        raise ValueError("no EBML element")
    length = int.from_bytes(data[id_bytes : id_bytes + length_bytes], "big")
    length &= (1 << 7 * length_bytes) - 1
    unknown = length == (1 << 7 * length_bytes) - 1
    number = int.from_bytes(data[:id_bytes], "big")
    return number, None if unknown else length, position + id_bytes + length_bytes


def _children(file: BinaryIO, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yields number, place and length of the EBML elements between two places, up to the pictures."""
    while position < end:
        number, length, contents = _element(file, position)
        if number == CLUSTER or length is None:
            return
        yield number, contents, length
        position = contents + length


def _read_segment(file: BinaryIO, position: int, end: int) -> tuple[float | None, list[bytes]]:
    """Returns a segment's length in seconds, None if it does not say, and the headers of its codecs."""
    scale, duration, codec_headers = 1_000_000, 0.0, []
    for number, place, length in _children(file, position, end):
        if number == SEGMENT_INFO:
            for field, at, count in _children(file, place, place + length):
                if field == TIMESTAMP_SCALE:
                    scale = int.from_bytes(_peek(file, at, min(count, 8)), "big")
                elif field == DURATION:
                    duration = struct.unpack(">f" if count == 4 else ">d", _peek(file, at, count))[0]
        elif number == TRACKS:
            for track, entry, count in _children(file, place, place + length):
                # Other elements are checksums, whose contents are no elements.
                for field, at, bytes_ in _children(file, entry, entry + count * (track == TRACK)):
                    if field == CODEC_HEADER:
                        codec_headers.append(_peek(file, at, min(bytes_, SEARCHED_BYTES)))
    return duration * scale / 1e9 if duration > 0 else None, codec_headers


def _read_flv(file: BinaryIO, size: int) -> Promise:
    """Reads `onMetaData`, and follows the tags as far as they go."""
    header = file.read(9)
    position = int.from_bytes(header[5:9], "big") + 4
    length = 11 + int.from_bytes(_peek(file, position)[1:4], "big")
    script = _peek(file, position, min(SEARCHED_BYTES, length))
    seconds = _script_number(script, b"duration") if script[:1] == b"\x12" else None
    promised = _script_number(script, b"filesize") if script[:1] == b"\x12" else None
    while position + 11 <= size:
        tag = _peek(file, position)
        if tag[:3] == b"FLV":
            return Promise(seconds=seconds, unread=position)
        if tag[0] & 31 not in (8, 9, 18):
            return Promise(seconds=seconds)
        position += 15 + int.from_bytes(tag[1:4], "big")
    # Tools that edit the header leave its size as it was; a whole last tag shows that none is missing.
    missing = promised and promised > size and position > size
    return Promise(int(promised) if missing else None, seconds)


def _peek(file: BinaryIO, position: int, count: int = 11) -> bytes:
    file.seek(position)
    return file.read(count)


def _script_number(script: bytes, name: bytes) -> float | None:
    at = script.find(struct.pack(">H", len(name)) + name + b"\0")
    if at < 0:
        return None
    value = struct.unpack_from(">d", script, at + 3 + len(name))[0]
    return value if 0 < value < 1e15 else None


def _read_avi(file: BinaryIO, size: int) -> Promise:
    """Follows the RIFF chunks. Counts of frames in AVI headers are too often wrong to be compared."""
    position, start = 0, file.read(SEARCHED_BYTES)
    step_us, _, _, _, count = struct.unpack_from("<5I", start, start.index(b"avih") + 8)
    while position + 12 <= size:
        data = _peek(file, position, 12)
        length = int.from_bytes(data[4:8], "little")
        if data[:4] != b"RIFF" or data[8:] not in (b"AVI ", b"AVIX") or not 0 < length < 0xFFFFFFFF:
            return Promise()
        position += 8 + length + length % 2
    return Promise(position - length % 2, step_us * count / 1e6 or None)


def _read_asf(file: BinaryIO, size: int) -> Promise:
    header = file.read(SEARCHED_BYTES)
    at = header.index(ASF_FILE)
    promised, _, _, play, _, preroll, flags = struct.unpack_from("<QQQQQQI", header, at + 40)
    if flags & 1:  # written while it was recorded
        return Promise()
    unread = promised if size > promised and _peek(file, promised, 16) == ASF_HEADER else None
    return Promise(promised, max(0.0, play / 1e7 - preroll / 1e3) or None, unread)


def _read_ogg(file: BinaryIO, size: int) -> Promise:
    """Ogg has no length in its header, but each page has its own: the last one may be cut."""
    start = max(0, size - 2 * PAGE_BYTES)
    data = _peek(file, start, size - start)
    at = data.rfind(b"OggS\0")
    if at < 0:
        return Promise()
    table = data[at + 27 : at + 27 + (data[at + 26] if at + 26 < len(data) else 255)]
    return Promise(max(start + at + 27 + len(table) + sum(table), start + at + 28))


def _read_mp4(file: BinaryIO, size: int) -> Promise:
    """Follows the boxes. Only the first list of frames is read; a second is another recording.

    So is a fragment that begins before an earlier one.
    """
    position, headers, lists, clocks = 0, 0, 0, FragmentClocks()
    while position + 8 <= size:
        data = _peek(file, position, 16)
        length, kind = int.from_bytes(data[:4], "big"), data[4:8]
        if length == 1:
            length = int.from_bytes(data[8:16], "big")
        if length < 8 or not kind.isascii():
            return Promise()  # up to the end of the file, or damaged
        headers += kind == b"moov"
        if kind == b"moov" and not _is_fragmented(file, position, length):
            lists += 1
            if lists == 2:
                return Promise(unread=position)
        if kind == b"moof":
            content = _peek(file, position + 8, min(length - 8, SEARCHED_BYTES))
            if clocks.restarts(content, after_header=headers > 1):
                return Promise(unread=position)
        position += length
    return Promise(position if position > size else None)


def _read_swf(file: BinaryIO, size: int) -> Promise:
    return Promise(int.from_bytes(_peek(file, 4, 4), "little") or None)


def _read_realmedia(file: BinaryIO, size: int) -> Promise:
    """Follows the chunks up to the one that holds the pictures."""
    position = 0
    while position + 8 <= size:
        data = _peek(file, position, 8)
        length = int.from_bytes(data[4:], "big")
        if length < 8:
            return Promise()
        position += length
        if data[:4] == b"DATA":
            break
    # FFmpeg writes a length that counts the chunk's own header twice.
    return Promise(position if position > size + 64 else None)


def _is_fragmented(file: BinaryIO, position: int, length: int) -> bool:
    return b"mvex" in _peek(file, position, min(length, 64 * SEARCHED_BYTES))


_READERS: tuple[tuple[Callable[[bytes], bool], Callable[[BinaryIO, int], Promise]], ...] = (
    (lambda start: start[:4] == b"\x1aE\xdf\xa3", _read_matroska),
    (lambda start: start[:3] == b"FLV", _read_flv),
    (lambda start: start[:4] == b"RIFF" and start[8:12] == b"AVI ", _read_avi),
    (lambda start: start == ASF_HEADER, _read_asf),
    (lambda start: start[:3] == b"FWS", _read_swf),
    (lambda start: start[:4] == b".RMF", _read_realmedia),
    (lambda start: start[:4] == b"OggS", _read_ogg),
    (lambda start: start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"), _read_mp4),
)
