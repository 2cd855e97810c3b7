"""Reads the timestamps of a video's packets, without decoding more than the first of them.

A file may hold several recordings, one after the other (`recordings`). Each begins with the packets
that cannot be decoded where it was cut from a longer one, up to its first key frame.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from livecc_jax.errors import MediaError
from livecc_jax.media.decode import FrameSizeProbe, file_name, open_video
from livecc_jax.media.in_order import Timeline
from livecc_jax.media.packet_decoder import (
    decode_packet,
    drain,
    frame_stamp,
    stamps_in_storage_order,
    to_microseconds,
)
from livecc_jax.media.recordings import RestartDetector
from livecc_jax.media.rules import DEFAULT, MediaRules
from livecc_jax.media.shown import PictureFilter

if TYPE_CHECKING:
    import av

REORDER = 32  # packets after a decoded frame among which an earlier displayed one may be
# Decoders of other codecs make frames up where their references are missing.
STRICT_CODECS = ("h264", "hevc", "vvc", "mpeg1video", "mpeg2video", "vp8", "vp9", "av1", "theora")
MAX_UNDECODED = 1000  # packets that are tried before a recording counts as one that cannot be decoded
# Raw streams without timestamps, by FFmpeg's name of the format, for which FFmpeg assumes a frame rate.
RAW_FORMATS = {
    "h264": "H.264",
    "hevc": "HEVC",
    "vvc": "VVC",
    "evc": "EVC",
    "obu": "AV1",
    "m4v": "MPEG-4",
    "mjpeg": "Motion JPEG",
    "mpjpeg": "Motion JPEG",
    "vc1": "VC-1",
}


@dataclass
class Recording:
    """Packets of a file up to the place where its clock starts anew.

    Attributes:
        stamps: Timestamps of the pictures, in the stream's unit, in order of storage.
        end: When the last of them ends.
        has_key: Whether one of the packets is marked as a key frame.
    """

    stamps: list[int] = field(default_factory=list)
    end: int = 0
    has_key: bool = False

    def add(self, stamp: int, duration: int) -> None:
        """Adds the picture of a packet."""
        end = stamp + duration
        self.end = max(self.end, end) if self.stamps else end
        self.stamps.append(stamp)


@dataclass(frozen=True)
class PacketScan:
    """What the packets of a video tell.

    Attributes:
        recordings: The recordings in it, in order; usually one.
        unit: Seconds of a timestamp's unit.
        start: The stream's nominal start in this unit; 0 if none is given.
        length: The stream's length in this unit according to the file's header, or None.
        size: Height and width of the pictures as displayed; 0 is unknown.
        first_decoded: Timestamp of the first frame that was decoded; None if none of the first packets
            was, or if a frame before it may have been needed.
        format_name: FFmpeg's name of the container.
        listed: Number of frames that the file lists, as MP4 does; 0 for other containers.
        missing: Number of listed frames that lie beyond the end of the file.
        storage_order: Whether timestamps are in order of storage, instead of display.
        unstamped: Number of pictures without a timestamp.
    """

    recordings: list[Recording]
    unit: Fraction
    start: int
    length: int | None
    size: tuple[int, int]
    first_decoded: int | None
    format_name: str
    listed: int
    missing: int
    storage_order: bool
    unstamped: int

    @property
    def num_stamps(self) -> int:
        """Number of pictures' timestamps."""
        return sum(len(recording.stamps) for recording in self.recordings)


def scan_packets(path: str, file_size: int, rules: MediaRules = DEFAULT) -> PacketScan:
    """Read the timestamps of a file's pictures.

    Args:
        path: Path of the file.
        file_size: Its size in bytes.
        rules: How the file is read.

    Raises:
        MediaError: The file is no video, or has no timestamps, or its codec is not supported.
        OSError: The file is damaged.
    """
    container, stream = open_video(path, rules=rules)
    with container:
        if rules.version > 1:
            check_timed(path, container)
            if rules.track is None and container.format.name == "mpegts":
                _check_streams_overlap(path, container, stream)
        detector = RestartDetector(container.format.name, stream.time_base)
        pictures = PictureFilter(stream)
        recordings, unstamped = [Recording()], 0
        size_probe = FrameSizeProbe(path, stream, rules)
        strict = stream.codec_context.codec.canonical_name in STRICT_CODECS
        for packet in container.demux(stream):
            if packet.size or packet.dts is None:  # an empty packet with a time repeats a picture
                size_probe.try_packet(packet)
            if not packet.size:
                continue
            if rules.version > 1 and detector.restarts(packet):
                recordings.append(Recording())
            recording = recordings[-1]
            recording.has_key |= packet.is_keyframe
            shown = rules.version == 1 or pictures.shows_picture(packet)
            stamp = packet.pts if packet.pts is not None else packet.dts
            if not shown or packet.is_discard:
                continue
            if stamp is None:
                unstamped += 1
            else:
                recording.add(stamp, packet.duration or 0)
        entries = stream.index_entries if "mp4" in container.format.name else ()
        return PacketScan(
            recordings,
            stream.time_base,
            stream.start_time or 0,
            stream.duration,
            size_probe.size(),
            size_probe.first_stamp if size_probe.first_is_key or strict else None,
            container.format.name,
            len(entries),
            sum(entry.pos + entry.size > file_size for entry in entries),
            stamps_in_storage_order(container, stream),
            unstamped,
        )


