"""Frames of a benchmark's videos are sampled as in the published evaluations."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from livecc_jax.errors import MediaError
from livecc_jax.evaluate.benchmarks.questions import VideoSource
from livecc_jax.evaluate.run.sampled_video import sample_video
from livecc_jax.media.budget import PixelBudget

CLIP = str(Path(__file__).parents[3] / "data/clips/bbb_espeak_narration_30s.mp4")
BUDGET = PixelBudget.parse("16")


def test_frames_are_spread_over_the_span():
    """2 frames a second, at least 4, an even number; OVO-Bench's spans are moved into the video."""
    assert sample_video(VideoSource(CLIP), BUDGET).grid[0] == 30
    assert sample_video(VideoSource(CLIP, 0, 5_000_000), BUDGET).grid[0] == 5
    assert sample_video(VideoSource(CLIP), BUDGET, max_frames=8).grid[0] == 4
    with pytest.raises(MediaError, match="no frame between 40 s and 50 s"):
        sample_video(VideoSource(CLIP, 40_000_000, 50_000_000), BUDGET)
    # A span beyond the end has the last frame alone, twice.
    assert sample_video(VideoSource(CLIP, 40_000_000, 50_000_000, clamp=True), BUDGET).grid[0] == 1
    # A span that ends before the first frame is the first second.
    assert sample_video(VideoSource(CLIP, 0, 0, clamp=True), BUDGET).grid[0] == 2


def test_frames_of_a_folder_are_three_a_second(tmp_path):
    for i in range(9):
        cv2.imwrite(str(tmp_path / f"{i:05}.jpg"), np.full((60, 80, 3), 20 * i, np.uint8))
    assert sample_video(VideoSource(str(tmp_path)), BUDGET).grid[0] == 3
    assert sample_video(VideoSource(str(tmp_path), 1_000_000, 2_000_000), BUDGET).grid[0] == 2
    (tmp_path / "none").mkdir()
    with pytest.raises(MediaError, match="holds no frames"):
        sample_video(VideoSource(str(tmp_path / "none")), BUDGET)
