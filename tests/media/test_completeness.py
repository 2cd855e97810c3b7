"""Tests that a file that holds less than its header promises is rejected, in every container."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from livecc_jax.errors import MediaError
from livecc_jax.media.video import probe
from tests.support.media import make_video, remux

STAMPS = range(0, 6000, 100)
CODECS = {
    "webm": "libvpx",
    "mkv": "libx264",
    "flv": "libx264",
    "wmv": "wmv2",
    "avi": "mpeg4",
    "ivf": "libvpx",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("videos")


@pytest.mark.parametrize("suffix", CODECS)
def test_parts_of_a_file_are_rejected(folder, suffix):
    """With the seconds that a plain demuxer finds in the part, and those of the whole."""
    options = {"g": "10", "deadline": "realtime"} if "vpx" in CODECS[suffix] else {"g": "10"}
    path = make_video(folder / f"whole.{suffix}", STAMPS, CODECS[suffix], options, frame_rate=10)
    assert len(probe(path).pts_us) == 60
    content = path.read_bytes()
    with av.open(str(path)) as container:
        promised = container.duration / 1e6
    for share in (0.7, 0.8):
        part = folder / f"part.{suffix}"
        part.write_bytes(content[: int(share * len(content))])
        with av.open(str(part)) as container:
            packets = [p for p in container.demux(video=0) if p.size]
            seconds = max(p.pts + p.duration for p in packets) - min(p.pts for p in packets)
            seconds = float(seconds * packets[0].time_base)
        with pytest.raises(MediaError) as error:
            probe(part)
        expected = f"it holds {seconds:g} s of the {promised:g} s that its header promises"
        assert f"is cut short: {expected}" in str(error.value)


@pytest.mark.parametrize(("suffix", "codec"), [("mxf", "mpeg2video"), ("rm", "rv20"), ("swf", "flv")])
def test_other_headers_that_say_how_much_there_is(folder, suffix, codec):
    path = make_video(folder / f"whole.{suffix}", range(0, 2400, 40), codec, {}, frame_rate=25)
    assert len(probe(path).pts_us) == 60
    content = path.read_bytes()
    (folder / f"part.{suffix}").write_bytes(content[: len(content) // 2])
    with pytest.raises(MediaError, match=f"part.{suffix}: is cut short: it holds"):
        probe(folder / f"part.{suffix}")


def test_a_file_that_cannot_be_opened_any_more(folder):
    """An MP4 whose list of frames, at its end, is missing."""
    path = make_video(folder / "whole.mp4", STAMPS, options={"g": "10"}, frame_rate=10)
    content = path.read_bytes()
    (folder / "part.mp4").write_bytes(content[: len(content) // 2])
    with pytest.raises(MediaError, match=rf"is cut short: it holds {len(content) // 2:,} bytes of the"):
        probe(folder / "part.mp4")


@pytest.mark.parametrize(("suffix", "options"), [("ts", {}), ("mpg", {}), ("mkv", {"live": "1"})])
def test_a_file_that_promises_nothing_is_used_as_it_stands(folder, suffix, options):
    """Transport and program streams, and recordings whose header came before their end was known."""
    whole = make_video(folder / "plain.mp4", STAMPS, "mpeg2video", {"g": "10"}, frame_rate=10)
    path = folder / f"live.{suffix}"
    with av.open(str(whole)) as source:
        remux(source, path, options)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert 20 < len(probe(path).pts_us) < 40


@pytest.mark.parametrize("suffix", ["mkv", "flv", "mp4"])
def test_sound_that_is_longer_than_the_video(folder, suffix):
    """The header promises the sound's length, which is there."""
    path = folder / f"sound.{suffix}"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=10, options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = 80, 64, "yuv420p"
        sound = container.add_stream("aac", rate=16000)
        for number in range(20):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 80, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        for number in range(80):
            silence = av.AudioFrame.from_ndarray(
                np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
            )
            silence.sample_rate, silence.pts = 16000, 1024 * number
            container.mux(sound.encode(silence))
        container.mux(sound.encode())
    assert len(probe(path).pts_us) == 20


def test_a_header_that_is_wrong_about_nothing_missing(folder):
    """A duration that no stream reaches is a promise, although no byte is missing."""
    path = make_video(folder / "long.mkv", STAMPS, frame_rate=10)
    content = bytearray(path.read_bytes())
    at = content.index(b"\x44\x89\x88") + 3
    content[at : at + 8] = np.array([20_000.0], ">f8").tobytes()
    path.write_bytes(content)
    with pytest.raises(MediaError, match="it holds 6 s of the 20 s that its header promises"):
        probe(path)
