"""Frames files: what is written is read, and damage is refused in a sentence."""

import json
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livecc_jax.errors import MediaError
from livecc_jax.media.frame_file import MAGIC, read_frames, read_header, write_frame_file
from livecc_jax.media.video import iter_frames, probe

PTS = np.array([0, 500_000, 1_000_000, 1_700_000])
FRAMES = np.random.default_rng(0).integers(0, 256, (4, 6, 8, 3), np.uint8)


@pytest.fixture
def path(tmp_path):
    write_frame_file(tmp_path / "a.frames", FRAMES, PTS, 40_000)
    return tmp_path / "a.frames"


def test_frames_and_times_are_read_as_they_were_written(path):
    info = probe(path)
    assert info.pts_us.tolist() == PTS.tolist()
    assert info.frame_times_us.tolist() == (PTS + 40_000).tolist()
    assert (info.width, info.height) == (8, 6)
    read = list(iter_frames(info, [0, 2, 2, 3]))
    assert (np.stack(read) == FRAMES[[0, 2, 2, 3]]).all()
    assert read[1] is read[2]
    with pytest.raises(ValueError, match="ascend"):
        list(iter_frames(info, [2, 1]))
    with pytest.raises(MediaError, match=r"no frame at 0\.4 s"):
        list(read_frames(path, np.array([400_000])))


def test_a_reader_written_from_the_description_agrees(path):
    data = path.read_bytes()
    assert data[:8] == b"LIVECCF1"
    (length,) = struct.unpack("<I", data[8:12])
    header = json.loads(data[12 : 12 + length])
    count = header["count"]
    place = 12 + length
    pts = np.frombuffer(data, "<i8", count, place)
    starts = np.frombuffer(data, "<i8", count + 1, place + 8 * count)
    pictures = place + 8 * (2 * count + 1)
    for i in range(count):
        raw = zlib.decompress(data[pictures + starts[i] : pictures + starts[i + 1]])
        shape = header["height"], header["width"], 3
        assert (np.frombuffer(raw, np.uint8).reshape(shape) == FRAMES[i]).all()
    assert pts.tolist() == PTS.tolist()
    assert header["frame_duration_us"] == 40_000


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_changed_or_missing_byte_is_refused_or_changes_nothing(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damage")
    path = folder / "a.frames"
    write_frame_file(path, FRAMES, PTS, 40_000)
    good = path.read_bytes()
    place = data.draw(st.integers(0, len(good) - 1))
    if data.draw(st.booleans()):
        bad = good[:place]
    else:
        bad = good[:place] + bytes([good[place] ^ data.draw(st.integers(1, 255))]) + good[place + 1 :]
    path.write_bytes(bad)
    message = ""
    try:
        header = read_header(path)
        frames = np.stack(list(read_frames(path, PTS)))
    except MediaError as error:
        message = str(error)
    if message:
        assert "a.frames" in message
        return
    # The header is JSON: only what the checksums do not cover may have changed, such as a space.
    assert (frames == FRAMES).all()
    assert header.pts_us.tolist() == PTS.tolist()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"count": -1}, "impossible"), ({"count": 10**9}, "impossible"), ({"height": 0}, "impossible"),
        ({"width": 1 << 20}, "impossible"), ({"height": 6.0}, "impossible"),
        ({"width": "8"}, "impossible"), ({"frame_duration_us": 0}, "impossible"),
        ({"count": 5000}, "cut short"), ({"tables": 3}, "changed"),
    ],
)  # fmt: skip
def test_headers_with_impossible_values_are_refused(path, change, reason):
    data = path.read_bytes()
    (length,) = struct.unpack("<I", data[8:12])
    header = json.dumps(json.loads(data[12 : 12 + length]) | change).encode()
    path.write_bytes(MAGIC + struct.pack("<I", len(header)) + header + data[12 + length :])
    with pytest.raises(MediaError, match=reason):
        read_header(path)


def test_a_picture_that_unpacks_to_another_size_is_refused(path):
    # Times and places are right, the picture itself is a bomb of a million zeros.
    header = read_header(path)
    data = bytearray(path.read_bytes())
    bomb = zlib.compress(bytes(1_000_000))
    room = int(header.starts[1] - header.starts[0])
    if len(bomb) > room:
        bomb = zlib.compress(bytes(20_000))
    data[header.starts[0] : header.starts[0] + len(bomb)] = bomb
    path.write_bytes(data)
    with pytest.raises(MediaError, match="frame 0 is damaged"):
        list(read_frames(path, PTS[:1]))
