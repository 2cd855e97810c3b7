"""Which frames of a video need not be decoded when they are not to be shown."""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import av

# Codecs whose pictures say for certain that no other refers to them. HEVC's say so only of their own
# temporal layer.
CODECS = ("h264",)
TAIL = 32  # frames before a cut that may lack references: none is more than 16 out of its order


class NonReferenceSkipper:
    """Where leaving out frames that no other refers to changes no pixel of the others.

    It changes nothing as long as all references are there. A clip that was cut without encoding it
    anew may lack some before the cut, and a decoder then invents something out of whatever it decoded
    before. Such a cut leaves a gap in the decoding times; a group of pictures that ends with one is
    decoded whole, and so is everything in containers that do not list their frames.

    Args:
        container, stream: an open video.
        first: decoding time of the first packet that is read.
        last: stamp of the last picture wanted.
    """

    def __init__(
        self, container: av.container.InputContainer, stream: av.VideoStream, first: int, last: int
    ) -> None:
        self._starts: list[int] = []  # decoding times of key frames
        self._whole: list[bool] = []  # whether the group that begins there ends without a gap
        self._end = first - 1  # what is known ends here
        if "mp4" not in container.format.name or stream.codec_context.name not in CODECS:
            return
        entries = stream.index_entries
        at = entries.search_timestamp(first, backward=True, any_frame=True)
        stamps, keys = [], []
        for i in range(max(at, 0), len(entries)):
            entry = entries[i]
            if entry.flags & 1:
                keys.append(len(stamps))
            stamps.append(entry.timestamp)
            if entry.flags & 1 and entry.timestamp > last:
                break
        if len(stamps) < 2:
            return
        steps = np.diff(stamps)
        usual = np.median(steps)
        for start, end in zip(keys, [*keys[1:], len(stamps)], strict=True):
            self._starts.append(stamps[start])
            # The step into the next group counts as well.
            tail = steps[max(start, end - TAIL) : end]
            self._whole.append(bool(np.all(tail <= 1.5 * usual)))
        self._end = stamps[-1]

    def may_skip(self, decoded_at: int | None) -> bool:
        """Whether a frame of this decoding time may be left out if nobody refers to it."""
        if decoded_at is None or decoded_at > self._end:
            return False
        group = bisect.bisect_right(self._starts, decoded_at) - 1
        return group >= 0 and self._whole[group]
