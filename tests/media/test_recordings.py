"""Tests files that hold several recordings, one after the other, and clocks that start anew."""

import re
from pathlib import Path

import av
import numpy as np
import pytest

from livecc_jax.errors import MediaError
from livecc_jax.media.recordings import ContinuousClock
from livecc_jax.media.rules import MediaRules
from livecc_jax.media.video import iter_frames, probe
from tests.support.media import make_video, remux

STAMPS = range(0, 1500, 100)


def decode_all(path: Path) -> list[np.ndarray]:
    """Returns all frames that PyAV decodes, in order of display."""
    with av.open(str(path)) as container:
        frames = container.decode(video=0)
        return [f.to_ndarray(format="rgb24", interpolation="BICUBIC") for f in frames]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> tuple[Path, Path]:
    """Two different recordings of 1.5 s with frames stored out of order, 10 frames a second."""
    folder = tmp_path_factory.mktemp("recordings")
    options = {"g": "10", "bf": "2", "preset": "fast"}
    one = make_video(folder / "one.mp4", STAMPS, options=options, frame_rate=10)
    other = {"g": "7", "bf": "0", "preset": "ultrafast"}
    two = make_video(folder / "two.mp4", STAMPS, options=other, frame_rate=10)
    return one, two


def join(first: Path, second: Path, path: Path, later: int = 0, skip: int = 0) -> Path:
    """Appends one recording to another in the container of `path`.

    Args:
        first: The first recording, whose clock begins `later` seconds later.
        second: The second recording.
        path: File to write.
        later: Seconds.
        skip: Bytes that are left out of the second file.
    """
    parts = []
    for source, shift in ((first, later), (second, 0)):
        part = path.with_stem(f"part{len(parts)}")
        with av.open(str(source)) as container:
            remux(container, part, later=shift)
        parts.append(part.read_bytes()[skip if parts else 0 :])
    path.write_bytes(b"".join(parts))
    return path


@pytest.mark.parametrize(
    ("suffix", "later", "skip"),
    [
        ("ts", 0, 0),  # the clock begins anew at the same value
        ("ts", 30, 0),  # it falls back
        ("ts", 1000, 0),  # it falls back so far that FFmpeg takes it for an overflow of 33 bits
        ("flv", 0, 13),  # an encoder that connected again: tags without another file header
        ("flv", 500, 13),
    ],
)
def test_recordings_in_a_row_are_one_timeline(recordings, tmp_path, suffix, later, skip, caplog):
    """Every frame of both is there, in order of reading, a tenth of a second apart."""
    path = join(*recordings, tmp_path / f"joined.{suffix}", later, skip)
    info = probe(path)
    assert "holds 2 recordings; at 1.5 s the clock starts anew" in caplog.text
    np.testing.assert_allclose(info.pts_us, 100_000 * np.arange(30), atol=1)
    expected = [*decode_all(recordings[0]), *decode_all(recordings[1])]
    for frame, right in zip(iter_frames(info, range(30)), expected, strict=True):
        np.testing.assert_array_equal(frame, right)
    for indices in ([3, 17], [29]):
        for i, frame in zip(indices, iter_frames(info, indices), strict=True):
            np.testing.assert_array_equal(frame, expected[i])


def test_a_clock_that_is_far_ahead_starts_anew_in_a_transport_stream(recordings, tmp_path):
    """Elsewhere a gap is a still picture."""
    joined = tmp_path / "joined.ts"
    with av.open(str(recordings[1])) as source:
        remux(source, tmp_path / "late.ts", later=5000)
    with av.open(str(recordings[0])) as source:
        remux(source, tmp_path / "early.ts")
    joined.write_bytes((tmp_path / "early.ts").read_bytes() + (tmp_path / "late.ts").read_bytes())
    np.testing.assert_allclose(probe(joined).pts_us, 100_000 * np.arange(30), atol=1)
    still = make_video(tmp_path / "still.mkv", [0, 100, 200, 20_000, 20_100])
    assert probe(still).pts_us.tolist() == [0, 100_000, 200_000, 20_000_000, 20_100_000]


def test_a_browsers_recordings_in_a_row(tmp_path):
    """Segments of one file are read if the codec needs no header of its own, or has the same."""
    for name, codec in (("a.webm", "libvpx"), ("a.mkv", "libx264")):
        path = make_video(tmp_path / name, STAMPS, codec, {}, frame_rate=10)
        expected = 2 * decode_all(path)
        path.write_bytes(2 * path.read_bytes())
        info = probe(path)
        for frame, right in zip(iter_frames(info, range(30)), expected, strict=True):
            np.testing.assert_array_equal(frame, right)


def test_a_segment_with_another_codec_header_is_refused(recordings, tmp_path):
    """FFmpeg reads the first header alone and would decode the second recording wrongly."""
    with pytest.raises(MediaError, match="holds another recording"):
        probe(join(*recordings, tmp_path / "joined.mkv"))


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        ("mp4", "libx264"),
        ("fragments.mp4", "libx264"),
        ("flv", "libx264"),
        ("wmv", "wmv2"),
        ("ivf", "libvpx"),
        ("nut", "mpeg4"),
        ("wtv", "mpeg2video"),
        ("mxf", "mpeg2video"),
        ("rm", "rv20"),
        ("y4m", "wrapped_avframe"),
        ("apng", "apng"),
    ],
)
def test_a_recording_that_cannot_be_reached_is_not_lost_without_a_word(tmp_path, suffix, codec):
    path, step = tmp_path / f"one.{suffix}", 40 if codec == "mpeg2video" else 100
    pix_fmt = "rgb24" if codec == "apng" else "yuv420p"
    stamps = range(0, 15 * step, step)
    if suffix == "fragments.mp4":
        with av.open(str(make_video(tmp_path / "whole.mp4", stamps, frame_rate=10))) as whole:
            remux(whole, path, {"movflags": "frag_keyframe+empty_moov"})
    else:
        make_video(path, stamps, codec, {}, pix_fmt=pix_fmt, frame_rate=1000 // step)
    assert len(probe(path).pts_us) == 15
    content = path.read_bytes()
    path.write_bytes(content + content)
    with pytest.raises(MediaError) as error:
        probe(path)
    assert "holds another recording" in str(error.value)
    place = int(re.search("from byte ([0-9,]+) on", str(error.value))[1].replace(",", ""))
    assert len(content) <= place < 2 * len(content)


def test_recordings_in_streams_of_their_own_are_refused(recordings, tmp_path):
    """The second transport stream numbers its streams otherwise, so that it is another track."""
    parts = []
    for source, number in zip(recordings, ("256", "512"), strict=True):
        with av.open(str(source)) as container:
            remux(container, tmp_path / "part.ts", {"mpegts_start_pid": number})
        parts.append((tmp_path / "part.ts").read_bytes())
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(parts))
    with pytest.raises(MediaError, match="holds several recordings in a row, each in a video stream"):
        probe(joined)
    assert len(probe(joined, MediaRules(track=1)).pts_us) == 15


def test_a_live_clock_that_starts_anew():
    """A continuous clock is kept, with its gaps; a step back continues after the latest picture."""
    clock = ContinuousClock("mpegts")
    stamps = [0, 100, 200, 5_200, 5_300, 1_000_000, 1_000_100, 50, 150]
    times = [clock.time_of(1000 * stamp) // 1000 for stamp in stamps]
    assert times == [0, 100, 200, 5_200, 5_300, 5_400, 5_500, 5_600, 5_700]
    assert clock.restarts == 2
    other = ContinuousClock("matroska,webm")
    assert other.time_of(0) == 0
    assert other.time_of(60_000_000) == 60_000_000
