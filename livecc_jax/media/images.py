"""Reads images: whole or not at all, turned as their metadata say, transparent parts over white.

Pillow reads them, and FFmpeg HEIC. Where an opaque image has more than 8 bits or is no RGB, OpenCV
converts it, whose rounding earlier versions of the package used.
"""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from livecc_jax.errors import MediaError
from livecc_jax.media.decode import check_file
from livecc_jax.media.heic import read_heic
from livecc_jax.media.image_checks import (
    ImageKind,
    check_whole,
    image_kind,
    png_picture,
)
from livecc_jax.media.jpeg_checks import is_jpeg_damaged

if TYPE_CHECKING:
    from PIL.Image import Image

# OpenCV writes to stderr by itself; its errors are raised as MediaError instead.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")

MAX_PIXELS = 1 << 28  # of an image; a file of a few bytes may claim to have any number
MAX_BYTES = 1 << 31  # of a file
PILLOW_FORMATS = (
    "AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "SUN", "TIFF", "WEBP",
)  # fmt: skip
READ_FORMATS = (
    "JPEG", "PNG", "WebP", "GIF", "TIFF", "AVIF", "HEIC", "JPEG 2000", "BMP", "PNM", "HDR",
)  # fmt: skip
ORIENTATION = 0x0112  # EXIF and TIFF tag
SUBFILE_TYPE = 254  # TIFF tag
EXTRA_SAMPLES, PLANAR_CONFIGURATION, BITS_PER_SAMPLE = 338, 284, 258  # TIFF tags
EIGHT_BIT_MODES = ("1", "L", "P", "RGB", "LA", "La", "PA", "RGBA", "RGBa", "RGBX")


def read_image(path: str | Path) -> np.ndarray:
    """Returns an image, of an animation the first one, as uint8 [H, W, 3] RGB.

    The EXIF orientation is applied, and transparent parts are shown over white.

    Raises:
        MediaError: The file is missing, damaged, cut short, too large, or of a format that is not read.
    """
    path = str(path)
    check_file(path)
    try:
        size = os.stat(path).st_size
        if size > MAX_BYTES:
            raise MediaError(f"{path}: is not a readable image ({size} bytes, more than {MAX_BYTES})")
        data = Path(path).read_bytes()
    except OSError as error:
        raise MediaError(f"{path}: cannot be read: {error.strerror}") from error
    kind = image_kind(data)
    if kind == "heic":
        return read_heic(path, data, MAX_PIXELS)
    check_whole(path, data, kind)
    image = _open(path, data, kind)
    if image is None:
        return _read_other(path, data)
    with image:
        # Loading applies the orientation of a TIFF and forgets it.
        orientation, frame_box = _orientation(image), _first_frame_box(image)
        if image.format == "TIFF":
            _check_tiff_layout(path, image, orientation)
        _load(path, image)
        if _is_damaged(image, data, kind):
            raise MediaError(f"{path}: is not a whole image: it is damaged")
        try:
            return _pixels(image, data, orientation, frame_box)
        except (OSError, ValueError, SyntaxError, MemoryError) as error:
            raise MediaError(f"{path}: is not a readable image ({error})") from error


def _open(path: str, data: bytes, kind: ImageKind) -> Image | None:
    """Returns the image, not yet decoded; None if Pillow does not know the format."""
    from PIL import Image, UnidentifiedImageError

    # About metadata that are not used, and sizes that are checked here.
    warnings.filterwarnings("ignore", module="PIL")
    source = png_picture(data) if kind == "png" else data
    try:
        image = Image.open(io.BytesIO(source), formats=PILLOW_FORMATS)
    except UnidentifiedImageError as error:
        if kind == "other":
            return None
        raise MediaError(f"{path}: is not a readable image: it is damaged or cut short") from error
    except Image.DecompressionBombError as error:
        raise MediaError(f"{path}: is not a readable image: it has too many pixels") from error
    except Exception as error:  # plugins raise errors of many kinds at malformed headers
        raise MediaError(f"{path}: is not a readable image ({error})") from error
    if image.width * image.height > MAX_PIXELS:
        raise MediaError(
            f"{path}: is not a readable image: it has {image.width} x {image.height} pixels, "
            f"more than {MAX_PIXELS}"
        )
    return image


