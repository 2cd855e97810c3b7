"""Tests that a frame is the same whether it is reached by a seek or by decoding from the start."""

import av
import numpy as np
import pytest

from livecc_jax.errors import MediaError
from livecc_jax.media import decode, seeking
from livecc_jax.media.video import probe, read_frames
from tests.support.media import make_video
from tests.support.transport_stream import write_transport_stream

STAMPS = range(0, 3200, 40)
OPTIONS = {"g": "10", "bf": "2"}


def plain_frames(path):
    """Returns the frames that PyAV decodes from the start, by their timestamps, first come first."""
    frames = {}
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            frames.setdefault(frame.pts, frame.to_ndarray(format="rgb24", interpolation="BICUBIC"))
    return [frames[stamp] for stamp in sorted(frames)]


@pytest.fixture(scope="module")
def mpeg2(tmp_path_factory):
    """3.2 s of MPEG-2 with frames stored out of order, so small that many share a packet."""
    path = tmp_path_factory.mktemp("seeking") / "a.mp4"
    return make_video(path, STAMPS, "mpeg2video", OPTIONS, frame_rate=25, size=(32, 48))


@pytest.mark.parametrize("container", ["mpeg1 mpg", "mpeg2 vob", "ts"])
def test_frames_that_share_a_packet(mpeg2, tmp_path, container):
    """In a program stream FFmpeg gives frames other times after a seek; none is made there."""
    if container == "ts":
        path = tmp_path / "a.ts"
        write_transport_stream(mpeg2, path, 7)
    else:
        codec, suffix = container.split()
        path = tmp_path / f"a.{suffix}"
        make_video(path, range(0, 6400, 40), f"{codec}video", OPTIONS, frame_rate=25)
    info, expected = probe(path), plain_frames(path)
    assert len(info.pts_us) == len(expected) >= 80
    for first in range(0, len(expected), 9):
        chosen = range(first, len(expected), 5)
        np.testing.assert_array_equal(read_frames(info, chosen), [expected[i] for i in chosen])


@pytest.mark.parametrize("held", [0, seeking.MAX_HELD_BYTES])
def test_decoding_begins_near_the_frame(mpeg2, tmp_path, monkeypatch, held):
    """At the key frame before the last one, or from the start if there is too much in between."""
    path = tmp_path / "a.mpg"
    make_video(path, STAMPS, "mpeg2video", {"g": "10", "bf": "0"}, frame_rate=25, size=(32, 48))
    monkeypatch.setattr(seeking, "MAX_HELD_BYTES", held)
    tried = []

    def count(context, packet):
        tried.append(packet)
        return decode.decode_packet(context, packet)

    info = probe(path)
    (frame,) = decode.decode_at(str(path), [int(info.pts_us[75])], info.lead_us, packet_decoder=count)
    np.testing.assert_array_equal(frame, plain_frames(path)[75])
    assert len(tried) < 30 if held else len(tried) > 75


def test_frames_without_timestamps_are_not_lost_without_a_word(tmp_path):
    """FFmpeg gives H.264 frames that share a packet's timestamp none."""
    path = make_video(tmp_path / "a.mp4", STAMPS, options={"g": "10"}, frame_rate=25)
    write_transport_stream(path, tmp_path / "1.ts", 1)
    assert len(probe(tmp_path / "1.ts").pts_us) == 80
    write_transport_stream(path, tmp_path / "2.ts", 2)
    with pytest.raises(MediaError, match=r"2\.ts: 40 of its 80 frames have no timestamps"):
        probe(tmp_path / "2.ts")
