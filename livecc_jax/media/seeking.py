"""Finds where decoding has to begin for a frame in the middle of a video."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import av

# In a program stream, several frames may share one timestamp's packet. FFmpeg counts on from the last
# timestamp that it has read, so that after a seek it gives frames other times than from the start.
WITHOUT_SEEKING = ("mpeg",)
MAX_HELD_BYTES = 1 << 28  # packets since the last key frame; without key frames decoding begins earlier


class FrameMissing(Exception):
    """The frame at a time was not decoded."""


def packets_from(
    container: av.container.InputContainer, stream: av.VideoStream, target_us: int
) -> Iterator[av.Packet]:
    """Yields the packets from a key frame at or before a time on.

    Args:
        container: An open container of which nothing has been read.
        stream: Its video stream.
        target_us: Time in microseconds after the stream's nominal start.

    Raises:
        FrameMissing: The container cannot be searched.
    """
    import av

    target = int(target_us / 1_000_000 / stream.time_base) + (stream.start_time or 0)
    if container.format.name in WITHOUT_SEEKING:
        yield from _without_seeking(container, stream, target)
        return
    try:
        container.seek(target, stream=stream)
    except (av.FFmpegError, OSError) as error:
        raise FrameMissing from error
    yield from container.demux(stream)


def _without_seeking(
    container: av.container.InputContainer, stream: av.VideoStream, target: int
) -> Iterator[av.Packet]:
    """Reads all packets, and yields those from the last but one key frame before a timestamp on.

    Where frames share a timestamp, the last key frame may be displayed after the target.
    """
    packets = container.demux(stream)
    before: list[av.Packet] = []
    group: list[av.Packet] = []
    held_bytes = 0
    for packet in packets:
        stamp = packet.pts if packet.pts is not None else packet.dts
        if packet.is_keyframe and stamp is not None and stamp <= target:
            before, group = group, []
            held_bytes = sum(held.size for held in before)
        group.append(packet)
        held_bytes += packet.size
        # No frame that is stored before a key frame is displayed after it.
        if held_bytes > MAX_HELD_BYTES or (stamp is not None and stamp > target):
            break
    yield from before
    yield from group
    yield from packets
