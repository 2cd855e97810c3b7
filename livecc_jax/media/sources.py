"""Live sources: cameras by number (`0`, `camera:0`) and network streams by address, frame by frame.

A source ends with an exception that says how it failed. A network source is opened and read with time
limits, so that a source that hangs is noticed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from livecc_jax.errors import MediaError
from livecc_jax.media.decode import RGBConverter
from livecc_jax.media.display import display_matrix, displayed_size, pixel_aspect
from livecc_jax.media.packet_decoder import decode_packet, frame_decoder, to_microseconds
from livecc_jax.media.packets import RAW_FORMATS, check_timed
from livecc_jax.media.recordings import ContinuousClock
from livecc_jax.media.rules import DEFAULT, MediaRules
from livecc_jax.media.sampling import FPS
from livecc_jax.media.tracks import choose_track
from livecc_jax.redact import redact_address

log = logging.getLogger(__name__)

# OpenCV gives up a camera that hangs after this many seconds; without it, never.
os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "5")

CAMERA = re.compile(r"(?:camera:)?([0-9]{1,4})", re.IGNORECASE)
LIVE_SCHEMES = ("rtsp://", "rtsps://", "rtmp://", "http://", "https://", "udp://")
# Without timestamps; FFmpeg makes some up.
UNTIMED_FORMATS = (*RAW_FORMATS, "image2")
# One second is enough to detect a stream's codec; FFmpeg's default would be five seconds of lag.
FFMPEG_OPTIONS = {"analyzeduration": "1000000", "rtsp_transport": "tcp"}
END_TOLERANCE_US = 1_000_000  # a stream that stops this near its announced end is complete


class SourceError(MediaError):
    """A live source failed; it may work again later."""


class SourceStalled(SourceError):
    """No frame arrived within the time limit."""


class SourceBroken(SourceError):
    """The source cannot be opened, or its data is no video."""


class SourceEnded(SourceError):
    """The source ended by itself.

    complete: Whether its length was known in advance, and all of it was read.
    """

    def __init__(self, message: str, complete: bool = False) -> None:
        super().__init__(message)
        self.complete = complete


@dataclass(frozen=True)
class TimedPicture:
    """A picture of a live source, not yet converted.

    Attributes:
        stamp_us: The stream's own time in microseconds; None if the stream has no timestamps.
        load: Returns the picture, uint8 [H, W, 3] RGB.
        size: Height and width as displayed, where pixels may not be square; None is the picture's.
    """

    stamp_us: int | None
    load: Callable[[], np.ndarray]
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Timeouts:
    """How long opening and reading a source may take, in seconds."""

    open: float = 10.0
    read: float = 5.0


KeepPace = Callable[[int, float], None]


def wait_until_due(stamp_us: int, began: float) -> None:
    """Sleep until a recording that began at `time.monotonic()` = `began` has reached this time."""
    time.sleep(max(0.0, stamp_us / 1_000_000 - (time.monotonic() - began)))


def camera_number(source: str) -> int | None:
    """Returns the number of a camera, written `0` or `camera:0`; None for any other source.

    A file of that name is no camera.
    """
    match = CAMERA.fullmatch(source)
    return int(match[1]) if match and not os.path.isfile(source) else None


def is_live(source: str) -> bool:
    """Whether the source is a camera or a network address, and not the name of a file that exists."""
    if camera_number(source) is not None:
        return True
    return source.lower().startswith(LIVE_SCHEMES) and not os.path.isfile(source)


def read_source(
    source: str,
    timeouts: Timeouts,
    keep_pace: KeepPace = wait_until_due,
    rules: MediaRules = DEFAULT,
) -> Iterator[TimedPicture]:
    """Open a live source and yield its pictures as they arrive, until it fails or ends.

    Args:
        source: A camera number or a network address.
        timeouts: Time limits of a network source.
        keep_pace: Waits until a picture of a recording is due; called as `wait_until_due`.
        rules: Video track and pixel aspect of a network source.

    Raises:
        SourceStalled: No picture arrived in time.
        SourceBroken: The source cannot be opened or read.
        SourceEnded: The source ended by itself.
    """
    if (camera := camera_number(source)) is not None:
        return _read_camera(source, camera)
    return _read_network(source, timeouts, keep_pace, rules)


def _read_camera(source: str, number: int) -> Iterator[TimedPicture]:
    import cv2

    capture = cv2.VideoCapture(number)
    try:
        if not capture.isOpened():
            raise SourceBroken(f"{source}: the camera cannot be opened")
        while capture.grab():

            def load() -> np.ndarray:
                ok, bgr = capture.retrieve()
                if not ok:
                    raise SourceBroken(f"{source}: the camera gives no picture")
                return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)

            yield TimedPicture(None, load)
        raise SourceBroken(f"{source}: the camera stopped")
    finally:
        capture.release()


def _read_network(
    source: str, timeouts: Timeouts, keep_pace: KeepPace, rules: MediaRules
) -> Iterator[TimedPicture]:
    import av

    name = redact_address(source)  # as messages show it
    timeout, waiting_since = timeouts.open, time.monotonic()
    with contextlib.ExitStack() as stack:
        try:
            scheme, rest = source.split("://", 1)
            container = stack.enter_context(
                av.open(
                    f"{scheme.lower()}://{rest}",  # FFmpeg knows protocols in lower case alone
                    options=FFMPEG_OPTIONS,
                    metadata_errors="replace",
                    timeout=(timeouts.open, timeouts.read),
                )
            )
            try:
                stream, convert = choose_track(name, container, rules), RGBConverter(name, rules)
            except MediaError as error:
                raise SourceBroken(str(error)) from None
            decoder = frame_decoder(stream, rules)
            timed = container.format.name not in UNTIMED_FORMATS
            length = container.duration  # microseconds, or None
            check_timed(name, container, SourceBroken)
            clock = ContinuousClock(container.format.name)
            latest = 0
            timeout = timeouts.read
            opened = last_picture = waiting_since = time.monotonic()
            for packet in container.demux(stream):
                if not packet.size and packet.dts is not None:
                    continue  # it repeats a picture; a decoder would take it for the end
                for frame in decode_packet(decoder, packet):
                    stamp = None
                    if timed and frame.pts is not None:
                        stamp = to_microseconds(frame.pts - (stream.start_time or 0), stream.time_base)
                        if length:  # of a live stream, arrival says how long a restart took
                            stamp = clock.time_of(stamp)
                            keep_pace(stamp, opened)
                        latest = max(latest, stamp)
                    try:
                        orientation = convert.orientation(frame)
                    except MediaError as error:
                        raise SourceBroken(str(error)) from None
                    aspect = pixel_aspect(stream, rules, display_matrix(frame))
                    size = displayed_size(frame.height, frame.width, aspect, orientation)
                    yield TimedPicture(stamp, lambda frame=frame: convert(frame), size)
                    last_picture = waiting_since = time.monotonic()
                # A source may send bytes indefinitely without a picture among them.
                if time.monotonic() - last_picture > timeouts.read:
                    raise SourceStalled(f"{name}: no picture came for {timeouts.read:g} s")
            complete = timed and bool(length) and latest + END_TOLERANCE_US >= length
            # A transfer that breaks off is an error, so a file of known size has been read to its end.
            if timed and length and container.size > 0 and not complete:
                complete = True
                if not clock.restarts and container.format.name not in ("mpegts", "mpeg"):
                    log.warning(
                        "%s: is cut short: it holds %g s of the %g s that its header promises",
                        name, latest / 1e6, length / 1e6,
                    )  # fmt: skip
        except (av.FFmpegError, OSError) as error:
            if isinstance(error, av.error.ExitError | TimeoutError):
                raise SourceStalled(f"{name}: nothing came for {timeout:g} s") from error
            # Demuxers whose read was interrupted by the time limit report broken data or an end.
            if time.monotonic() - waiting_since >= timeout:
                raise SourceStalled(f"{name}: no picture came for {timeout:g} s") from error
            raise SourceBroken(f"{name}: cannot be read ({error.strerror})") from error
        if time.monotonic() - last_picture >= timeouts.read:  # FFmpeg may report its timeout as an end
            raise SourceStalled(f"{name}: nothing came for {timeouts.read:g} s")
        raise SourceEnded(f"{name}: the stream ended", complete)


def pace_frames(
    pictures: Iterable[np.ndarray], source: str, keep_pace: KeepPace = wait_until_due
) -> Iterator[TimedPicture]:
    """Yields the frames of a file, half a second apart, in real time, as if the file were live.

    Args:
        pictures: The frames, uint8 [H, W, 3] RGB.
        source: Name of the file, for the message at its end.
        keep_pace: Waits until a frame is due; called as `wait_until_due`.

    Raises:
        SourceEnded: All frames were read.
    """
    began = time.monotonic()
    for number, picture in enumerate(pictures):
        stamp = number * 1_000_000 // FPS
        keep_pace(stamp, began)
        yield TimedPicture(stamp, lambda picture=picture: picture)
    raise SourceEnded(f"{source}: the file ended", complete=True)
