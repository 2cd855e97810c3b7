"""Finds damage in the compressed data of a JPEG, which decoders fill with grey or smear without a word.

JPEG has no checksums. Bytes that were changed usually make the data too long or too short for the
picture, or hold codes that do not exist; a change that does neither, as of one bit, is not noticed.
"""

from __future__ import annotations

import io

import numpy as np

SHORT_BYTES = 8  # without so many bytes at its end, a whole picture is not complete
PADDING = b"\x55" * 16  # what a decoder wants to look at beyond the last code
SEQUENTIAL = (0xC0, 0xC1)  # frame headers of JPEGs whose pictures grow row by row
FRAME_HEADERS = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))
START_OF_SCAN, END = 0xDA, b"\xff\xd9"


def is_jpeg_damaged(data: bytes) -> bool:
    """Returns whether the compressed data of a JPEG are broken.

    Args:
        data: Contents of a file that `check_whole` accepts and Pillow decodes.
    """
    return _has_broken_codes(data) or _has_wrong_length(data)


def _has_broken_codes(data: bytes) -> bool:
    """Whether FFmpeg reports damage; a JPEG of a kind that it cannot decode has none."""
    import av

    context = av.CodecContext.create("mjpeg", "r")
    context.options = {"err_detect": "explode+bitstream+buffer"}
    context.thread_count = 1
    try:
        frames = [*context.decode(av.Packet(data)), *context.decode(None)]
    except av.error.InvalidDataError:
        return True
    except (av.FFmpegError, OSError, ValueError):
        return False
    return any(frame.is_corrupt for frame in frames)


def _has_wrong_length(data: bytes) -> bool:
    """Whether the picture is complete before the data end, or not yet when they end.

    libjpeg writes the last row of pixels once all codes are there. Only JPEGs of a single scan are
    looked at; in others, all rows are written in the end.
    """
    from PIL import Image

    start = _start_of_only_scan(data)
    if start is None:
        return False
    end = data.find(END, start)
    tail = data[end - SHORT_BYTES : end]
    is_padded = end - start < 8 * SHORT_BYTES or len(set(tail)) == 1  # as some cameras write
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        image.load_prepare()
        (tile,), image.tile = image.tile, []
        width, height = image.size
        size = width * len(image.getbands())
        unwritten = np.random.default_rng(0).integers(0, 256, size, np.uint8).tobytes()
        image.paste(Image.frombytes(image.mode, (width, 1), unwritten), (0, height - 1))
        # Pillow's public methods decode whole files alone.
        decoder = Image._getdecoder(image.mode, tile.codec_name, tile.args, image.decoderconfig)
        try:
            decoder.setimage(image.im, tile.extents)

            def is_complete() -> bool:
                return image.crop((0, height - 1, width, height)).tobytes() != unwritten

            head = data[: end - SHORT_BYTES]
            used, _ = decoder.decode(head)
            if not is_padded and is_complete():
                return True
            if used >= 0:  # the decoder waits for more
                decoder.decode(head[used:] + tail + PADDING)
            return not is_complete()
        finally:
            decoder.cleanup()


def _start_of_only_scan(data: bytes) -> int | None:
    """Returns where the scan begins that holds all components of a sequential JPEG, if there is one."""
    at, components = 2, None
    while (marker := data[at + 1]) != START_OF_SCAN:
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker == 0x01 or 0xD0 <= marker < 0xD9:  # markers without a length
            at += 2
        else:
            if marker in FRAME_HEADERS:
                components = data[at + 9] if marker in SEQUENTIAL else None
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return at if components is not None and data[at + 4] == components else None
