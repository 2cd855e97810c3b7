"""Pictures of a video by their times (PyAV), decoding and converting no more than they need.

Three things are left out, and none changes a pixel: what lies before the key frame that leads to the
first picture, frames that no other refers to (`skips`), and the conversion to RGB of frames that nobody
asked for. A file that does not keep what its marks promise is decoded straight from its start.
"""

from __future__ import annotations

import bisect
import heapq
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from livecc_jax.errors import MediaError
from livecc_jax.media.non_reference import NonReferenceSkipper

if TYPE_CHECKING:
    import av

TOLERANCE_US = 1_000
SEEK_FROM_US = 1_000_000  # nearer targets are reached as fast by decoding up to them
FURTHER_US = 10_000_000  # how much earlier to land when a first landing did not lead to the target
DISORDER_US = 2_000_000  # how much later a picture may come than its time says
FIRST_PACKETS = 64  # of which one must give a picture, or the codec's own size is believed


class FrameMissing(Exception):
    """The picture at a time did not come out."""


@dataclass(frozen=True)
class DecodeStrategy:
    """How to go through a file.

    Attributes:
        margin_us: how much before the first picture a seek aims; None is from the start.
        skip: leave out frames that no other refers to.
    """

    margin_us: int | None = None
    skip: bool = False


SEEKING = (DecodeStrategy(0, skip=True), DecodeStrategy(FURTHER_US, skip=True))
STRAIGHT = DecodeStrategy()


def to_microseconds(stamps: np.ndarray | int, unit: Fraction) -> np.ndarray | int:
    """Stamps in `unit` seconds to microseconds, halves up, without floating point."""
    top, bottom = unit.numerator * 1_000_000, unit.denominator
    return (2 * stamps * top + bottom) // (2 * bottom)


def open_video(path: str, threads: int = 1) -> tuple[av.container.InputContainer, av.VideoStream]:
    """A container and its first video stream, to be decoded with so many threads (0: one a core).

    Raises:
        MediaError: it cannot be opened, holds no video, or its codec is unknown here.
    """
    # PyAV's logging stays off, as it is by default: with it, decoding threads and their owner wait for
    # each other for ever.
    import av

    try:
        container = av.open(path)
    except (av.FFmpegError, OSError) as error:
        raise MediaError(f"{path}: is not a readable video ({error.strerror})") from error
    if not container.streams.video:
        container.close()
        raise MediaError(f"{path}: holds no video stream")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        container.close()
        raise MediaError(f"{path}: its video codec cannot be decoded by this build of FFmpeg")
    stream.codec_context.thread_count = threads
    stream.codec_context.thread_type = "SLICE" if threads == 1 else "AUTO"
    return container, stream


@dataclass
class FrameSizeProbe:
    """Learns a stream's size as displayed from its first picture, while packets pass by."""

    stream: av.VideoStream
    size: tuple[int, int] | None = None  # height, width
    tried: int = 0

    def feed(self, packet: av.Packet) -> None:
        """Decode a packet, unless the size is known or many packets gave nothing."""
        if self.size is None and self.tried < FIRST_PACKETS:
            self.tried += 1
            for frame in decode_packet(self.stream.codec_context, packet):
                self.size = _turned_size(frame)
                return

    def found(self) -> tuple[int, int]:
        """Height and width; from the codec's header if no picture came. (0, 0): nobody knows."""
        context = self.stream.codec_context
        return self.size or (context.height, context.width)


def decode_at(
    path: str, times_us: Sequence[int], lead_us: int = 0, threads: int = 1
) -> Iterator[np.ndarray]:
    """The pictures shown from these times on, each decoded once.

    Args:
        times_us: presentation times, strictly ascending, in microseconds after the first frame's.
        lead_us: how far the first frame comes after the stream's nominal start.
        threads: of the decoder; 0 is as many as cores.

    Yields:
        uint8 [H, W, 3] RGB, rotation applied.

    Raises:
        MediaError: one of them cannot be decoded.
    """
    left = list(times_us)
    ways = [*(SEEKING if left and left[0] >= SEEK_FROM_US else [DecodeStrategy(skip=True)]), STRAIGHT]
    for way in ways:
        try:
            for picture in decode_with(path, left, lead_us, threads, way):
                left.pop(0)
                yield picture
            return
        except FrameMissing:
            continue
    raise MediaError(f"{path}: the frame at {left[0] / 1e6:.3f} s cannot be decoded")