def _check_tiff_layout(path: str, image: Image, orientation: int) -> None:
    """Raises MediaError for a TIFF that Pillow would decode wrongly."""
    tags = image.tag_v2
    if tags.get(SUBFILE_TYPE, 0) & 1:
        raise MediaError(
            f"{path}: is not a readable image: its first picture is a small preview of another, as in "
            "a camera's raw file; convert it to PNG or JPEG"
        )
    has_alpha = image.mode in ("LA", "La", "RGBA", "RGBa")
    is_deep = max(tags.get(BITS_PER_SAMPLE, (1,))) > 8
    if tags.get(PLANAR_CONFIGURATION) == 2 and is_deep and (has_alpha or orientation != 1):
        raise MediaError(
            f"{path}: is not a readable image: a TIFF with more than 8 bits in separate planes is read "
            "only if it is opaque and not turned"
        )


def _load(path: str, image: Image) -> None:
    """Decodes the image. Raises MediaError."""
    try:
        image.load()
    except Exception as error:  # decoders raise errors of many kinds at malformed data
        reason = str(error) or type(error).__name__
        fault = "it is cut short" if "truncated" in reason.lower() else f"its data is broken ({reason})"
        raise MediaError(f"{path}: is not a whole image: {fault}") from error


def _is_damaged(image: Image, data: bytes, kind: ImageKind) -> bool:
    """Returns whether another decoder finds damage in data that Pillow decoded."""
    if kind == "jpeg":
        return is_jpeg_damaged(data)
    # OpenCV does not read some transparent GIFs.
    is_opaque_gif = kind == "gif" and "transparency" not in image.info
    return (kind == "avif" or is_opaque_gif) and _decode_with_opencv(data) is None


def _read_other(path: str, data: bytes) -> np.ndarray:
    """Returns an image of a kind that only OpenCV knows, such as Radiance HDR. Raises MediaError."""
    rgb = _decode_with_opencv(data)
    if rgb is None:
        raise MediaError(
            f"{path}: is not a readable image: it is damaged, or of a format that is not read; those "
            f"that are read are {', '.join(READ_FORMATS)}"
        )
    if data[:2] == b"P7" and b"_ALPHA" in data[: data.find(b"ENDHDR")]:
        raise MediaError(
            f"{path}: is not a readable image: a PAM with transparency is not read; convert it to PNG"
        )
    if data[:2] in (b"II", b"MM") and _tiff_has_alpha(data):
        raise MediaError(
            f"{path}: is not a readable image: a TIFF with transparency of an unusual kind"
        )
    return rgb


def _tiff_has_alpha(data: bytes) -> bool:
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    try:
        tags = ImageFileDirectory_v2(data[:8])
        file = io.BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        return any(sample in (1, 2) for sample in tags.get(EXTRA_SAMPLES, ()))
    except Exception:  # malformed tags
        return True


def _decode_with_opencv(data: bytes) -> np.ndarray | None:
    """Returns uint8 [H, W, 3] RGB, oriented, transparency ignored; None if it cannot be decoded."""
    import cv2

    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        return None
    return None if bgr is None else cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def _orientation(image: Image) -> int:
    """Returns the EXIF orientation, 1 to 8, of an image that is not yet decoded; 1 if it has none."""
    from PIL.Image import Exif

    try:
        if image.format == "TIFF":
            value = image.tag_v2.get(ORIENTATION, 1)
        else:
            exif = Exif()
            exif.load(image.info.get("exif", b""))
            value = exif.get(ORIENTATION, 1)
    except Exception:  # malformed metadata of a good picture
        return 1
    return value if value in range(1, 9) else 1


