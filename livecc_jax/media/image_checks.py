"""Checks that an image file is whole, which decoders are lenient about.

A decoder fills what is missing with grey, or stops after the first picture, without an error. These
checks read the structure of a file: its end, lengths and checksums.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Literal

from livecc_jax.errors import MediaError

ImageKind = Literal["jpeg", "png", "gif", "webp", "avif", "heic", "other"]

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Chunks that determine the picture beside the critical ones, whose names begin with a capital; of an
# animation, those of later frames.
PNG_USED_CHUNKS = (b"tRNS", b"eXIf")
PNG_ANIMATION_CHUNKS = (b"acTL", b"fcTL", b"fdAT")
AVIF_BRANDS = (b"avif", b"avis")
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
SEQUENCE_BRANDS = (b"avis", b"hevc", b"hevx", b"hevm", b"hevs", b"msf1")
MOTION_JPEG_ENDINGS = (".mjpeg", ".mjpg")
PICTURE_SIGNATURES = (
    b"II*\0", b"MM\0*", b"II+\0", b"MM\0+",  # TIFF
    b"\0\0\0\x0cjP  \r\n\x87\n", b"\xffO\xffQ",  # JPEG 2000
    *(b"P%d%s" % (n, space) for n in range(1, 8) for space in (b"\n", b"\r", b" ", b"\t")),  # PNM
)  # fmt: skip
HEAD_BYTES = 4096  # enough for a signature and a list of brands


def image_kind(head: bytes) -> ImageKind:
    """Returns the format that the first bytes of a file announce."""
    if head.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if head.startswith(PNG_SIGNATURE):
        return "png"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    brands = _brands(head)
    if any(brand in AVIF_BRANDS for brand in brands):
        return "avif"
    if any(brand in HEIC_BRANDS for brand in brands):
        return "heic"
    return "other"


def is_still_heif(path: str) -> bool:
    """Returns whether a file is a still AVIF or HEIC picture, which FFmpeg opens as a video.

    A file that cannot be read is none, so that the reader of the file says why.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return False
    return image_kind(head) in ("avif", "heic") and _brands(head)[0] not in SEQUENCE_BRANDS


def is_still_picture(path: str) -> bool:
    """Returns whether a file is a still picture by its contents, whatever its name is.

    A GIF is none, since most are animations, nor is Motion JPEG, which begins as a JPEG does.
    """
    if is_still_heif(path):
        return True
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError:
        return False
    kind = image_kind(head)
    if kind == "jpeg":
        return not path.lower().endswith(MOTION_JPEG_ENDINGS)
    if kind == "png":
        return b"acTL" not in head  # control of an animation, before the picture
    return kind == "webp" or head.startswith(PICTURE_SIGNATURES) or _is_bmp(head)


def _is_bmp(head: bytes) -> bool:
    return head[:2] == b"BM" and head[6:10] == bytes(4) and len(head) > 26


def is_animated_webp(path: str) -> bool:
    """Returns whether a file is an animated WebP. Raises OSError."""
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
    return image_kind(head) == "webp" and _is_animated_webp(head)


def _is_animated_webp(head: bytes) -> bool:
    return head[12:16] == b"VP8X" and len(head) > 20 and bool(head[20] & 2)


def _brands(head: bytes) -> list[bytes]:
    """Returns the brands of an ISO media file, the major one first; none for other files."""
    if len(head) < 16 or head[4:8] != b"ftyp":
        return []
    size = struct.unpack(">I", head[:4])[0]
    compatible = head[16 : min(size, len(head))]
    return [head[8:12], *(compatible[i : i + 4] for i in range(0, len(compatible) - 3, 4))]


def check_as_video(path: str) -> None:
    """Checks a GIF, PNG or WebP that is read as a video; others are not looked at.

    Raises:
        MediaError: The file is cut short or damaged, or of a kind that cannot be read as a video.
        OSError: The file cannot be read.
    """
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
        kind = image_kind(head)
        if kind == "webp" and _is_animated_webp(head):
            raise MediaError(
                f"{path}: is an animated WebP, which FFmpeg does not read as a video; convert it to "
                "MP4, or give it as an image, which shows its first picture"
            )
        if kind in ("gif", "png", "webp"):
            data = head + file.read()
            check_whole(path, data, kind)
            if kind == "png" and data.startswith(PNG_SIGNATURE, end := list(_png_chunks(data))[-1][2]):
                raise MediaError(
                    f"{path}: holds another recording, from byte {end:,} on, which FFmpeg does not read"
                )


