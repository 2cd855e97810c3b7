"""Tests which picture is shown in the gaps of a variable-rate video, by either rule."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from livecc_jax.errors import MediaError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.clips import slice_video
from livecc_jax.media.gaps import sample_moments
from livecc_jax.media.ingest import read_turns
from livecc_jax.media.rules import MediaRules
from livecc_jax.media.sampling import sample_strict
from livecc_jax.media.video import VideoInfo, probe
from tests.support.media import make_video

PREVIOUS = MediaRules(gap="previous")


def video(pts_ms, duration_ms, rules=PREVIOUS):
    return VideoInfo("x.mp4", 1000 * np.array(pts_ms), 1000 * duration_ms, 80, 64, rules=rules)


FRAME_MS = 40  # nominal duration of a frame


def shown_at(pts_ms, moment_ms):
    """The frame on the screen at a moment, and its time: its own, or the moment if it is held longer.

    A frame is on the screen until the next begins. Its own time is the end of its nominal duration.
    """
    number = max(i for i, pts in enumerate(pts_ms) if pts < moment_ms)
    held = moment_ms > pts_ms[number] + FRAME_MS
    if held and moment_ms in pts_ms:  # the next one begins
        return number + 1, moment_ms + FRAME_MS
    return number, moment_ms if held else pts_ms[number] + FRAME_MS


@st.composite
def still_screens(draw):
    """Timestamps in ms that are 40 to 3000 ms apart, most of them 40."""
    gaps = draw(st.lists(st.integers(1, 75), min_size=1, max_size=12))
    gaps += [1] * (len(gaps) + 1)
    return [0, *itertools.accumulate(FRAME_MS * n for n in draw(st.permutations(gaps)))]


@settings(max_examples=80, deadline=None)
@given(still_screens(), st.integers(0, 300), st.integers(0, 600))
def test_the_previous_picture_stays_until_the_next_exists(pts_ms, start, length):
    """Every moment from the first one on shows what is on the screen, held pictures included."""
    start, end = 20 * start, 20 * (start + length)
    last_ms, info = pts_ms[-1] + FRAME_MS, video(pts_ms, FRAME_MS)
    first = shown_at(pts_ms, max(start, 1))[1] if start <= last_ms else end + 1
    shown = [shown_at(pts_ms, t) for t in range(first, last_ms + 1, 500)]
    shown = [(number, time) for number, time in shown if time <= end]
    if not shown:
        with pytest.raises(MediaError, match="no frame between"):
            sample_moments(info, 1000 * start, 1000 * end)
        return
    indices, times = sample_moments(info, 1000 * start, 1000 * end, odd="repeat", max_frames=10**4)
    shown += shown[-1:] * (len(shown) % 2)
    assert indices.tolist() == [number for number, _ in shown]
    assert times.tolist() == [1000 * time for _, time in shown]


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([10, 24, 25, 30, 60, 30000 / 1001, 0.2]),
    st.integers(0, 5_000_000),
    st.integers(0, 9_000_000),
    st.booleans(),
    st.sampled_from(["repeat", "drop"]),
)
def test_a_constant_rate_is_sampled_alike_by_both_rules(rate, start, length, in_ms, odd):
    """Also where the container rounds timestamps to milliseconds."""
    pts = np.round(np.arange(300) * 1e6 / rate).astype(np.int64)
    if in_ms:
        pts = (pts + 500) // 1000 * 1000
    duration = round(1e6 / rate)
    next_ = VideoInfo("x.mp4", pts, duration, 80, 64)
    previous = VideoInfo("x.mp4", pts, duration, 80, 64, rules=PREVIOUS)
    try:
        indices = sample_strict(next_.frame_times_us, start, start + length, odd=odd)
    except MediaError:
        with pytest.raises(MediaError, match="no frame between"):
            sample_moments(previous, start, start + length, odd=odd)
        return
    for info in (next_, previous):
        moments = sample_moments(info, start, start + length, odd=odd)
        assert moments.indices.tolist() == indices.tolist()
        np.testing.assert_array_equal(moments.times_us, next_.frame_times_us[indices])


def test_turns_of_a_still_screen(tmp_path):
    """Pictures at 0, 0.1, 0.2, then at 4, 4.1, 4.2 s: 3 s of the third, or a look into the future."""
    path = make_video(tmp_path / "still.mp4", [0, 100, 200, 4000, 4100, 4200])
    budget, shown = PixelBudget.parse(64), {}
    for gap in ("next", "previous"):
        rules = MediaRules(gap=gap)
        turns = read_turns(str(path), budget, rules=rules)
        frames = np.concatenate([turn.frames for turn in turns])
        pictures = [int(np.argmin([np.abs(f - p).mean() for p in frames.astype(int)])) for f in frames]
        shown[gap] = pictures, sample_moments(probe(path, rules), odd="drop").indices.tolist()
    # Moments 0.1, 0.6, ..., 4.1 s; the odd last one is dropped.
    assert shown["next"] == ([0, *[1] * 7], [0, *[3] * 7])
    assert shown["previous"] == ([0, *[1] * 7], [0, *[2] * 7])


def test_a_question_about_a_gap(tmp_path):
    """The published rule has no frame to show; the other shows what is on the screen."""
    info = video([0, 40, 80, 9000, 9040], 40, MediaRules())
    with pytest.raises(MediaError, match=r"has no frame between 2 s and 5 s"):
        slice_video(info, PixelBudget.parse(64), 2_000_000, 5_000_000)
    still = slice_video(video([0, 40, 80, 9000, 9040], 40), PixelBudget.parse(64), 2_000_000, 5_000_000)
    assert still.indices.tolist() == [2, 2]
