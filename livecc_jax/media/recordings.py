"""Finds where a stream's clock starts anew: one file or address may hold several recordings in a row.

Transport streams are joined with `cat`, an encoder reconnects, a receiver is restarted. The recordings
then follow each other in the order in which they are read, without a gap and without an overlap.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import av

BACKWARD_US = 200_000  # a clock that falls back further than this was started anew
DISORDER_US = 5_000_000  # the same for timestamps that need not be stored in order
# A clock that is this far ahead of the packet before was started anew, too. Pictures of a transport or
# program stream are never that far apart (ISO 13818-1, 2.7.4); elsewhere such a gap is a still picture.
FORWARD_US = {"mpegts": 10_000_000, "mpeg": 10_000_000, "flv": 3_600_000_000}
# Containers that store the time at which each packet is decoded; in others FFmpeg derives it.
WITH_DECODING_TIMES = ("mpegts", "mpeg", "flv")


class RestartDetector:
    """Tells which packets begin a new recording, from the packets in the order in which they are read.

    Args:
        format_name: FFmpeg's name of the container.
        unit: Seconds of a timestamp's unit.
    """

    def __init__(self, format_name: str, unit: Fraction) -> None:
        self._unit = unit
        self._indexed = "mp4" in format_name  # its index puts all frames on one timeline
        self._decoding_times = format_name in WITH_DECODING_TIMES
        self._forward_us = FORWARD_US.get(format_name)
        self._latest: int | None = None

    def restarts(self, packet: av.Packet) -> bool:
        """Whether the packet begins a new recording. To be called with each packet, in order."""
        if self._decoding_times:
            stamp = packet.pts if packet.dts is None else packet.dts
        else:
            stamp = packet.dts if packet.pts is None else packet.pts
        if stamp is None or self._indexed:
            return False
        latest, self._latest = self._latest, stamp
        if latest is None:
            return False
        ahead_us = (stamp - latest) * self._unit * 1_000_000
        if self._forward_us is not None and ahead_us > self._forward_us:
            return True
        if self._decoding_times:
            return ahead_us < -BACKWARD_US
        # A key frame is displayed after all frames that are stored before it.
        if ahead_us < -(BACKWARD_US if packet.is_keyframe else DISORDER_US):
            return True
        self._latest = max(stamp, latest)
        return False


class ContinuousClock:
    """Puts the pictures of a live stream, whose clock may start anew, on one continuous timeline.

    Args:
        format_name: FFmpeg's name of the container.
    """

    def __init__(self, format_name: str) -> None:
        self._forward_us = FORWARD_US.get(format_name)
        self._shift_us = 0
        self._latest_us: int | None = None  # the stream's own time of the latest picture
        self._step_us = 0  # between the latest two pictures
        self.restarts = 0

    def time_of(self, stamp_us: int) -> int:
        """Returns the time of the next picture in microseconds, its own in a continuous stream.

        Args:
            stamp_us: The stream's own time of the picture in microseconds.
        """
        if self._latest_us is not None:
            ahead_us = stamp_us - self._latest_us
            too_far = self._forward_us is not None and ahead_us > self._forward_us
            if too_far or ahead_us < -BACKWARD_US:
                self._shift_us += self._latest_us + self._step_us - stamp_us
                self.restarts += 1
            elif ahead_us > 0:
                self._step_us = ahead_us
        self._latest_us = stamp_us
        return stamp_us + self._shift_us
