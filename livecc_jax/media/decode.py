"""Decodes the frames of a video at given times (PyAV), and no more than they need.

Three kinds of work are left out, none of which changes a pixel: decoding before the key frame that
leads to the first requested frame, decoding of non-reference frames (`non_reference`), and conversion
to RGB of frames that are not requested. When that fails, as with wrong key frame flags, the file is
decoded from its start instead.
"""

from __future__ import annotations

import bisect
import heapq
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from livecc_jax.errors import MediaError
from livecc_jax.media.display import (
    AS_STORED,
    Orientation,
    display_matrix,
    displayed_size,
    frame_orientation,
    pixel_aspect,
)
from livecc_jax.media.in_order import Timeline, frames_in_order
from livecc_jax.media.non_reference import NonReferenceSkipper
from livecc_jax.media.packet_decoder import (
    decode_packet,
    frame_decoder,
    frame_stamp,
    stamps_in_storage_order,
    to_microseconds,
)
from livecc_jax.media.rules import DEFAULT, MediaRules
from livecc_jax.media.seeking import FrameMissing, packets_from
from livecc_jax.media.shown import PictureFilter
from livecc_jax.media.tracks import choose_track
from livecc_jax.media.transparency import over_white

if TYPE_CHECKING:
    import av

    PacketDecoder = Callable[[av.VideoCodecContext, av.Packet], list[av.VideoFrame]]

# Times are rounded to microseconds, twice. Frames may be a millisecond apart, so that a larger
# tolerance would take one for another.
TOLERANCE_US = 10
SEEK_FROM_US = 1_000_000  # decoding up to earlier targets is as fast as a seek
RETRY_MARGIN_US = 10_000_000  # how much earlier to seek when the first seek missed the target
MAX_DISORDER_US = 2_000_000  # how much later than its timestamp a frame may be decoded
SIZE_PACKETS = 64  # packets to decode for the size, before the codec's header is used instead


@dataclass(frozen=True)
class DecodeStrategy:
    """How to decode a file.

    Attributes:
        seek_margin_us: How far before the first requested frame to seek; None decodes from the start.
        skip_non_reference: Do not decode frames that no other frame refers to.
    """

    seek_margin_us: int | None = None
    skip_non_reference: bool = False


DECODE_ALL = DecodeStrategy()