def decode_with(
    path: str, times_us: Sequence[int], lead_us: int, threads: int, way: DecodeStrategy
) -> Iterator[np.ndarray]:
    """As `decode_at`, in one way. Raises Missed when the next of the pictures does not come."""
    wanted = list(times_us)
    container, stream = open_video(path, threads)
    with container:
        start = stream.start_time or 0
        if way.margin_us is not None:
            _seek(container, stream, max(0, wanted[0] + lead_us - way.margin_us))
        usable = way.margin_us is None  # after a seek, only what follows a key frame
        convert, done = RGBConverter(), 0
        early: dict[int, np.ndarray] = {}
        for frame, stamp in _frames(container, stream, way, wanted, lead_us):
            at = to_microseconds(stamp - start, stream.time_base) - lead_us
            usable = usable or (frame.key_frame and not frame.is_corrupt)
            if not usable or at < wanted[done] - TOLERANCE_US:
                continue
            late = at - wanted[done]
            if way != STRAIGHT and (frame.is_corrupt or late > TOLERANCE_US):
                raise FrameMissing
            if late > DISORDER_US:
                raise FrameMissing
            if late > TOLERANCE_US:  # stamps that run backwards: the one wanted may yet come
                place = _place(wanted, at)
                if place is not None:
                    early[place] = convert(frame)
                continue
            yield convert(frame)
            done += 1
            while done in early:
                yield early.pop(done)
                done += 1
            if done == len(wanted):
                return
    raise FrameMissing


def _frames(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    way: DecodeStrategy,
    wanted: Sequence[int],
    lead_us: int,
) -> Iterator[tuple[av.VideoFrame, int]]:
    """Decoded frames with their stamps."""
    context, start = stream.codec_context, stream.start_time or 0
    skips = None
    last = start + int((wanted[-1] + lead_us) / 1_000_000 / stream.time_base)
    by_order = _stamps_are_places(container, stream)
    if by_order and way != STRAIGHT:
        raise FrameMissing
    stamps: list[int] = []
    for packet in container.demux(stream):
        stamp = packet.pts if packet.pts is not None else packet.dts
        if by_order and stamp is not None:
            heapq.heappush(stamps, stamp)
        if way.skip and stamp is not None:
            skips = skips or NonReferenceSkipper(
                container, stream, stamp if packet.dts is None else packet.dts, last
            )
            at = to_microseconds(stamp - start, stream.time_base) - lead_us
            skip = skips.may_skip(packet.dts) and _place(wanted, at) is None
            context.skip_frame = "NONREF" if skip else "DEFAULT"
        for frame in decode_packet(context, packet):
            if by_order:
                stamp = heapq.heappop(stamps) if stamps else None
            else:
                stamp = frame.pts if frame.pts is not None else frame.dts
            if stamp is not None:
                yield frame, stamp


def _stamps_are_places(container: av.container.InputContainer, stream: av.VideoStream) -> bool:
    """Whether stamps follow the order of storing: then the n-th picture shown has the n-th stamp."""
    return container.format.name == "avi" and stream.codec_context.has_b_frames


def _place(times: Sequence[int], at: int) -> int | None:
    """Which of the times it is, if any."""
    i = bisect.bisect_left(times, at - TOLERANCE_US)
    return i if i < len(times) and times[i] <= at + TOLERANCE_US else None


def _seek(container: av.container.InputContainer, stream: av.VideoStream, target_us: int) -> None:
    """To a key frame at or before the target, or, where the container cannot, nowhere."""
    import av

    offset = int(target_us / 1_000_000 / stream.time_base) + (stream.start_time or 0)
    try:
        container.seek(offset, stream=stream)
    except (av.FFmpegError, OSError) as error:
        raise FrameMissing from error


def decode_packet(context: av.VideoCodecContext, packet: av.Packet) -> list[av.VideoFrame]:
    """Frames that a packet completes; none if it is broken, for later ones may be whole."""
    import av

    try:
        return context.decode(packet)
    except (av.FFmpegError, OSError):
        return []


def _quarter_turns(frame: av.VideoFrame) -> int:
    """Counter-clockwise, as the file's metadata asks."""
    return round(frame.rotation / 90) % 4


def _turned_size(frame: av.VideoFrame) -> tuple[int, int]:
    size = (frame.height, frame.width)
    return size[::-1] if _quarter_turns(frame) % 2 else size


class RGBConverter:
    """Decoded frames to RGB as displayed; the conversion is set up once for all frames of a kind."""

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """uint8 [H, W, 3]; rows may lie apart in memory."""
        rgb = self._reformatter.reformat(frame, format="rgb24", interpolation="BICUBIC", threads=1)
        plane = rgb.planes[0]
        # Its rows are padded: this is a view of them, which keeps the memory alive.
        shape, strides = (rgb.height, rgb.width, 3), (plane.line_size, 3, 1)
        picture = np.ndarray(shape, np.uint8, plane, 0, strides)
        turns = _quarter_turns(frame)
        return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture


def check_file(path: str) -> None:
    """Raises MediaError if there is no file there, or nothing in it."""
    try:
        size = os.stat(path).st_size
    except OSError as error:
        raise MediaError(f"{path}: cannot be read: {error.strerror}") from error
    if os.path.isdir(path):
        raise MediaError(f"{path}: is a directory")
    if not size:
        raise MediaError(f"{path}: is empty")
