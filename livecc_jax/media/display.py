"""How a decoded frame is displayed: turned and mirrored by its display matrix, widened by its pixels.

A display matrix says where the right and the down direction of the stored picture point on the screen.
FFmpeg keeps the scale of a matrix in the pixel aspect ratio, so only its directions are used here.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from livecc_jax.errors import MediaError
from livecc_jax.media.rules import MediaRules

if TYPE_CHECKING:
    import av

SINE_TOLERANCE = 0.0175  # directions within one degree of the axes are taken to be the axes
# Encoders write ratios this near to one to make up for rounding the sides to whole pixels.
SQUARE_TOLERANCE = Fraction(1, 100)


@dataclass(frozen=True)
class Orientation:
    """How a stored picture is laid on the screen: first transposed, then mirrored.

    Attributes:
        transposed: Whether rows become columns.
        mirrored_columns: Whether left and right are exchanged, after the transposition.
        mirrored_rows: Whether top and bottom are exchanged, after the transposition.
        oblique: For a picture that is turned by no multiple of 90 degrees, the directions on the screen
            of its right (x, y) and down (x, y), of length 1; else None.
    """

    transposed: bool = False
    mirrored_columns: bool = False
    mirrored_rows: bool = False
    oblique: tuple[float, float, float, float] | None = None

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """Returns a picture as displayed.

        Args:
            picture: uint8 [H, W, 3] as stored; its rows may be padded in memory.

        Returns:
            uint8, [W, H, 3] if transposed, otherwise [H, W, 3]; a copy unless nothing changes.
        """
        if self.oblique is not None:
            return _turn(picture, self.oblique)
        shown = picture.transpose(1, 0, 2) if self.transposed else picture
        shown = shown[:: -1 if self.mirrored_rows else 1, :: -1 if self.mirrored_columns else 1]
        return picture if self == AS_STORED else np.ascontiguousarray(shown)


AS_STORED = Orientation()


def frame_orientation(
    name: str, frame: av.VideoFrame, rules: MediaRules, previous: Orientation = AS_STORED
) -> Orientation:
    """Returns how a decoded frame is laid on the screen.

    Args:
        name: Name of the file or address, for the error message.
        frame: A decoded frame.
        rules: How videos are read.
        previous: Orientation of the frame before. It stays until a frame has a matrix of its own, for a
            matrix in the stream itself comes with key frames alone.

    Raises:
        MediaError: The display matrix skews the picture.
    """
    if rules.version == 1:
        turns = round(frame.rotation / 90) % 4  # counter-clockwise
        return Orientation(turns % 2 == 1, turns in (2, 3), turns in (1, 2))
    matrix = display_matrix(frame)
    if matrix is None:
        return previous
    try:
        return matrix_orientation(matrix)
    except MediaError as error:
        raise MediaError(f"{name}: {error}") from None


def display_matrix(frame: av.VideoFrame) -> np.ndarray | None:
    """Returns the display matrix of a decoded frame, int32 [9]; None if it has none."""
    _name_unknown_side_data()
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            return np.frombuffer(bytes(data), np.int32)
    return None


@functools.cache
def _name_unknown_side_data() -> None:
    """Makes PyAV read the side data of frames that have some of a kind which it does not know.

    It raises ValueError at the first of them, such as the EXIF data of a camera's Motion JPEG or the
    displays of a stereo HEVC video, and says nothing of the others.
    """
    from av.sidedata.sidedata import Type

    def missing(cls: type[Type], value: Any) -> Type:
        unknown = object.__new__(cls)
        unknown._name_, unknown._value_ = f"UNKNOWN_{value}", value
        return unknown

    Type._missing_ = classmethod(missing)


def matrix_orientation(matrix: np.ndarray) -> Orientation:
    """Returns the orientation that a display matrix asks for.

    Args:
        matrix: int32 [9], three rows a, b, u; c, d, v; x, y, w: a step to the right in the stored
            picture is a step of (a, b) on the screen, and a step down is one of (c, d), y downward. A
            matrix in which a row or a column is zero shows nothing and is ignored, as players do.

    Raises:
        MediaError: Right and down are not at right angles, to within one degree.
    """
    if not _shows_something(matrix):
        return AS_STORED
    right, down = np.float64(matrix[0:2]), np.float64(matrix[3:5])
    right, down = right / np.linalg.norm(right), down / np.linalg.norm(down)
    if abs(right @ down) > SINE_TOLERANCE:
        raise MediaError(
            "its display matrix is damaged or skews the picture, which is not supported; `ffmpeg "
            "-display_rotation 0 -i IN -c copy OUT` replaces it"
        )
    if max(abs(right[1]), abs(down[0])) < SINE_TOLERANCE:
        return Orientation(False, bool(right[0] < 0), bool(down[1] < 0))
    if max(abs(right[0]), abs(down[1])) < SINE_TOLERANCE:
        return Orientation(True, bool(down[0] < 0), bool(right[1] < 0))
    return Orientation(oblique=(*right.tolist(), *down.tolist()))


def _shows_something(matrix: np.ndarray) -> bool:
    """Whether no row and no column of a matrix's directions is zero."""
    directions = matrix[[0, 1, 3, 4]].reshape(2, 2)
    return bool(directions.any(0).all() and directions.any(1).all())


def _turn(picture: np.ndarray, directions: tuple[float, float, float, float]) -> np.ndarray:
    """Turns a picture about its centre in a picture of the same size; black where nothing is shown."""
    import cv2

    height, width = picture.shape[:2]
    linear = np.array(directions).reshape(2, 2).T
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    affine = np.column_stack([linear, centre - linear @ centre])
    return cv2.warpAffine(np.ascontiguousarray(picture), affine, (width, height))


def pixel_aspect(
    stream: av.VideoStream, rules: MediaRules, matrix: np.ndarray | None = None
) -> Fraction:
    """Returns the width of a stored pixel over its height; 1 if it is nearly square or not known.

    Args:
        stream: The video stream.
        rules: How videos are read.
        matrix: Display matrix of its frames, if they have one. Where it scales the two sides
            differently, FFmpeg takes the pixel aspect from it, but that of the picture on the screen,
            which in a transposed one is the reciprocal.
    """
    if rules.aspect == "stored":
        return Fraction(1)
    ratio = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
    if matrix is not None and rules.version > 1 and _shows_something(matrix):
        scale = np.hypot(*np.float64(matrix[0:2])) / np.hypot(*np.float64(matrix[3:5]))
        if abs(scale - 1) > SQUARE_TOLERANCE:
            ratio = Fraction(scale).limit_denominator(1000)
    if not ratio or ratio <= 0 or abs(Fraction(ratio) - 1) <= SQUARE_TOLERANCE:
        return Fraction(1)
    return Fraction(ratio)


def displayed_size(
    height: int, width: int, aspect: Fraction, orientation: Orientation = AS_STORED
) -> tuple[int, int]:
    """Returns height and width of a picture as displayed; the side that is too short grows.

    Args:
        height: Height as stored, in pixels.
        width: Width as stored, in pixels.
        aspect: Width of a stored pixel over its height.
        orientation: How the picture is laid on the screen.
    """
    if aspect > 1:
        width = int(width * aspect + Fraction(1, 2))
    else:
        height = int(height / aspect + Fraction(1, 2))
    return (width, height) if orientation.transposed else (height, width)
