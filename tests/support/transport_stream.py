"""Writes MPEG transport streams whose packets (PES) hold several frames each."""

import struct
from collections.abc import Iterator
from pathlib import Path

import av
from av.bitstream import BitStreamFilterContext

PAT_PID, PMT_PID, VIDEO_PID = 0, 0x100, 0x101
STREAM_TYPES = {"mpeg2video": 2, "h264": 0x1B}


def write_transport_stream(source: Path, path: Path, frames_per_pes: int) -> None:
    """Copy the video of a file into a transport stream.

    Args:
        source: A file with a video stream of H.264 or MPEG-2.
        path: File to write.
        frames_per_pes: Number of frames that share a packet, which has the first one's timestamps.
    """
    with av.open(str(source)) as container:
        stream = container.streams.video[0]
        codec = stream.codec_context.codec.canonical_name
        frames = list(_frames(container, stream, codec))
    out = _Writer(STREAM_TYPES[codec])
    for i in range(0, len(frames), frames_per_pes):
        group = frames[i : i + frames_per_pes]
        out.pes(b"".join(data for data, _, _ in group), *group[0][1:])
    path.write_bytes(out.data)


def _frames(container, stream, codec) -> Iterator[tuple[bytes, int, int]]:
    """Yields each frame's bytes, and when it is displayed and decoded, in 1/90,000 s, from 1 s on."""
    convert = BitStreamFilterContext("h264_mp4toannexb" if codec == "h264" else "null", stream)
    for packet in container.demux(stream):
        for frame in convert.filter(packet if packet.dts is not None else None):
            shown, decoded = (
                90_000 + int(s * frame.time_base * 90_000) for s in (frame.pts, frame.dts)
            )
            yield bytes(frame), shown, decoded


class _Writer:
    """Splits tables and packets into pieces of 188 bytes (ISO 13818-1, 2.4.3)."""

    def __init__(self, stream_type: int) -> None:
        self.data, self._counts = b"", {}
        programs = b"\x00\xb0\x0d\x00\x01\xc1\x00\x00\x00\x01" + struct.pack(">H", 0xE000 | PMT_PID)
        streams = b"\x02\xb0\x12\x00\x01\xc1\x00\x00" + struct.pack(
            ">HHBHH", 0xE000 | VIDEO_PID, 0xF000, stream_type, 0xE000 | VIDEO_PID, 0xF000
        )
        for pid, table in ((PAT_PID, programs), (PMT_PID, streams)):
            section = b"\0" + table + struct.pack(">I", _crc32(table))
            self._piece(pid, section.ljust(184, b"\xff"), is_start=True)

    def pes(self, data: bytes, shown: int, decoded: int) -> None:
        """Writes a packet with its two timestamps."""
        stamps = _stamp(shown, 3) + _stamp(decoded, 1)
        data = b"\0\0\1\xe0\0\0\x80\xc0\x0a" + stamps + data
        is_start = True
        while data:
            data = self._piece(VIDEO_PID, data, is_start)
            is_start = False

    def _piece(self, pid: int, data: bytes, is_start: bool) -> bytes:
        """Writes one piece and returns what is left of the data."""
        count = self._counts[pid] = (self._counts.get(pid, -1) + 1) % 16
        padding = max(0, 184 - len(data))
        field = bytes([padding - 1, 0][:padding]) + b"\xff" * (padding - 2) if padding else b""
        head = struct.pack(">BHB", 0x47, is_start << 14 | pid, (0x30 if field else 0x10) | count)
        self.data += head + field + data[: 184 - len(field)]
        return data[184 - len(field) :]


def _stamp(value: int, mark: int) -> bytes:
    return bytes([
        mark << 4 | value >> 29 & 14 | 1, value >> 22 & 255, value >> 14 & 254 | 1, value >> 7 & 255,
        value << 1 & 254 | 1,
    ])  # fmt: skip


def _crc32(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc & 1 << 31 else 0)) & 0xFFFFFFFF
    return crc
