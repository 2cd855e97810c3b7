"""Makes AVIF and HEIC files out of tiles, which no library at hand writes."""

import io
import struct
from pathlib import Path

import av
import numpy as np
from PIL import Image


def avif_tile(picture: np.ndarray) -> tuple[bytes, bytes, bytes]:
    """Returns item type, configuration box and data of a picture, uint8 [h, w, 3] RGB, coded in AV1."""
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "AVIF", quality=90, subsampling="4:4:4", speed=10)
    data = out.getvalue()
    at = data.index(b"av1C") - 4
    (size,) = struct.unpack_from(">I", data, at)
    return b"av01", data[at : at + size], data[data.index(b"mdat") + 4 :]


def hevc_tile(picture: np.ndarray) -> tuple[bytes, bytes, bytes]:
    """Returns item type, configuration box and data of a picture, uint8 [h, w, 3] RGB, in HEVC."""
    file = io.BytesIO()
    options = {"preset": "ultrafast", "x265-params": "log-level=none"}
    with av.open(file, "w", "matroska") as container:
        stream = container.add_stream("libx265", rate=1, options=options)
        stream.height, stream.width = picture.shape[:2]
        stream.pix_fmt = "yuv444p"
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv444p")
        frame.pts = 0
        container.mux([*stream.encode(frame), *stream.encode()])
    file.seek(0)
    with av.open(file) as container:
        packet = next(container.demux(video=0))
        extradata = container.streams.video[0].codec_context.extradata
        return b"hvc1", _box(b"hvcC", extradata), bytes(packet)


def write_grid(
    path: Path,
    tiles: list[tuple[bytes, bytes, bytes]],
    rows: int,
    cols: int,
    tile_size: tuple[int, int],
    size: tuple[int, int],
    transformations: bytes = b"",
) -> Path:
    """Write a still picture that is stored in tiles.

    Args:
        path: File to write.
        tiles: The tiles row by row, from `avif_tile` or `hevc_tile`.
        rows: Number of rows of tiles.
        cols: Number of tiles in a row.
        tile_size: Height and width of a tile.
        size: Height and width of the picture; what tiles have beyond it is not shown.
        transformations: Boxes of one property each that apply to the picture, in order.
    """
    count = len(tiles)
    brand = b"avif" if tiles[0][0] == b"av01" else b"heic"
    properties = [_size(tile_size), tiles[0][1], _size(size)]
    numbers_of_grid, at = [3], 0
    while at < len(transformations):
        (length,) = struct.unpack_from(">I", transformations, at)
        properties.append(transformations[at : at + length])
        numbers_of_grid.append(0x80 | len(properties))  # essential
        at += length
    numbers = [[1, 2]] * count + [numbers_of_grid]
    associations = b"".join(
        struct.pack(">HB", item, len(used)) + bytes(used) for item, used in enumerate(numbers, 1)
    )
    entries = [_full_box(b"infe", 2, struct.pack(">HH", i + 1, 0) + tile[0] + b"\0")
               for i, tile in enumerate(tiles)]  # fmt: skip
    entries.append(_full_box(b"infe", 2, struct.pack(">HH", count + 1, 0) + b"grid\0"))
    grid = struct.pack(">BBBBHH", 0, 0, rows - 1, cols - 1, size[1], size[0])

    def file(start: int) -> bytes:
        places, offset = b"", start
        for item, (_, _, content) in enumerate(tiles, 1):
            places += struct.pack(">HHHHII", item, 0, 0, 1, offset, len(content))
            offset += len(content)
        places += struct.pack(">HHHHII", count + 1, 1, 0, 1, 0, len(grid))
        meta = _full_box(
            b"meta", 0,
            _full_box(b"hdlr", 0, struct.pack(">I4s12xB", 0, b"pict", 0))
            + _full_box(b"pitm", 0, struct.pack(">H", count + 1))
            + _full_box(b"iloc", 1, struct.pack(">BBH", 0x44, 0, count + 1) + places)
            + _full_box(b"iinf", 0, struct.pack(">H", count + 1) + b"".join(entries))
            + _full_box(b"iref", 0, _box(
                b"dimg", struct.pack(f">HH{count}H", count + 1, count, *range(1, count + 1))
            ))
            + _box(b"iprp", _box(b"ipco", b"".join(properties))
                   + _full_box(b"ipma", 0, struct.pack(">I", count + 1) + associations))
            + _box(b"idat", grid),
        )  # fmt: skip
        head = _box(b"ftyp", brand + struct.pack(">I", 0) + b"mif1" + brand)
        return head + meta + _box(b"mdat", b"".join(content for _, _, content in tiles))

    data_start = file(0).index(b"mdat") + 4
    path.write_bytes(file(data_start))
    return path


def _box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), name) + content


def _full_box(name: bytes, version: int, content: bytes) -> bytes:
    return _box(name, struct.pack(">I", version << 24) + content)


def _size(size: tuple[int, int]) -> bytes:
    return _full_box(b"ispe", 0, struct.pack(">II", size[1], size[0]))
