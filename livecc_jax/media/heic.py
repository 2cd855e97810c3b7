"""Reads HEIC pictures (ISO 23008-12): FFmpeg decodes their tiles, which are put together here."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from livecc_jax.errors import MediaError
from livecc_jax.media.decode import RGBConverter

KNOWN_BOXES = (b"ftyp", b"meta", b"mdat", b"free", b"skip", b"moov", b"uuid", b"wide")
MAX_DEPTH = 4  # of pictures that are derived from pictures
ALPHA = (b"urn:mpeg:hevc:2015:auxid:1", b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha")


class HeicError(Exception):
    """What is wrong with a file, in words that follow its name."""


@dataclass
class HeicItems:
    """The pictures ("items") of a file.

    Attributes:
        data: Contents of the file.
        primary: Number of the picture that is shown.
        types: Type of each item, such as `hvc1` or `grid`.
        places: Where each item is: construction method, and start and length of its parts.
        sources: The items that each item is derived from, in order.
        auxiliary: Items that belong to an item, such as its alpha channel.
        properties: Type and contents of all properties.
        used: Numbers of each item's properties in order, from 1.
        inline: Contents of the file's inline data.
    """

    data: bytes
    primary: int = 0
    types: dict[int, bytes] = field(default_factory=dict)
    places: dict[int, tuple[int, list[tuple[int, int]]]] = field(default_factory=dict)
    sources: dict[int, list[int]] = field(default_factory=dict)
    auxiliary: dict[int, list[int]] = field(default_factory=dict)
    properties: list[tuple[bytes, bytes]] = field(default_factory=list)
    used: dict[int, list[int]] = field(default_factory=dict)
    inline: bytes = b""

    def content(self, item: int) -> bytes:
        """Returns the bytes of an item. Raises HeicError if they are not all there."""
        method, parts = self.places[item]
        if method not in (0, 1):
            raise HeicError("is a HEIC picture whose data are stored in a way that is not read")
        whole = self.data if method == 0 else self.inline
        if any(start + length > len(whole) for start, length in parts):
            raise HeicError("is not a whole image: it is cut short")
        return b"".join(whole[start : start + length] for start, length in parts)

    def item_properties(self, item: int) -> list[tuple[bytes, bytes]]:
        """Returns type and contents of an item's properties, in the order in which they apply."""
        return [self.properties[n - 1] for n in self.used.get(item, []) if n]


def read_heic(path: str, data: bytes, max_pixels: int) -> np.ndarray:
    """Returns a HEIC picture, turned and mirrored as it says, transparent parts over white.

    Args:
        path: Path of the file, for error messages.
        data: Contents of the file.
        max_pixels: Most pixels that the picture may have.

    Returns:
        uint8 [H, W, 3] RGB.

    Raises:
        MediaError: The file is damaged, cut short, too large, or uses what is not read.
    """
    try:
        items = _read_items(data)
        picture = _picture(items, items.primary, max_pixels)
        for item in items.auxiliary.get(items.primary, []):
            if dict(items.item_properties(item)).get(b"auxC", b"")[4:].split(b"\0")[0] in ALPHA:
                alpha = _picture(items, item, max_pixels)[..., :1].astype(np.uint16)
                if alpha.shape[:2] != picture.shape[:2]:
                    raise HeicError("is a HEIC picture whose transparency has another size")
                x = picture * alpha + 255 * (255 - alpha) + 128
                picture = ((x + (x >> 8)) >> 8).astype(np.uint8)
        return np.ascontiguousarray(picture)
    except HeicError as error:
        raise MediaError(f"{path}: {error}") from None
    except (struct.error, IndexError, KeyError, ValueError) as error:
        raise MediaError(f"{path}: is not a whole image: it is damaged or cut short") from error


def _boxes(data: bytes, known: tuple[bytes, ...] = ()) -> Iterator[tuple[bytes, bytes]]:
    """Yields type and contents of the boxes in some data.

    Args:
        data: The boxes.
        known: If given, stop at a box of another type: some cameras append what is none.

    Raises:
        HeicError: A box is cut short.
    """
    at = 0
    while at < len(data) and (not known or data[at + 4 : at + 8] in known):
        size, name = struct.unpack_from(">I4s", data, at)
        header = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, at + 8)
            header = 16
        end = at + size if size else len(data)
        if size and size < header:
            raise HeicError("is not a whole image: it is damaged")
        if end > len(data):
            raise HeicError("is not a whole image: it is cut short")
        yield name, data[at + header : end]
        at = end


def _read_items(data: bytes) -> HeicItems:
    meta = b""
    for name, content in _boxes(data, KNOWN_BOXES):
        if name == b"meta":
            meta = content
    if not meta:
        raise HeicError("is a HEIC file that holds no still picture")
    items = HeicItems(data)
    for name, content in _boxes(meta[4:]):
        version, body = content[:1], content[4:]
        if name == b"pitm":
            items.primary = int.from_bytes(body[:4] if version != b"\0" else body[:2], "big")
        elif name == b"iinf":
            for _, entry in _boxes(body[4:] if version != b"\0" else body[2:]):
                wide = entry[0] > 2
                number = int.from_bytes(entry[4:8] if wide else entry[4:6], "big")
                items.types[number] = entry[10:14] if wide else entry[8:12]
        elif name == b"iloc":
            items.places = _locations(version[0], body)
        elif name == b"iref":
            for kind, entry in _boxes(body):
                form = ">I" if version != b"\0" else ">H"
                size = struct.calcsize(form)
                (source,) = struct.unpack_from(form, entry)
                (count,) = struct.unpack_from(">H", entry, size)
                targets = list(struct.unpack_from(f">{count}{form[1]}", entry, size + 2))
                if kind == b"dimg":
                    items.sources[source] = targets
                elif kind == b"auxl":
                    for target in targets:
                        items.auxiliary.setdefault(target, []).append(source)
        elif name == b"iprp":
            for kind, part in _boxes(content):
                if kind == b"ipco":
                    items.properties = list(_boxes(part))
                elif kind == b"ipma":
                    items.used |= _associations(part)
        elif name == b"idat":
            items.inline = content
    return items