def check_timed(
    name: str, container: av.container.InputContainer, error: type[MediaError] = MediaError
) -> None:
    """Check that a recording has timestamps; a live stream without them is timed by its arrival.

    Args:
        name: Name of the file or address, for the error message.
        container: The open file.
        error: Class of the error.

    Raises:
        MediaError: It is a raw stream, whose length in bytes is known.
    """
    codec = RAW_FORMATS.get(container.format.name)
    if codec is not None and container.size > 0:
        raise error(
            f"{name}: is a raw {codec} stream, which holds no timestamps, so that the times of its "
            "frames are not known; put it into a container at its frame rate, such as "
            "`ffmpeg -framerate 25 -i IN -c copy OUT.mp4`"
        )


def _check_streams_overlap(
    path: str, container: av.container.InputContainer, stream: av.VideoStream
) -> None:
    """Raises MediaError if another video stream lies wholly before or after the chosen one.

    Transport streams that are joined keep their streams' numbers, so that the second recording may come
    in a stream of its own.
    """
    import av

    if len(container.streams.video) < 2:
        return
    places: dict[int, list[int]] = {}
    with av.open(file_name(path), metadata_errors="replace") as copy:
        for packet in copy.demux(video=tuple(range(len(copy.streams.video)))):
            # A stream's last packet is only read at the end of the file, wherever it lies.
            if packet.size and packet.pos is not None:
                places.setdefault(packet.stream.index, [packet.pos, packet.pos])[1] = packet.pos
    first, last = places.pop(stream.index, (0, 0))
    if any(begin > last or end < first for begin, end in places.values()):
        raise MediaError(
            f"{path}: holds several recordings in a row, each in a video stream of its own; put them "
            "into one with FFmpeg's concat demuxer, or choose one by its number as a video track"
        )


def find_first_decoded(path: str, scan: PacketScan, rules: MediaRules = DEFAULT) -> list[int | None]:
    """Decode the beginning of each recording.

    Args:
        path: Path of the file.
        scan: Its packets.
        rules: How the file is read.

    Returns:
        For each recording, the smallest timestamp of the frames that can be decoded, in the stream's
        unit; None if none could be.

    Raises:
        MediaError: The file cannot be opened.
        OSError: The file is damaged.
    """
    first: list[int | None] = [None] * len(scan.recordings)
    container, stream = open_video(path, rules=rules)
    with container:
        context = stream.codec_context
        detector = RestartDetector(container.format.name, stream.time_base)
        number, decoded, tried, trailing = 0, [], 0, 0
        for packet in container.demux(stream):
            if packet.size and detector.restarts(packet):
                decoded += [] if trailing > REORDER else map(frame_stamp, drain(context))
                first[number] = min((s for s in decoded if s is not None), default=None)
                number, decoded, tried, trailing = number + 1, [], 0, 0
            # Frames before the first key frame would be predicted from nothing.
            waits = not tried and scan.recordings[number].has_key and not packet.is_keyframe
            if waits or trailing > REORDER or (tried > MAX_UNDECODED and not decoded):
                continue
            tried += 1
            frames = decode_packet(context, packet)
            decoded += [frame_stamp(frame) for frame in frames if not frame.is_corrupt]
            trailing += bool(decoded)
            if trailing > REORDER and number == len(first) - 1:
                break
            if trailing > REORDER:
                drain(context)
        first[number] = min((s for s in decoded if s is not None), default=None)
    return first


def place_recordings(scan: PacketScan) -> tuple[np.ndarray, int, Timeline]:
    """Put the recordings of a file one after the other.

    Args:
        scan: The packets.

    Returns:
        int64 [n], ascending times of the pictures in microseconds, the first 0; the most common gap
        between them, to the millisecond; and where each recording lies on this timeline.
    """
    stamps = [np.unique(np.array(recording.stamps, np.int64)) for recording in scan.recordings]
    starts = [int(s[0]) if len(s) else 0 for s in stamps]
    times = [to_microseconds(s - start, scan.unit) for s, start in zip(stamps, starts, strict=True)]
    gap = common_gap(np.concatenate([np.diff(t) for t in times]))
    offsets, offset = [], 0
    for recording in times:
        offsets.append(offset)
        offset += int(recording[-1]) + gap if len(recording) else 0
    placed = np.concatenate([t + o for t, o in zip(times, offsets, strict=True)])
    return placed, gap, Timeline(starts, offsets)


def common_gap(gaps_us: np.ndarray) -> int:
    """Returns the most common gap, to the millisecond (a container may alternate 33 and 34 ms).

    Args:
        gaps_us: int64 [n], gaps between successive frames in microseconds; 0 is returned for none.
    """
    if not len(gaps_us):
        return 0
    in_ms = (gaps_us + 500) // 1000
    counts = Counter(in_ms.tolist())
    most_common = max(counts, key=lambda ms: (counts[ms], -ms))
    # The exact gap is finer than a millisecond: 41,667 us at 24 FPS, not 42,000.
    return round(float(np.mean(gaps_us[in_ms == most_common])))
