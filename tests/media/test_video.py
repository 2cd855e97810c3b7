"""Tests timestamps, frames and sampling, on clips of every awkward kind."""

import json
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livecc_jax.errors import MediaError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.clips import LocalFiles
from livecc_jax.media.ingest import read_turns
from livecc_jax.media.sampling import sample_strict, sample_uniform
from livecc_jax.media.video import probe, read_frames
from tests.support.media import make_video, remux

ROOT = Path(__file__).parents[2]
CLIPS = ROOT / "data/clips"
TIMES = json.loads(str(np.load(ROOT / "tests/goldens/media.npz")["times"]))
NARRATION = CLIPS / "bbb_espeak_narration_30s.mp4"


@pytest.mark.parametrize("clip", TIMES)
def test_timestamps_are_the_released_readers(clip):
    info = probe(CLIPS / clip)
    begins, ends = np.array(TIMES[clip]).T
    np.testing.assert_allclose(info.pts_us / 1e6, begins, atol=1e-3)
    if "vfr" not in clip:  # with a variable rate, one nominal duration is added as well
        np.testing.assert_allclose(info.frame_times_us / 1e6, ends, atol=1e-3)
    else:
        assert len(set(np.diff(info.pts_us) // 1000)) > 2


@pytest.mark.parametrize("clip", sorted(CLIPS.glob("*.mp4")), ids=lambda p: p.stem)
def test_the_frame_at_a_time_is_the_one_displayed(clip):
    """It equals, bit for bit, OpenCV's frame at the same place in presentation order."""
    info = probe(clip)
    indices = np.unique(np.linspace(0, len(info.pts_us) - 1, 9).round().astype(int))
    ours = read_frames(info, [*indices, indices[-1]])
    assert ours.shape[1:] == (info.height, info.width, 3)
    np.testing.assert_array_equal(ours[-1], ours[-2])
    capture = cv2.VideoCapture(str(clip), cv2.CAP_FFMPEG)
    for number in range(len(info.pts_us)):
        assert capture.grab()
        if number in indices:
            theirs = capture.retrieve()[1][..., ::-1]
            np.testing.assert_array_equal(ours[indices.tolist().index(number)], theirs)
    assert not capture.grab()


def test_size_is_as_displayed():
    info = probe(CLIPS / "rotated_90.mp4")
    assert (info.width, info.height) == (179, 317)


@pytest.mark.parametrize("suffix", ["mkv", "ts"])
def test_a_start_time_is_subtracted(tmp_path, suffix):
    """A container whose clock starts at 7 s has the same times and frames as one that starts at 0."""
    source = CLIPS / "bbb_oddsize_317x179_derived.mp4"
    path = tmp_path / f"late.{suffix}"
    with av.open(str(source)) as original:
        remux(original, path, later=7)
    plain, late = probe(source), probe(path)
    np.testing.assert_allclose(late.pts_us, plain.pts_us, atol=1000)
    np.testing.assert_array_equal(read_frames(late, [0, 77]), read_frames(plain, [0, 77]))


def test_only_missing_bytes_count_as_cut_short(tmp_path):
    """A last frame that is shown for long is not a missing end; missing bytes are."""
    long = make_video(tmp_path / "long.mp4", [0, 500, 1000, 1500], last_ms=60_000)
    assert probe(long).pts_us.tolist() == [0, 500_000, 1_000_000, 1_500_000]
    complete = tmp_path / "complete.mp4"
    with av.open(str(NARRATION)) as source:
        remux(source, complete, {"movflags": "faststart"})
    assert len(probe(complete).pts_us) == 720
    content = complete.read_bytes()
    for size in (len(content) // 2, len(content) - 20):
        (tmp_path / "cut.mp4").write_bytes(content[:size])
        with pytest.raises(MediaError, match=r"cut\.mp4: is cut short: .* of the 30 s .* of its 720"):
            probe(tmp_path / "cut.mp4")


def test_one_frame(tmp_path):
    """It is shown twice for a question, and is too short for a commentary."""
    info = probe(make_video(tmp_path / "one.mp4", [0]))
    assert info.pts_us.tolist() == [0]
    assert sample_uniform(1, 0).tolist() == sample_strict(info.frame_times_us).tolist() == [0, 0]
    assert read_frames(info, [0, 0]).shape == (2, 64, 80, 3)


def test_with_sound_and_without():
    """Clips of both kinds are shipped, and the tests here read them all."""
    sounds = set()
    for clip in CLIPS.glob("*.mp4"):
        with av.open(str(clip)) as container:
            sounds.add(bool(container.streams.audio))
    assert sounds == {True, False}


def test_a_header_with_a_wrong_length(tmp_path):
    """An AVI whose header says 444 frames but which holds 10: only existing frames are counted."""
    path = make_video(tmp_path / "wrong.avi", range(0, 1000, 100), "mpeg4", {}, frame_rate=10)
    content = bytearray(path.read_bytes())
    for field in (content.index(b"avih") + 24, content.index(b"strh") + 40):  # frames of file, stream
        assert int.from_bytes(content[field : field + 4], "little") == 10
        content[field : field + 4] = (444).to_bytes(4, "little")
    path.write_bytes(content)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 444
    info = probe(path)
    assert len(info.pts_us) == 10
    assert len(read_frames(info, sample_uniform(10, 1_000_000))) == 4


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_timestamps_that_run_backwards(tmp_path, suffix):
    """A frame is found by its own timestamp, wherever it lies in the file."""
    path = make_video(
        tmp_path / f"plain.{suffix}", range(0, 1000, 100), options={"preset": "ultrafast", "bf": "0"}
    )
    order = [0, 100, 300, 200, 400, 500, 800, 700, 600, 900]  # ms, as they are stored
    mixed = tmp_path / f"mixed.{suffix}"
    with av.open(str(path)) as source, av.open(str(mixed), "w") as copy:
        out = copy.add_stream_from_template(source.streams.video[0])
        packets = [p for p in source.demux(video=0) if p.dts is not None]
        for number, (packet, stamp) in enumerate(zip(packets, order, strict=True)):
            packet.pts = int(Fraction(stamp + 300, 1000) / packet.time_base)
            packet.dts = int(Fraction(100 * number, 1000) / packet.time_base)
            packet.stream = out
            copy.mux(packet)
    stored, info = read_frames(probe(path), range(10)), probe(mixed)
    np.testing.assert_allclose(info.pts_us, np.arange(10) * 100_000, atol=1000)
    for indices in (range(10), [2, 8], [6], [3, 7]):
        expected = [stored[order.index(100 * i)] for i in indices]
        np.testing.assert_array_equal(read_frames(info, list(indices)), expected)


def test_a_decoder_that_returns_nothing(tmp_path):
    """The file has timestamps but no frame, which is reported in one sentence."""
    path = make_video(tmp_path / "nothing.mp4", range(0, 3000, 100))
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            if packet.size:
                content[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    path.write_bytes(content)
    info = probe(path)
    assert len(info.pts_us) == 30
    with pytest.raises(MediaError, match=r"nothing\.mp4: the frame at 2\.000 s cannot be decoded"):
        read_frames(info, [20])


times_lists = st.lists(st.integers(1, 900_000), min_size=1, max_size=60).map(np.cumsum)


@settings(max_examples=200, deadline=None)
@given(
    times_lists,
    st.integers(0, 8_000_000),
    st.integers(0, 8_000_000),
    st.sampled_from(["repeat", "drop"]),
    st.sampled_from([4, 480]),
)
def test_strict_sampling_equals_its_definition(times, start, length, odd, max_frames):
    inside = [t for t in times.tolist() if start <= t <= start + length]
    if not inside:
        with pytest.raises(MediaError, match="no frame between"):
            sample_strict(times, start, start + length, max_frames=max_frames, odd=odd)
        return
    expected, n = [], 0
    while (due := inside[0] + Fraction(n * 1_000_000, 2)) <= inside[-1] and n < max_frames:
        expected.append(next(i for i, t in enumerate(times.tolist()) if t >= due))
        n += 1
    if len(expected) % 2:
        expected = [*expected, expected[-1]] if odd == "repeat" else expected[:-1]
    indices = sample_strict(times, start, start + length, max_frames=max_frames, odd=odd)
    assert indices.tolist() == expected


def test_whole_seconds_are_exact_at_25_fps():
    """The released code's float comparison takes frames 26 and 51 here."""
    times = 40_000 * np.arange(1, 77)
    assert sample_strict(times).tolist()[:5] == [0, 13, 25, 38, 50]


def test_a_wrong_timestamp_costs_nothing():
    """One frame is a century late: the half seconds in between are not all listed."""
    times = np.array([0, 500_000, 1_000_000, 100 * 365 * 86_400_000_000])
    assert sample_strict(times, max_frames=6).tolist() == [0, 1, 2, 3, 3, 3]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 2000), st.integers(0, 10**9))
def test_uniform_sampling_is_even_in_both_senses(frames, duration):
    indices = sample_uniform(frames, duration)
    assert len(indices) % 2 == 0
    assert 2 <= len(indices) <= 480
    assert np.all(np.diff(indices) >= 0)
    assert indices[0] == 0
    if frames > 1:
        assert indices[-1] == frames - 1
        expected = min(max(Fraction(duration * 2, 1_000_000), 4), 480, frames)
        assert len(indices) == int(expected) // 2 * 2


def test_turns_of_a_file():
    """Six frames, then two a second; an odd one is dropped; a short source gives one turn."""
    budget = PixelBudget.parse(16)
    info = probe(NARRATION)
    indices = sample_strict(info.frame_times_us, 2_000_000, 7_600_000, odd="drop")
    file_turns = list(read_turns(str(NARRATION), budget, start=2.0, end=7.6))
    assert [len(t.frames) for t in file_turns] == [6, 2, 2, 2]
    assert len(indices) == 12
    size = budget.size(info.height, info.width, 12)
    assert all(t.frames.shape[1:3] == size for t in file_turns)
    short = list(read_turns(str(NARRATION), budget, start=0, end=2.2))
    assert [len(t.frames) for t in short] == [4]
    with pytest.raises(MediaError, match="fewer than two frames"):
        list(read_turns(str(NARRATION), budget, start=0, end=0.3))


def test_turns_of_a_slow_video(tmp_path):
    """A frame every five seconds is repeated ten times: 111 frames in 55 s, the odd one dropped."""
    slow = make_video(tmp_path / "slow.mp4", range(0, 60_000, 5_000))
    file_turns = list(read_turns(str(slow), PixelBudget.parse(16)))
    assert sum(len(t.frames) for t in file_turns) == 110
    wild = make_video(tmp_path / "wild.mkv", [0, 500, 1000, 40 * 86_400_000])
    with pytest.raises(MediaError, match=r"wild\.mkv: its timestamps span 40 days"):
        list(read_turns(str(wild), PixelBudget.parse(16)))


def test_turns_come_before_the_file_is_read():
    """The first turn needs six frames to be decoded, not the whole file."""
    decoded = []

    class CountingReader(LocalFiles):
        def frames(self, info, indices):
            for frame in super().frames(info, indices):
                decoded.append(1)
                yield frame

    next(read_turns(str(NARRATION), PixelBudget.parse(16), reader=CountingReader()))
    assert len(decoded) == 6
