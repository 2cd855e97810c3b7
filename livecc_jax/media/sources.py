"""Live sources: cameras by number, network streams by address. Each opens, gives pictures, and fails.

How it failed has a name. A network source is opened and read with time limits, so that one that hangs
is noticed.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from livecc_jax.errors import MediaError
from livecc_jax.media.decode import RGBConverter, decode_packet, to_microseconds
from livecc_jax.media.sampling import FPS

# A camera that hangs is given up after so many seconds, instead of never.
os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "5")

LIVE_SCHEMES = ("rtsp://", "rtsps://", "rtmp://", "http://", "https://", "udp://")
UNTIMED = ("mpjpeg", "mjpeg", "image2")  # formats without timestamps: FFmpeg makes some up
# One second is enough to find a stream's codec; FFmpeg's own five would be five seconds of lag.
OPTIONS = {"analyzeduration": "1000000", "rtsp_transport": "tcp"}
NEARLY_US = 1_000_000  # a stream that stops so near its announced end has ended


class SourceError(MediaError):
    """A live source failed; it may come back."""


class SourceStalled(SourceError):
    """Nothing came within the time limit."""


class SourceBroken(SourceError):
    """It cannot be opened, or what comes is no video."""


class SourceEnded(SourceError):
    """It ended by itself. over: it had said how long it would be, and that was all of it."""

    def __init__(self, message: str, over: bool = False) -> None:
        super().__init__(message)
        self.over = over


@dataclass(frozen=True)
class TimedPicture:
    """A picture that came: its stream's own time in microseconds, if it has one, and how to get it."""

    stamp_us: int | None
    picture: Callable[[], np.ndarray]  # uint8 [H, W, 3] RGB


@dataclass(frozen=True)
class Timeouts:
    """How long a source may take, in seconds."""

    open: float = 10.0
    read: float = 5.0


def is_live(source: str) -> bool:
    """Whether the source is a camera number or a network address."""
    return source.isdigit() or source.lower().startswith(LIVE_SCHEMES)


def read_source(source: str, limits: Timeouts) -> Iterator[TimedPicture]:
    """Open a live source and give its pictures as they come, until it fails or ends.

    Raises:
        SourceStalled, SourceBroken, SourceEnded: always one of them, at the end.
    """
    return _camera(source) if source.isdigit() else _network(source, limits)


def _camera(source: str) -> Iterator[TimedPicture]:
    import cv2

    capture = cv2.VideoCapture(int(source))
    try:
        if not capture.isOpened():
            raise SourceBroken(f"{source}: the camera cannot be opened")
        while capture.grab():

            def picture() -> np.ndarray:
                ok, bgr = capture.retrieve()
                if not ok:
                    raise SourceBroken(f"{source}: the camera gives no picture")
                return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)

            yield TimedPicture(None, picture)
        raise SourceBroken(f"{source}: the camera stopped")
    finally:
        capture.release()


def _network(source: str, limits: Timeouts) -> Iterator[TimedPicture]:
    import av

    limit = limits.open
    with contextlib.ExitStack() as stack:
        try:
            container = stack.enter_context(
                av.open(source, options=OPTIONS, timeout=(limits.open, limits.read))
            )
            videos = container.streams.video
            if not videos or videos[0].codec_context is None:
                raise SourceBroken(f"{source}: holds no video that can be decoded")
            stream, convert = videos[0], RGBConverter()
            timed = container.format.name not in UNTIMED
            length = container.duration  # microseconds, or None
            latest = 0
            limit = limits.read
            opened = began = time.monotonic()
            for packet in container.demux(stream):
                for frame in decode_packet(stream.codec_context, packet):
                    stamp = None
                    if timed and frame.pts is not None:
                        stamp = to_microseconds(frame.pts - (stream.start_time or 0), stream.time_base)
                        latest = max(latest, stamp)
                        if length:
                            _keep_pace(stamp, opened)
                    yield TimedPicture(stamp, lambda frame=frame: convert(frame))
                    began = time.monotonic()
                # Bytes may come for ever without a picture among them.
                if time.monotonic() - began > limits.read:
                    raise SourceStalled(f"{source}: no picture came for {limits.read:g} s")
        except (av.FFmpegError, OSError) as error:
            if isinstance(error, av.error.ExitError | TimeoutError):
                raise SourceStalled(f"{source}: nothing came for {limit:g} s") from error
            raise SourceBroken(f"{source}: cannot be read ({error.strerror})") from error
        if time.monotonic() - began >= limits.read:  # FFmpeg may take its own time limit for an end
            raise SourceStalled(f"{source}: nothing came for {limits.read:g} s")
        over = timed and bool(length) and latest + NEARLY_US >= length
        raise SourceEnded(f"{source}: the stream ended", over)


def pace_frames(pictures: Iterable[np.ndarray], source: str) -> Iterator[TimedPicture]:
    """Pictures half a second apart as if they came live: a file at its own pace.

    Raises SourceEnded when they are over.
    """
    began = time.monotonic()
    for number, picture in enumerate(pictures):
        stamp = number * 1_000_000 // FPS
        _keep_pace(stamp, began)
        yield TimedPicture(stamp, lambda picture=picture: picture)
    raise SourceEnded(f"{source}: the file ended", over=True)


def _keep_pace(stamp_us: int, began: float) -> None:
    """Wait until a recording that began then has come so far."""
    time.sleep(max(0.0, stamp_us / 1_000_000 - (time.monotonic() - began)))