def open_video(
    path: str, threads: int = 1, rules: MediaRules = DEFAULT
) -> tuple[av.container.InputContainer, av.VideoStream]:
    """Open a file.

    Args:
        path: Path of the file.
        threads: Decoding threads; 0 uses one thread per core.
        rules: Which video track is opened.

    Returns:
        The container and its video stream.

    Raises:
        MediaError: The file cannot be opened, holds no video, or its codec is not supported.
    """
    # PyAV's logging must stay off, which is its default: it makes decoding threads and the thread that
    # owns them wait for each other indefinitely.
    import av

    try:
        # Titles in other encodings than UTF-8 are common in old files; they are not used.
        container = av.open(file_name(path), metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        raise MediaError(f"{path}: is not a readable video ({error.strerror})") from error
    try:
        stream = choose_track(path, container, rules)
    except MediaError:
        container.close()
        raise
    stream.codec_context.thread_count = threads
    stream.codec_context.thread_type = "SLICE" if threads == 1 else "AUTO"
    return container, stream


@dataclass
class FrameSizeProbe:
    """Finds the displayed size of a stream's frames from its first packets."""

    name: str  # of the file, for error messages
    stream: av.VideoStream
    rules: MediaRules = DEFAULT
    frame_size: tuple[int, int] | None = None  # height, width
    first_stamp: int | None = None  # timestamp of the first frame, in the stream's unit
    first_is_key: bool = False  # whether no other frame is needed to decode it
    num_decoded: int = 0

    def try_packet(self, packet: av.Packet) -> None:
        """Decode a packet, unless the size is known or many packets held no frame."""
        if self.frame_size is None and self.num_decoded < SIZE_PACKETS:
            self.num_decoded += 1
            for frame in decode_packet(self.stream.codec_context, packet):
                aspect = pixel_aspect(self.stream, self.rules, display_matrix(frame))
                orientation = frame_orientation(self.name, frame, self.rules)
                self.frame_size = displayed_size(frame.height, frame.width, aspect, orientation)
                self.first_stamp, self.first_is_key = frame_stamp(frame), bool(frame.key_frame)
                return

    def size(self) -> tuple[int, int]:
        """Returns height and width, from the codec's header if no frame was decoded; 0 is unknown."""
        context, aspect = self.stream.codec_context, pixel_aspect(self.stream, self.rules)
        return self.frame_size or displayed_size(context.height, context.width, aspect)


def decode_at(
    path: str,
    times_us: Sequence[int],
    lead_us: int = 0,
    threads: int = 1,
    rules: MediaRules = DEFAULT,
    *,
    seek_from_us: int = SEEK_FROM_US,
    retry_margin_us: int = RETRY_MARGIN_US,
    packet_decoder: PacketDecoder | None = None,
    timeline: Timeline | None = None,
) -> Iterator[np.ndarray]:
    """Decode the frames with these timestamps, each once.

    Args:
        path: Path of the video.
        times_us: Timestamps, strictly ascending, in microseconds after the first frame's timestamp.
        lead_us: How far the first frame comes after the stream's nominal start.
        threads: Decoding threads; 0 uses one thread per core.
        rules: How videos are read.
        seek_from_us: Seek when the first timestamp is at least this large.
        retry_margin_us: How much earlier to seek when the first seek missed the target.
        packet_decoder: Decodes one packet; None is `decode_packet`.
        timeline: Where the recordings of the file lie, if there are several.

    Yields:
        uint8 [H, W, 3] RGB, turned and mirrored as displayed; pixels as wide as stored.

    Raises:
        MediaError: A frame cannot be decoded.
    """
    remaining = list(times_us)
    seek = remaining and remaining[0] >= seek_from_us
    margins = [0, retry_margin_us] if seek else [None]
    strategies = [*(DecodeStrategy(m, skip_non_reference=True) for m in margins), DECODE_ALL]
    for strategy in strategies if timeline is None else [DECODE_ALL]:
        try:
            frames = decode_with(
                path, remaining, lead_us, threads, strategy, packet_decoder, rules, timeline
            )
            for frame in frames:
                remaining.pop(0)
                yield frame
            return
        except FrameMissing:
            continue
    raise MediaError(f"{path}: the frame at {remaining[0] / 1e6:.3f} s cannot be decoded")


def decode_with(
    path: str,
    times_us: Sequence[int],
    lead_us: int,
    threads: int,
    strategy: DecodeStrategy,
    packet_decoder: PacketDecoder | None = None,
    rules: MediaRules = DEFAULT,
    timeline: Timeline | None = None,
) -> Iterator[np.ndarray]:
    """As `decode_at`, with one strategy. Raises FrameMissing when the next frame is not decoded."""
    times = list(times_us)
    container, stream = open_video(path, threads, rules)
    with container:
        # After a seek, frames are complete from the first key frame on.
        complete = strategy.seek_margin_us is None
        convert, num_yielded = RGBConverter(path, rules), 0
        early: dict[int, np.ndarray] = {}  # frames that were decoded before an earlier one
        decoder = packet_decoder or decode_packet
        if timeline is None:
            decoded = _decoded_frames(container, stream, strategy, times, lead_us, decoder, rules)
        else:
            context = frame_decoder(stream, rules)
            decoded = frames_in_order(container, stream, timeline, context, decoder)
        for frame, time_us in decoded:
            convert.orientation(frame)
            complete = complete or (frame.key_frame and not frame.is_corrupt)
            if not complete or time_us < times[num_yielded] - TOLERANCE_US:
                continue
            late_us = time_us - times[num_yielded]
            if strategy != DECODE_ALL and (frame.is_corrupt or late_us > TOLERANCE_US):
                raise FrameMissing
            if late_us > MAX_DISORDER_US:
                raise FrameMissing
            if late_us > TOLERANCE_US:  # timestamps out of order: the requested frame may still come
                index = _index_of_time(times, time_us)
                if index is not None:
                    early[index] = convert(frame)
                continue
            yield convert(frame)
            num_yielded += 1
            while num_yielded in early:
                yield early.pop(num_yielded)
                num_yielded += 1
            if num_yielded == len(times):
                return
    raise FrameMissing


def _decoded_frames(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    strategy: DecodeStrategy,
    times: Sequence[int],
    lead_us: int,
    packet_decoder: PacketDecoder,
    rules: MediaRules,
) -> Iterator[tuple[av.VideoFrame, int]]:
    """Yields decoded frames with their times in microseconds after the first frame."""
    context, start = frame_decoder(stream, rules), stream.start_time or 0
    skipper = None
    last = start + int((times[-1] + lead_us) / 1_000_000 / stream.time_base)
    in_storage_order = stamps_in_storage_order(container, stream)
    pictures = PictureFilter(stream)
    if in_storage_order and strategy != DECODE_ALL:
        raise FrameMissing
    stamps: list[int] = []
    packets = container.demux(stream)
    if strategy.seek_margin_us is not None:
        packets = packets_from(container, stream, max(0, times[0] + lead_us - strategy.seek_margin_us))
    for packet in packets:
        stamp = packet.pts if packet.pts is not None else packet.dts
        if not packet.size and stamp is not None:
            continue  # an empty packet repeats a picture; a decoder would take it for the end
        if in_storage_order and packet.size and stamp is not None and pictures.shows_picture(packet):
            heapq.heappush(stamps, stamp)
        if strategy.skip_non_reference and stamp is not None:
            if skipper is None:
                first = stamp if packet.dts is None else packet.dts
                skipper = NonReferenceSkipper(container, stream, first, last)
            time_us = to_microseconds(stamp - start, stream.time_base) - lead_us
            skip = skipper.may_skip(packet.dts) and _index_of_time(times, time_us) is None
            context.skip_frame = "NONREF" if skip else "DEFAULT"
        for frame in packet_decoder(context, packet):
            if in_storage_order:
                stamp = heapq.heappop(stamps) if stamps else None
            else:
                stamp = frame_stamp(frame)
            if stamp is not None:
                yield frame, to_microseconds(stamp - start, stream.time_base) - lead_us


def _index_of_time(times: Sequence[int], time_us: int) -> int | None:
    """Returns the index of a time in ascending times, within the tolerance; None if it is absent."""
    i = bisect.bisect_left(times, time_us - TOLERANCE_US)
    return i if i < len(times) and times[i] <= time_us + TOLERANCE_US else None


class RGBConverter:
    """Converts decoded frames to RGB, turned and mirrored as displayed.

    Frames of one format share one conversion setup.

    Args:
        name: Name of the file or address, for error messages.
        rules: How videos are read.
    """

    def __init__(self, name: str, rules: MediaRules = DEFAULT) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter, self._name, self._rules = VideoReformatter(), name, rules
        self._orientation = AS_STORED

    def orientation(self, frame: av.VideoFrame) -> Orientation:
        """Returns how a frame is laid on the screen; to be called with every frame that is decoded.

        Raises:
            MediaError: Its display matrix skews the picture.
        """
        self._orientation = frame_orientation(self._name, frame, self._rules, self._orientation)
        return self._orientation

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """Returns uint8 [H, W, 3]; its rows may be padded in memory."""
        turn = self.orientation(frame)
        if self._rules.version > 1 and (picture := over_white(frame, self._reformatter)) is not None:
            return turn.apply(picture)
        rgb = self._reformatter.reformat(frame, format="rgb24", interpolation="BICUBIC", threads=1)
        plane = rgb.planes[0]
        # The plane's rows are padded. This view of them keeps the memory alive.
        shape, strides = (rgb.height, rgb.width, 3), (plane.line_size, 3, 1)
        picture = np.ndarray(shape, np.uint8, plane, 0, strides)
        return turn.apply(picture)


def file_name(path: str) -> str:
    """Returns a file's path so that FFmpeg takes no part of it for a protocol, as in `12:30.mp4`.

    Only the beginning of a relative path can be taken for one.
    """
    return path if os.path.isabs(path) else os.path.join(os.curdir, path)


def check_file(path: str) -> None:
    """Raises MediaError if the file does not exist or is empty."""
    try:
        size = os.stat(path).st_size
    except OSError as error:
        raise MediaError(f"{path}: cannot be read: {error.strerror}") from error
    if os.path.isdir(path):
        raise MediaError(f"{path}: is a directory")
    if not size:
        raise MediaError(f"{path}: is empty")
