"""Tells which packets of a stream show a picture of their own.

Two kinds do not: hidden reference frames of VP8 and VP9, which are decoded to predict others from and
never displayed, and the second field of an interlaced H.264 frame. Their timestamps are no frame's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from livecc_jax.media.h264 import FieldPairs

if TYPE_CHECKING:
    import av


class PictureFilter:
    """Tells of each packet whether it shows a picture of its own.

    Args:
        stream: The video stream; its packets are given in the order of storage.
    """

    def __init__(self, stream: av.VideoStream) -> None:
        codec = stream.codec_context.codec.canonical_name
        self._fields = FieldPairs(stream.codec_context.extradata) if codec == "h264" else None
        self._is_shown = {"vp8": _vp8_is_shown, "vp9": _vp9_is_shown}.get(codec)

    def shows_picture(self, packet: av.Packet) -> bool:
        """Whether the packet, which is not empty, shows a picture of its own."""
        if self._is_shown is not None:
            return self._is_shown(bytes(packet))
        if self._fields is None or not (packet.is_keyframe or self._fields.may_hold_fields):
            return True
        return not self._fields.is_second_field(bytes(packet), packet.is_keyframe)


def _vp8_is_shown(data: bytes) -> bool:
    return bool(data[0] >> 4 & 1)  # RFC 6386, 9.1: show_frame


def _vp9_is_shown(data: bytes) -> bool:
    """Whether one of the frames in a packet is shown (VP9 specification, 6.2 and annex B)."""
    mark = data[-1]
    if mark >> 5 == 0b110:
        count, width = (mark & 7) + 1, (mark >> 3 & 3) + 1
        start = len(data) - 2 - count * width
        if start >= 0 and data[start] == mark:
            position, shown = 0, False
            for i in range(count):
                at = start + 1 + i * width
                if position < start:
                    shown = shown or _vp9_frame_is_shown(data[position])
                position += int.from_bytes(data[at : at + width], "little")
            return shown
    return _vp9_frame_is_shown(data[0])


def _vp9_frame_is_shown(first: int) -> bool:
    bits = [first >> i & 1 for i in range(7, -1, -1)]
    # Two bits of mark, two of the profile, one that is reserved in profile 3.
    after_profile = 5 if bits[2] and bits[3] else 4
    existing, *rest = bits[after_profile:]
    return bool(existing or rest[1])
