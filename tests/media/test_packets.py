"""Tests videos that begin inside a group of pictures, and raw streams without timestamps."""

from pathlib import Path

import av
import numpy as np
import pytest

from livecc_jax.errors import MediaError
from livecc_jax.media.video import iter_frames, probe
from tests.support.media import make_video

OPEN = "open-gop=1:keyint=12:min-keyint=12:bframes=3:b-pyramid=normal:scenecut=0"
HEVC = "open-gop=1:keyint=12:min-keyint=12:bframes=3:scenecut=0:log-level=none"
CODECS = {
    "h264": ("libx264", {"x264-params": OPEN}),
    "closed": ("libx264", {"g": "12", "bf": "2", "preset": "fast", "sc_threshold": "0"}),
    "hevc": ("libx265", {"x265-params": HEVC, "preset": "ultrafast"}),
    "mpeg2": ("mpeg2video", {"bf": "2", "g": "12", "sc_threshold": "0"}),
    "mpeg4": ("mpeg4", {"g": "12", "sc_threshold": "0"}),
}


def cut(path: Path, out: Path, first: int) -> tuple[int, int]:
    """Copies packets from number `first` on. Returns the first timestamp and the first key frame's."""
    with av.open(str(path)) as source, av.open(str(out), "w") as copy:
        stream = copy.add_stream_from_template(source.streams.video[0])
        packets = [p for p in source.demux(video=0) if p.size][first:]
        key = next(p.pts for p in packets if p.is_keyframe)
        stamps = min(p.pts for p in packets), key
        for packet in packets:
            packet.stream = stream
            copy.mux(packet)
    return stamps


@pytest.mark.parametrize("suffix", ["ts", "mkv"])
@pytest.mark.parametrize("codec", CODECS)
def test_a_cut_between_key_frames(tmp_path, codec, suffix, caplog):
    """Frames from the first key frame on are those of the whole video, at their times after the cut."""
    encoder, options = CODECS[codec]
    whole = make_video(tmp_path / "whole.ts", range(0, 2000, 40), encoder, options, frame_rate=25)
    part = tmp_path / f"part.{suffix}"
    with av.open(str(whole)) as container:
        expected = {
            frame.pts: frame.to_ndarray(format="rgb24", interpolation="BICUBIC")
            for frame in container.decode(video=0)
        }
    first, key = cut(whole, part, 5)
    missing_us = (key - first) * 1_000_000 // 90_000
    info = probe(part)
    assert f"between two key frames: its first {missing_us / 1e6:.3f} s" in caplog.text
    right = [pts for pts in sorted(expected) if pts >= key]
    np.testing.assert_allclose(info.pts_us, [(p - first) * 100 / 9 for p in right], atol=1000)
    for pts, frame in zip(right, iter_frames(info, range(len(right))), strict=True):
        np.testing.assert_array_equal(frame, expected[pts])
    late = len(right) - 3
    np.testing.assert_array_equal(next(iter_frames(info, [late])), expected[right[late]])


def test_a_file_whose_beginning_is_whole_says_nothing(tmp_path, caplog):
    probe(make_video(tmp_path / "whole.ts", range(0, 1000, 40), *CODECS["h264"], frame_rate=25))
    assert not caplog.text


@pytest.mark.parametrize(
    ("suffix", "codec", "name"),
    [("h264", "libx264", r"H\.264"), ("hevc", "libx265", "HEVC"), ("mjpeg", "mjpeg", "Motion JPEG")],
)
def test_a_raw_stream_has_no_times(tmp_path, suffix, codec, name):
    """It is refused for that reason, also under another name; the remedy gives the whole video."""
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    raw = make_video(tmp_path / f"raw.{suffix}", range(0, 800, 40), codec, options, pix_fmt=pix_fmt)
    renamed = tmp_path / "renamed.mp4"
    renamed.write_bytes(raw.read_bytes())
    for path in (raw, renamed):
        with pytest.raises(MediaError, match=rf"is a raw {name} stream, which holds no timestamps"):
            probe(path)
