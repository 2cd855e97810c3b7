"""Encodes and remuxes videos for tests, with any timestamps, codec and container."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def pattern(number: int, height: int, width: int) -> np.ndarray:
    """Returns a picture that moves with its number, uint8 [height, width, 3]."""
    y, x = np.mgrid[:height, :width]
    moved = 128 + 60 * np.sin((x + 3 * number) / 9) + 60 * np.cos((y - 2 * number) / 7)
    return np.stack([moved, moved[::-1], np.full_like(moved, 40 + number * 5 % 200)], -1).astype(
        np.uint8
    )


def make_video(
    path: Path,
    stamps_ms: Iterable[int],
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    last_ms: int | None = None,
    size: tuple[int, int] = (64, 80),
    pix_fmt: str = "yuv420p",
    frame_rate: int | None = None,
) -> Path:
    """Encode a moving pattern at these timestamps.

    Args:
        path: File to write; its extension selects the container.
        stamps_ms: Timestamps in milliseconds.
        codec: FFmpeg's name of the encoder.
        options: Options of the encoder.
        last_ms: How long the last frame is shown, in milliseconds.
        size: Height and width.
        pix_fmt: FFmpeg's name of the pixel format.
        frame_rate: Frame rate whose period divides all timestamps; None allows any timestamps.
    """
    stamps = list(stamps_ms)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            codec, rate=frame_rate or 30, options=options or {"preset": "ultrafast"}
        )
        stream.height, stream.width = size
        stream.pix_fmt = pix_fmt
        unit = Fraction(1, frame_rate or 1000)
        stream.codec_context.time_base = stream.time_base = unit
        packets = []
        for number, stamp in enumerate(stamps):
            frame = av.VideoFrame.from_ndarray(pattern(number, *size), format="rgb24")
            frame = frame.reformat(format=pix_fmt)
            frame.pts, frame.time_base = int(Fraction(stamp, 1000) / unit), unit
            packets += stream.encode(frame)
        packets += stream.encode()
        if last_ms is not None:
            packets[-1].duration = last_ms
        container.mux(packets)
    return path


def remux(
    source: av.container.InputContainer,
    path: Path,
    options: dict[str, str] | None = None,
    later: int = 0,
) -> None:
    """Copy the video stream into another container, its timestamps `later` seconds later."""
    stream = source.streams.video[0]
    with av.open(str(path), "w", options=options or {}) as copy:
        out = copy.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.pts += int(later / stream.time_base)
                packet.dts += int(later / stream.time_base)
                packet.stream = out
                copy.mux(packet)
