"""Images of many formats; OpenCV decodes them independently, as far as it reads them."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from livecc_jax.media.images import read_image
from tests.fuzz.reader import Reader, all_files
from tests.support.media import pattern

# Decoders round colours and upsample chroma in ways of their own.
MAX_MEAN_DIFFERENCE = 4.0
SHAPE = (40, 56, 3)


def _prepare(folder: Path) -> None:
    rgb = Image.fromarray(pattern(3, *SHAPE[:2]))
    alpha = rgb.convert("RGBA")
    alpha.putalpha(Image.fromarray(np.tile(np.arange(56, dtype=np.uint8) * 4, (40, 1))))
    turned = Image.Exif()
    turned[0x0112] = 6
    rgb.save(folder / "rgb.png")
    alpha.save(folder / "alpha.png")
    rgb.convert("P").save(folder / "palette.png", transparency=3)
    rgb.save(folder / "plain.jpg", quality=90)
    rgb.save(folder / "turned.jpg", quality=90, exif=turned)
    rgb.save(folder / "progressive.jpg", progressive=True)
    rgb.save(folder / "plain.bmp")
    rgb.save(folder / "plain.tiff")
    rgb.save(folder / "packed.tiff", compression="tiff_lzw", exif=turned)
    rgb.convert("P").save(folder / "plain.gif")
    rgb.save(folder / "plain.webp", lossless=True)
    alpha.save(folder / "alpha.webp")
    rgb.save(folder / "plain.ppm")
    rgb.save(folder / "plain.avif", quality=80)


def _read(folder: Path, file: str):
    return read_image(folder / file)


def _differs(folder: Path, file: str, value) -> str:
    if value.dtype != np.uint8 or value.ndim != 3 or value.shape[2] != 3 or not value.size:
        return f"is {value.dtype} {value.shape}"
    data = np.frombuffer((folder / file).read_bytes(), np.uint8)
    if Path(file).stem not in ("rgb", "plain", "turned", "progressive"):
        return ""  # OpenCV lays transparent pictures over nothing, and forgets the turn of a TIFF
    try:
        bgr = cv2.imdecode(data, cv2.IMREAD_COLOR)
    except cv2.error:
        bgr = None
    if bgr is None:
        return ""  # OpenCV refuses more than it has to, such as a wrong length of a comment
    expected = bgr[..., ::-1]
    if file == "plain.ppm" and data.tobytes().split(maxsplit=4)[3] != b"255":
        return ""  # values above the largest that the header gives mean nothing
    if file == "plain.gif" and value.shape != SHAPE:
        return ""  # around a picture that does not fill its canvas we show white, OpenCV a colour
    if file == "turned.jpg" and value.shape == SHAPE:  # a damaged orientation is ignored
        expected = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)[..., ::-1]
    if expected.shape != value.shape:
        return f"is {value.shape}, by OpenCV {expected.shape}"
    difference = np.abs(value.astype(int) - expected).mean()
    return (
        ""
        if difference <= MAX_MEAN_DIFFERENCE
        else f"differs from OpenCV by {difference:.1f} on average"
    )


READER = Reader("images", _prepare, all_files, _read, _differs, share=1.2, fast=50)