def _first_frame_box(image: Image) -> tuple[int, int, int, int] | None:
    """Returns the part of a GIF's area that its first frame covers; None for other images."""
    return image.tile[0].extents if image.format == "GIF" and image.tile else None


def _pixels(
    image: Image, data: bytes, orientation: int, frame_box: tuple[int, int, int, int] | None
) -> np.ndarray:
    """Returns a decoded image as uint8 [H, W, 3] RGB."""
    from PIL import Image

    if image.mode == "LAB":
        raise ValueError("its colours are CIE Lab, which is not read; convert it to RGB")
    turned = image.format == "TIFF" and orientation != 1
    rgba = _with_alpha(image, data)
    if rgba is None:
        needs_opencv = image.mode not in EIGHT_BIT_MODES or (image.format == "TIFF" and not turned)
        rgb = _decode_with_opencv(data) if needs_opencv and not turned else None
        if rgb is not None:
            return rgb
        if image.mode in ("I", "F"):
            raise ValueError("32 bits a channel are not read")
        picture = _eight_bits(image).convert("RGB")
    else:
        picture = Image.new("RGB", image.size, "white")
        picture.paste(rgba, mask=rgba.getchannel("A"))
    if frame_box is not None and frame_box != (0, 0, *image.size):
        white = Image.new("RGB", image.size, "white")
        white.paste(picture.crop(frame_box), frame_box[:2])
        picture = white
    if not turned:
        picture = _turn(picture, orientation)
    return np.array(picture)


def _eight_bits(image: Image) -> Image:
    """Returns a grey image of 16 bits with its upper 8 bits, which Pillow would clip; others as is."""
    from PIL import Image

    if not image.mode.startswith("I;16"):
        return image
    return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))


def _turn(picture: Image, orientation: int) -> Image:
    from PIL.Image import Transpose

    methods = {
        2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE, 6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }  # fmt: skip
    return picture.transpose(methods[orientation]) if orientation in methods else picture


def _with_alpha(image: Image, data: bytes) -> Image | None:
    """Returns an image with transparency as RGBA; None if it has none."""
    from PIL import Image

    key = image.info.get("transparency")
    if image.format == "PNG" and key is not None and image.mode != "P":
        rgba = _eight_bits(image).convert("RGB")
        rgba.putalpha(Image.fromarray(_png_alpha(image, data, key)))
        return rgba
    if key is None and image.mode not in ("LA", "La", "PA", "RGBA", "RGBa"):
        return None
    rgba = image.convert("RGBA")
    # The alpha of a BMP is often left at zero, which means nothing.
    is_unset = image.format == "BMP" and rgba.getchannel("A").getextrema() == (0, 0)
    return None if is_unset else rgba


def _png_alpha(image: Image, data: bytes, key: int | tuple[int, int, int]) -> np.ndarray:
    """Returns uint8 [H, W], 0 where a PNG's pixels have the transparent colour and 255 elsewhere.

    Args:
        image: The decoded image, grey or RGB.
        data: Contents of the file.
        key: The transparent colour in the file's bit depth.
    """
    depth = data[24]  # bits of a channel
    if depth == 16 and image.mode == "RGB":  # Pillow keeps only the upper 8 bits
        import cv2

        flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
        values = cv2.imdecode(np.frombuffer(data, np.uint8), flags)[..., 2::-1]
    else:
        values = np.asarray(image.convert("L") if image.mode == "1" else image)
        if image.mode != "RGB" and depth < 8:  # Pillow widens the pixels, but not the key
            key = key * 255 // (2**depth - 1)
    is_key = values == np.array(key)
    is_key = is_key.all(-1) if is_key.ndim == 3 else is_key
    return np.where(is_key, 0, 255).astype(np.uint8)
