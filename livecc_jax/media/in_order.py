"""Decodes a file that holds several recordings, one after the other, in the order of storage.

Their clocks may overlap, so that a timestamp alone does not say which frame is meant: a frame's time
follows from the recording in which it lies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from livecc_jax.media.packet_decoder import drain, frame_stamp, to_microseconds
from livecc_jax.media.recordings import RestartDetector

if TYPE_CHECKING:
    import av

# In place of the lead of a video: the file holds several recordings.
IN_ORDER = -(1 << 60)


@dataclass(frozen=True)
class Timeline:
    """Where the recordings of a file lie in time.

    Attributes:
        starts: Smallest timestamp of each, in the stream's unit.
        offsets_us: Its time in microseconds after the first frame of the file.
    """

    starts: Sequence[int]
    offsets_us: Sequence[int]


def frames_in_order(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    timeline: Timeline,
    context: av.VideoCodecContext,
    packet_decoder: Callable[[av.VideoCodecContext, av.Packet], list[av.VideoFrame]],
) -> Iterator[tuple[av.VideoFrame, int]]:
    """Yields decoded frames with their times in microseconds after the file's first frame.

    Args:
        container: The open file.
        stream: Its video stream.
        timeline: Where the recordings lie.
        context: Decodes the frames.
        packet_decoder: Decodes one packet.
    """
    detector, number = RestartDetector(container.format.name, stream.time_base), 0

    def with_times(frames: Sequence[av.VideoFrame]) -> Iterator[tuple[av.VideoFrame, int]]:
        start, offset_us = timeline.starts[number], timeline.offsets_us[number]
        for frame in frames:
            if (stamp := frame_stamp(frame)) is not None:
                yield frame, to_microseconds(stamp - start, stream.time_base) + offset_us

    for packet in container.demux(stream):
        if packet.size and detector.restarts(packet):
            # Frames that wait in the decoder belong to the recording that ends here.
            yield from with_times(drain(context))
            number += 1
        if packet.size or packet.dts is None:
            yield from with_times(packet_decoder(context, packet))