def _locations(version: int, body: bytes) -> dict[int, tuple[int, list[tuple[int, int]]]]:
    sizes = (body[0] >> 4, body[0] & 15, body[1] >> 4, body[1] & 15 if version else 0)
    offset_size, length_size, base_size, index_size = sizes
    at = 2

    def number(size: int) -> int:
        nonlocal at
        if at + size > len(body):
            raise HeicError("is not a whole image: it is damaged")
        at += size
        return int.from_bytes(body[at - size : at], "big")

    places = {}
    for _ in range(number(4 if version == 2 else 2)):
        item = number(4 if version == 2 else 2)
        method = number(2) & 15 if version else 0
        number(2)  # the file that holds the data: this one
        base, parts = number(base_size), []
        for _ in range(number(2)):
            number(index_size)
            parts.append((base + number(offset_size), number(length_size)))
        places[item] = (method, parts)
    return places


def _associations(part: bytes) -> dict[int, list[int]]:
    is_wide, has_long_ids = part[3] & 1, part[0] > 0
    (count,), at, used = struct.unpack_from(">I", part, 4), 8, {}
    for _ in range(count):
        (item,) = struct.unpack_from(">I" if has_long_ids else ">H", part, at)
        at += 4 if has_long_ids else 2
        number, at = part[at], at + 1
        form, mask = (">H", 0x7FFF) if is_wide else (">B", 0x7F)
        values = struct.unpack_from(f">{number}{form[1]}", part, at)
        used[item] = [value & mask for value in values]
        at += struct.calcsize(f">{number}{form[1]}")
    return used


def _picture(items: HeicItems, item: int, max_pixels: int, depth: int = 0) -> np.ndarray:
    """Returns an item, uint8 [H, W, 3] RGB, with its transformations applied."""
    if depth > MAX_DEPTH:
        raise HeicError("is not a whole image: it is damaged")
    kind, properties = items.types[item], items.item_properties(item)
    for name, value in properties:
        if name == b"ispe":
            _check_size(*struct.unpack_from(">II", value, 4), max_pixels)
    if kind in (b"hvc1", b"hev1"):
        picture = _decode(items.content(item), properties)
    elif kind == b"grid":
        picture = _grid(items, item, max_pixels, depth)
    elif kind == b"iden":
        picture = _picture(items, items.sources[item][0], max_pixels, depth + 1)
    else:
        raise HeicError(f"is a HEIC picture of type {kind.decode('latin-1')!r}, which is not read")
    for name, value in properties:
        if name == b"clap":
            picture = _crop(picture, value)
        elif name == b"irot":
            picture = np.rot90(picture, value[0] & 3)
        elif name == b"imir":
            picture = picture[:, ::-1] if value[0] & 1 else picture[::-1]
    return picture


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise HeicError(f"has {width} x {height} pixels, more than the {max_pixels} that are read")


def _crop(picture: np.ndarray, value: bytes) -> np.ndarray:
    """Returns the part of a picture that a `clap` property keeps; its centre is given as an offset."""
    numbers = struct.unpack(">IIIIiIiI", value[:32])
    width, height, x, y = (a / b for a, b in zip(numbers[::2], numbers[1::2]))
    left = round((picture.shape[1] - width) / 2 + x)
    top = round((picture.shape[0] - height) / 2 + y)
    if left < 0 or top < 0 or left + width > picture.shape[1] or top + height > picture.shape[0]:
        raise HeicError("is not a whole image: it is damaged")
    return picture[top : top + round(height), left : left + round(width)]


def _grid(items: HeicItems, item: int, max_pixels: int, depth: int) -> np.ndarray:
    content = items.content(item)
    rows, cols = content[2] + 1, content[3] + 1
    width, height = struct.unpack_from(">II" if content[1] & 1 else ">HH", content, 4)
    _check_size(width, height, max_pixels)
    tiles = [_picture(items, tile, max_pixels, depth + 1) for tile in items.sources[item]]
    if len(tiles) != rows * cols or len({tile.shape for tile in tiles}) != 1:
        raise HeicError("is not a whole image: its tiles do not fit together")
    lines = [np.concatenate(tiles[i * cols : (i + 1) * cols], 1) for i in range(rows)]
    picture = np.concatenate(lines)
    if picture.shape[0] < height or picture.shape[1] < width:
        raise HeicError("is not a whole image: its tiles do not fit together")
    return picture[:height, :width]


def _decode(content: bytes, properties: list[tuple[bytes, bytes]]) -> np.ndarray:
    """Decodes one HEVC picture. Raises HeicError."""
    import av

    context = av.CodecContext.create("hevc", "r")
    context.extradata = dict(properties)[b"hvcC"]
    context.options = {"err_detect": "explode"}
    context.thread_count = 1
    try:
        frames = [*context.decode(av.Packet(content)), *context.decode(None)]
    except (av.FFmpegError, OSError) as error:
        raise HeicError("is not a whole image: it is damaged") from error
    if not frames or frames[0].is_corrupt:
        raise HeicError("is not a whole image: it is damaged")
    for name, value in properties:
        if name == b"colr" and value[:4] == b"nclx":
            frames[0].colorspace = struct.unpack_from(">H", value, 8)[0]
            frames[0].color_range = 2 if value[10] & 0x80 else 1
    return np.array(RGBConverter("")(frames[0]))  # it has no display matrix
