"""Frames of a benchmark's videos are sampled as in the published evaluations."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from livecc_jax.data.files.media_root import MediaRoot
from livecc_jax.errors import MediaError
from livecc_jax.evaluate.benchmarks.annotations import read_questions
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


def test_a_media_root_confines_the_videos_of_a_benchmark(tmp_path):
    """Also each picture of a folder of frames, and subtitles, whose names come from the file too."""
    root = tmp_path / "root"
    (root / "videos/frames").mkdir(parents=True)
    (root / "subtitle").mkdir()
    shutil.copy(CLIP, root / "videos/inside.mp4")
    (root / "videos/link.mp4").symlink_to(CLIP)
    (root / "subtitle/secret.srt").symlink_to(tmp_path / "secret.srt")
    (tmp_path / "secret.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nsecret\n")
    record = {
        k: "x" for k in ("video_id", "duration", "domain", "sub_category", "task_type", "question")
    }
    record |= {"options": ["A. a", "B. b"], "answer": "A"}
    names = {"inside": "inside", "link": "link", "dots": f"../../{Path(CLIP).stem}", "secret": "inside"}
    lines = [
        record | {"question_id": key, "videoID": key, "video": f"{name}.mp4"}
        for key, name in names.items()
    ]
    (root / "videomme.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    shutil.copy(CLIP, tmp_path)

    media_root = MediaRoot.of(str(root))
    questions = read_questions("videomme", root, subtitles=True, media_root=media_root)
    assert [q.id for q in questions.questions] == ["inside", "link", "dots"]
    assert "outside the media root" in questions.problem_log.notes[-1]
    inside, *outside = (q.source for q in questions.questions)
    assert sample_video(inside, BUDGET).grid[0] == 30
    for source in outside:
        with pytest.raises(MediaError, match="outside the media root"):
            sample_video(source, BUDGET)
    for question in read_questions("videomme", root, subtitles=True).questions:
        assert sample_video(question.source, BUDGET).grid[0] == 30

    frames = VideoSource(str(root / "videos/frames"), media_root=media_root)
    for i in range(4):
        cv2.imwrite(str(root / f"videos/frames/{i:05}.jpg"), np.full((60, 80, 3), 20 * i, np.uint8))
    assert sample_video(frames, BUDGET).grid[0] == 2
    shutil.move(root / "videos/frames/00001.jpg", tmp_path / "other.jpg")
    (root / "videos/frames/00001.jpg").symlink_to(tmp_path / "other.jpg")
    with pytest.raises(MediaError, match="outside the media root"):
        sample_video(frames, BUDGET)
