"""Finds the frames of a video that need not be decoded when they are not requested."""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING

import numpy as np

from livecc_jax.media.h264 import FieldPairs

if TYPE_CHECKING:
    import av

# Codecs whose frames say for certain that no other frame refers to them. HEVC frames say so only for
# their own temporal layer.
CODECS = ("h264",)
TAIL = 32  # frames before a cut that may lack references; a frame is at most 16 out of its order


class NonReferenceSkipper:
    """Tells where skipping non-reference frames changes no pixel of the other frames.

    Skipping them is exact as long as all reference frames exist. A clip that was cut without
    re-encoding may lack some before the cut, and a decoder then conceals them with whatever it decoded
    before. Such a cut leaves a gap in the decoding times. A group of pictures that ends with a gap is
    decoded completely, and so is everything in containers that do not list their frames.

    Args:
        container: An open container.
        stream: Its video stream.
        first: Decoding time of the first packet that is read.
        last: Timestamp of the last requested frame.
    """

    def __init__(
        self, container: av.container.InputContainer, stream: av.VideoStream, first: int, last: int
    ) -> None:
        self._group_starts: list[int] = []  # decoding times of key frames
        self._gapless: list[bool] = []  # whether the group that begins there ends without a gap
        self._listed_until = first - 1  # last decoding time that the container lists
        if "mp4" not in container.format.name or stream.codec_context.name not in CODECS:
            return
        if FieldPairs(stream.codec_context.extradata).may_hold_fields:
            return  # the second field of a requested frame may come in a packet of its own
        entries = stream.index_entries
        first_entry = entries.search_timestamp(first, backward=True, any_frame=True)
        stamps, keys = [], []
        for i in range(max(first_entry, 0), len(entries)):
            entry = entries[i]
            if entry.flags & 1:
                keys.append(len(stamps))
            stamps.append(entry.timestamp)
            if entry.flags & 1 and entry.timestamp > last:
                break
        if len(stamps) < 2:
            return
        steps = np.diff(stamps)
        median_step = np.median(steps)
        for start, end in zip(keys, [*keys[1:], len(stamps)], strict=True):
            self._group_starts.append(stamps[start])
            # Includes the step into the next group.
            tail = steps[max(start, end - TAIL) : end]
            self._gapless.append(bool(np.all(tail <= 1.5 * median_step)))
        self._listed_until = stamps[-1]

    def may_skip(self, decoding_time: int | None) -> bool:
        """Whether a frame with this decoding time may be skipped if it is a non-reference frame."""
        if decoding_time is None or decoding_time > self._listed_until:
            return False
        group = bisect.bisect_right(self._group_starts, decoding_time) - 1
        return group >= 0 and self._gapless[group]
