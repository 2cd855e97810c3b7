"""Decodes packets one by one (PyAV), and reads the timestamps of what comes out."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from livecc_jax.media.rules import MediaRules

if TYPE_CHECKING:
    import av

TRANSPARENT_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # by FFmpeg's name of the codec


def to_microseconds(stamps: np.ndarray | int, unit: Fraction) -> np.ndarray | int:
    """Converts timestamps in `unit` seconds to microseconds, rounding half up, in integers."""
    numerator, denominator = unit.numerator * 1_000_000, unit.denominator
    return (2 * stamps * numerator + denominator) // (2 * denominator)


def frame_decoder(stream: av.VideoStream, rules: MediaRules) -> av.VideoCodecContext:
    """Returns what decodes the frames of a stream that are shown.

    This is the stream's own decoder, except for VP8 and VP9 with transparency, which FFmpeg's own
    decoders leave out and libvpx does not.

    Args:
        stream: A video stream.
        rules: How videos are read.
    """
    import av

    own = stream.codec_context
    name = TRANSPARENT_DECODERS.get(own.codec.canonical_name)
    if name is None or rules.version == 1 or stream.metadata.get("alpha_mode") != "1":
        return own
    context = av.CodecContext.create(name, "r")
    context.thread_count = own.thread_count
    return context


def decode_packet(context: av.VideoCodecContext, packet: av.Packet | None) -> list[av.VideoFrame]:
    """Returns the frames that a packet completes; none if it is damaged. No packet is the end."""
    import av

    try:
        return context.decode(packet)
    except (av.FFmpegError, OSError):
        return []


def drain(context: av.VideoCodecContext) -> list[av.VideoFrame]:
    """Returns the frames that wait in a decoder, which is then ready for another recording."""
    frames = decode_packet(context, None)
    context.flush_buffers()
    return frames


def frame_stamp(frame: av.VideoFrame) -> int | None:
    """Returns the timestamp of a decoded frame in the stream's unit; None if it has none."""
    return frame.pts if frame.pts is not None else frame.dts


def stamps_in_storage_order(container: av.container.InputContainer, stream: av.VideoStream) -> bool:
    """Whether timestamps follow the order of storage; then the n-th displayed frame has the n-th."""
    return container.format.name == "avi" and stream.codec_context.has_b_frames