def check_whole(path: str, data: bytes, kind: ImageKind) -> None:
    """Checks that a file ends as its format promises, and its checksums where it has some.

    Args:
        path: Path of the file, for error messages.
        data: Contents of the file.
        kind: Its format; formats whose decoder is strict are not checked here.

    Raises:
        MediaError: The file is cut short or damaged.
    """
    checks = {"jpeg": _check_jpeg, "png": _check_png, "gif": _check_gif, "webp": _check_webp}
    if data[:2] == b"BM" and len(data) >= 18:
        pixels, header = struct.unpack_from("<II", data, 10)
        if pixels < 14 + header:  # Pillow would show the header as pixels
            raise _damaged(path, "its pixels would begin within its header")
    if kind in checks:
        try:
            checks[kind](path, data)
        except (IndexError, struct.error):
            raise _cut_short(path) from None


def _cut_short(path: str) -> MediaError:
    return MediaError(f"{path}: is not a whole image: it is cut short")


def _damaged(path: str, reason: str) -> MediaError:
    return MediaError(f"{path}: is not a whole image: it is damaged ({reason})")


def _check_jpeg(path: str, data: bytes) -> None:
    """Checks that an end marker follows the compressed picture."""
    at = 2
    while True:
        if data[at] != 0xFF:
            raise _damaged(path, f"no marker at byte {at}")
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker == 0xDA:  # start of scan
            break
        elif marker == 0xD9:
            raise _damaged(path, "it ends before its picture")
        elif marker in (0x01, *range(0xD0, 0xD9)):  # markers without a length
            at += 2
        else:
            at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    if data.rfind(b"\xff\xd9") < at:
        raise MediaError(f"{path}: is not a whole image: it is cut short, without a marker of its end")


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yields name, start and end of each chunk to the last one. Raises struct.error if cut short."""
    at, name = len(PNG_SIGNATURE), b""
    while name != b"IEND":
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        struct.unpack_from(">I", data, end - 4)
        yield name, at, end
        at = end


def _check_png(path: str, data: bytes) -> None:
    """Checks that all chunks are there to the last one, and the checksums of those that are used."""
    for name, start, end in _png_chunks(data):
        is_used = name[:1].isupper() or name in PNG_USED_CHUNKS + PNG_ANIMATION_CHUNKS
        checksum = zlib.crc32(memoryview(data)[start + 4 : end - 4])
        if is_used and checksum != int.from_bytes(data[end - 4 : end], "big"):
            raise _damaged(path, f"the checksum of its {name.decode('latin-1')} chunk is wrong")


def png_picture(data: bytes) -> bytes:
    """Returns a whole PNG without what does not determine its (first) picture, which may be damaged."""
    used = [
        data[start:end]
        for name, start, end in _png_chunks(data)
        if name[:1].isupper() or name in PNG_USED_CHUNKS
    ]
    return b"".join([PNG_SIGNATURE, *used])


def _check_gif(path: str, data: bytes) -> None:
    """Checks that all blocks are there to the trailer."""
    at = 13 + _colour_table_bytes(data[10])
    while (block := data[at]) != 0x3B:  # trailer
        if block == 0x21:  # extension
            at += 2
        elif block == 0x2C:  # image
            at += 10 + _colour_table_bytes(data[at + 9]) + 1
        elif block == 0:  # padding between blocks
            at += 1
            continue
        else:
            raise _damaged(path, f"no block at byte {at}")
        while length := data[at]:
            at += 1 + length
        at += 1


def _colour_table_bytes(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _check_webp(path: str, data: bytes) -> None:
    """Checks that the file is as long as its header says."""
    (length,) = struct.unpack_from("<I", data, 4)
    if 8 + length > len(data):
        raise MediaError(
            f"{path}: is not a whole image: it is cut short, "
            f"with {len(data)} bytes of {8 + length} that its header promises"
        )
