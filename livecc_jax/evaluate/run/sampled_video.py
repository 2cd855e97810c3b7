"""The frames of a video that a question shows: spread evenly over a span, at the budget's size."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from livecc_jax.evaluate.benchmarks.questions import VideoSource
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.clips import LocalFiles, MediaSlice, open_frame_folder, slice_video
from livecc_jax.media.earlier import probe_earlier
from livecc_jax.media.rules import DEFAULT, MediaRules
from livecc_jax.media.sampling import MAX_FRAMES
from livecc_jax.media.video import VideoInfo, probe

SECOND_US = 1_000_000
DECODER = LocalFiles(threads=0)  # one video at a time, so all cores decode it


@functools.lru_cache(maxsize=256)  # many questions ask about one video
def _probe(path: str, rules: MediaRules) -> VideoInfo:
    return (probe_earlier if rules.version == 1 else probe)(path, rules)


@dataclass(frozen=True)
class SampledVideo:
    """Patches of one video.

    Attributes:
        patches: uint8 [pairs, rows * cols, 1176].
        grid: Frame pairs, patch rows and patch columns.
    """

    patches: np.ndarray
    grid: tuple[int, int, int]


def sample_video(
    source: VideoSource,
    budget: PixelBudget,
    max_frames: int | None = None,
    rules: MediaRules = DEFAULT,
    last_frames: int | None = None,
) -> SampledVideo:
    """Sample, decode, resize and patchify a video.

    Args:
        source: Path of a video or a folder of frames, and a span of it.
        budget: Pixels of a frame.
        max_frames: Maximum number of frames; None is the published 480.
        rules: How videos are read.
        last_frames: Keeps only so many of the last sampled frames, an even number, at the size that
            they have among all: a baseline without memory.

    Raises:
        MediaError: The video cannot be read, or has no frame in the span.
    """
    media = slice_source(source, budget, max_frames, rules)
    if last_frames is not None:
        last = slice(-last_frames, None)
        media = dataclasses.replace(media, indices=media.indices[last], times_us=media.times_us[last])
    return SampledVideo(media.load_patches(DECODER), media.grid)


def sampled_grid(
    source: VideoSource,
    budget: PixelBudget,
    max_frames: int | None = None,
    rules: MediaRules = DEFAULT,
) -> tuple[int, int, int]:
    """The grid that `sample_video` will give, without decoding. Raises MediaError as it does."""
    return slice_source(source, budget, max_frames, rules).grid


def sample_frames(
    source: VideoSource,
    budget: PixelBudget,
    max_frames: int | None = None,
    rules: MediaRules = DEFAULT,
) -> np.ndarray:
    """Sample, decode and resize a video; see `sample_video`.

    Returns:
        uint8 [F, h, w, 3] RGB, F even, at the budget's size.
    """
    return slice_source(source, budget, max_frames, rules).load_frames(DECODER)


def slice_source(
    source: VideoSource,
    budget: PixelBudget,
    max_frames: int | None = None,
    rules: MediaRules = DEFAULT,
) -> MediaSlice:
    """Choose the frames of a video: 2 a second of the span, at least 4, at most 480 or `max_frames`.

    Raises:
        MediaError: The video cannot be read, or has no frame in the span.
    """
    is_folder = Path(source.path).is_dir()
    if source.media_root is not None:
        source.media_root.check(source.path)
        for file in Path(source.path).iterdir() if is_folder else [source.path]:
            source.media_root.check(str(file))  # a frame may be a link
            source.media_root.check_content(str(file), str(file))
    if is_folder:
        video = open_frame_folder(source.path, source.frames_per_second)
    else:
        video = _probe(source.path, rules)
    start, end = _span(video.frame_times_us, source)
    # Never more frames than benchmarks are published with.
    return slice_video(video, budget, start, end, min(max_frames or MAX_FRAMES, MAX_FRAMES))


def _span(times: np.ndarray, source: VideoSource) -> tuple[int | None, int | None]:
    """Start and end of the span in microseconds."""
    if not source.clamp:
        return source.start_us, source.end_us
    # OVO-Bench's reader as published with LiveCC: a start of 0 is the first frame's time.
    first, last = int(times[0]), int(times[-1])
    start = first if source.start_us is None else source.start_us
    end = last if source.end_us is None else source.end_us
    start, end = min(max(first, start), last), min(max(first, end), last)
    return start, max(start + SECOND_US, end)
