"""Tests that each time shows its own picture: every frame, against a decoder's own order."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from livecc_jax.media.video import iter_frames, probe
from tests.support.media import make_video

FIELD_LUMA = (40, 180)  # of the two fields of the first frame; each frame is three brighter


def decoded_frames(path: Path) -> tuple[list[int], list[np.ndarray]]:
    """Returns timestamps in ms and pictures of all frames as PyAV decodes them."""
    stamps, frames = [], []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            stamps.append(round(float(frame.pts * frame.time_base) * 1000))
            frames.append(frame.to_ndarray(format="rgb24", interpolation="BICUBIC"))
    return stamps, frames


def check_every_frame(path: Path) -> list[int]:
    """Checks times and pictures of all frames, together and each alone. Returns the times in ms."""
    info = probe(path)
    stamps, frames = decoded_frames(path)
    times = [round(t / 1000) for t in info.pts_us.tolist()]
    assert times == [s - stamps[0] for s in stamps]
    for i, frame in enumerate(iter_frames(info, range(len(frames)))):
        np.testing.assert_array_equal(frame, frames[i])
    for i in range(0, len(frames), 7):
        np.testing.assert_array_equal(next(iter_frames(info, [i])), frames[i])
    return times


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_frames_a_millisecond_apart(tmp_path, suffix):
    """Bursts of three frames one millisecond apart, stored out of order."""
    stamps = [t + d for t in range(0, 4000, 200) for d in (0, 1, 2)]
    options = {"bf": "2", "preset": "fast", "g": "12"}
    path = make_video(tmp_path / f"burst.{suffix}", stamps, options=options)
    assert check_every_frame(path) == stamps


@pytest.mark.parametrize(("codec", "show_bit"), [("libvpx", 0x10), ("libvpx-vp9", 0x02)])
def test_hidden_frames_with_timestamps_of_their_own(tmp_path, codec, show_bit):
    """Key frames that are made hidden in three places: the picture before stays on the screen."""
    options = {"cpu-used": "8", "deadline": "realtime", "g": "10", "keyint_min": "10"}
    path = make_video(tmp_path / "a.webm", range(0, 1600, 40), codec, options, frame_rate=25)
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as source:
        for packet in [p for p in source.demux(video=0) if p.size][10:40:10]:
            assert packet.is_keyframe
            content[content.index(bytes(packet))] &= ~show_bit
    path.write_bytes(content)
    with av.open(str(path)) as container:
        assert sum(bool(p.size) for p in container.demux(video=0)) == 40
    times = check_every_frame(path)
    assert times == [t for t in range(0, 1600, 40) if t not in (400, 800, 1200)]


class BitWriter:
    """Writes the units of an H.264 stream."""

    def __init__(self) -> None:
        self.bits = ""

    def fixed(self, value: int, count: int) -> None:
        """Appends a number in so many bits."""
        self.bits += f"{value:0{count}b}" if count else ""

    def codes(self, *values: int) -> None:
        """Appends unsigned Exp-Golomb codes."""
        for value in values:
            self.bits += "0" * (len(f"{value + 1:b}") - 1) + f"{value + 1:b}"

    def unit(self, kind: int, contents: bytes = b"") -> bytes:
        """Returns the unit with its start code; `contents` follow the bits, aligned to bytes."""
        bits = self.bits + ("" if contents else "1")
        bits += "0" * (-len(bits) % 8)
        data = bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
        data += contents + (b"\x80" if contents else b"")
        safe, zeros = bytearray(), 0
        for byte in data:
            if zeros == 2 and byte <= 3:
                safe.append(3)
                zeros = 0
            safe.append(byte)
            zeros = zeros + 1 if byte == 0 else 0
        return b"\0\0\0\1" + bytes([kind]) + bytes(safe)


def field_stream(num_frames: int) -> Iterator[bytes]:
    """Yields the fields of an interlaced H.264 stream of 48x32, each a picture of its own.

    Pictures are stored uncoded (I_PCM) and grey; the fields of a frame differ.

    Args:
        num_frames: Number of frames.
    """
    sequence = BitWriter()
    sequence.fixed(77 << 16 | 30, 24)  # main profile, level 3
    sequence.codes(0, 0, 2, 1)  # number, bits of frame numbers, display order as stored, references
    sequence.fixed(0, 1)
    sequence.codes(2, 0)  # 3 x 1 pairs of macroblocks
    sequence.fixed(0b00100, 5)  # fields allowed; not within a frame; direct; no cropping, no VUI
    picture = BitWriter()
    picture.codes(0, 0)
    picture.fixed(0, 2)
    picture.codes(0, 0, 0)
    picture.fixed(0, 3)
    picture.codes(0, 0, 0)
    picture.fixed(0b100, 3)
    header = sequence.unit(0x67) + picture.unit(0x68)
    for i in range(num_frames):
        for parity, luma in enumerate(FIELD_LUMA):
            first = i == 0 and parity == 0
            field = BitWriter()
            field.codes(0, 7, 0)  # first macroblock, all intra, picture parameters
            field.fixed(i % 16, 4)
            field.fixed(2 | parity, 2)
            if first:
                field.codes(0)
            field.fixed(0, 2 if first else 1)  # references are kept in order
            field.codes(0, 1)  # quantiser, no deblocking
            block = bytes([luma + 3 * (i % 16)] * 256 + [128] * 128)
            mark = BitWriter()
            mark.codes(25)  # uncoded
            aligned = mark.bits + "0" * (-len(mark.bits) % 8)
            field.bits += mark.bits
            contents = block + 2 * (bytes([int(aligned[:8], 2), int(aligned[8:], 2)]) + block)
            yield (header if first else b"") + field.unit(0x65 if first else 0x61, contents)


@pytest.mark.parametrize("suffix", ["ts", "mkv", "mp4"])
def test_two_fields_in_two_packets_are_one_picture(tmp_path, suffix):
    """Lines alternate between the fields' values, 25 frames a second of 50 packets."""
    raw = tmp_path / "fields.h264"
    raw.write_bytes(b"".join(field_stream(40)))
    path = tmp_path / f"fields.{suffix}"
    with av.open(str(raw)) as source, av.open(str(path), "w") as copy:
        out = copy.add_stream_from_template(source.streams.video[0])
        out.time_base = Fraction(1, 50)
        for number, packet in enumerate(p for p in source.demux(video=0) if p.size):
            packet.time_base = Fraction(1, 50)
            packet.pts = packet.dts = number
            packet.duration = 1
            packet.stream = out
            copy.mux(packet)
    with av.open(str(path)) as container:
        assert sum(bool(p.size) for p in container.demux(video=0)) == 80
    assert check_every_frame(path) == list(range(0, 1600, 40))
    info = probe(path)
    assert info.frame_duration_us == 40_000
    for i, frame in enumerate(iter_frames(info, range(16))):
        lines = frame[:, 0, 0].astype(int)
        # Luma 16 to 235 are 0 to 255.
        expected = [round((luma + 3 * i - 16) * 255 / 219) for luma in FIELD_LUMA]
        np.testing.assert_allclose(lines.reshape(-1, 2), np.tile(expected, (16, 1)), atol=1)
