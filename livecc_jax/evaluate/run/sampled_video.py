"""What a question shows of a video: frames spread evenly over its span, at the budget's size."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from livecc_jax.errors import MediaError
from livecc_jax.evaluate.benchmarks.questions import VideoSource
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.clip import clip_patches, resized_frames
from livecc_jax.media.pixels import PATCH, patchify, resize
from livecc_jax.media.sampling import MAX_FRAMES, sample_uniform
from livecc_jax.media.video import VideoInfo, probe, read_image

SECOND_US = 1_000_000
FRAME_ENDINGS = (".jpg", ".jpeg", ".png")

_probe = functools.lru_cache(maxsize=256)(probe)  # one video is asked about at many times


@dataclass(frozen=True)
class SampledVideo:
    """Patches of one source: uint8 [pairs, rows * cols, 1176]; grid is (pairs, rows, cols)."""

    patches: np.ndarray
    grid: tuple[int, int, int]


def sample_video(
    source: VideoSource, budget: PixelBudget, max_frames: int | None = None
) -> SampledVideo:
    """Sample, decode, resize and cut a source; see `sample_frames`. A video's frames are never all held."""
    if Path(source.path).is_dir():
        patches, grid = patchify(_frames_of_folder(source, budget, max_frames))
    else:
        info, chosen = _chosen(source, max_frames)
        size = budget.size(info.height, info.width, len(chosen))
        patches, grid = clip_patches(info, chosen, size, threads=0)
    return SampledVideo(patches.reshape(grid[0], grid[1] * grid[2], -1), grid)


def sampled_grid(
    source: VideoSource, budget: PixelBudget, max_frames: int | None = None
) -> tuple[int, int, int]:
    """The grid that `sample_video` will give, from timestamps alone. Raises MediaError as it does."""
    if Path(source.path).is_dir():
        return sample_video(source, budget, max_frames).grid
    info, chosen = _chosen(source, max_frames)
    height, width = budget.size(info.height, info.width, len(chosen))
    return len(chosen) // 2, height // PATCH, width // PATCH


def sample_frames(
    source: VideoSource, budget: PixelBudget, max_frames: int | None = None
) -> np.ndarray:
    """Frames spread over a source: uint8 [F, h, w, 3], F even, at the budget's size.

    2 frames a second of the span, at least 4, at most 480 (or max_frames), as benchmarks are published.

    Raises:
        MediaError: it cannot be read, or nothing of it lies in the span.
    """
    if Path(source.path).is_dir():
        return _frames_of_folder(source, budget, max_frames)
    info, chosen = _chosen(source, max_frames)
    size = budget.size(info.height, info.width, len(chosen))
    return np.stack(list(resized_frames(info, chosen, size, threads=0)))


def _chosen(source: VideoSource, max_frames: int | None) -> tuple[VideoInfo, np.ndarray]:
    """A video and the numbers of the frames shown of it."""
    info = _probe(source.path)
    times = info.frame_times_us
    inside = np.flatnonzero(_inside(times, source))
    if not len(inside):
        raise MediaError(f"{source.path}: has no frame in {_told(source)}")
    duration = int(times[inside[-1]] - times[inside[0]]) + info.frame_duration_us
    return info, inside[sample_uniform(len(inside), duration, _most(max_frames))]


def _frames_of_folder(source: VideoSource, budget: PixelBudget, max_frames: int | None) -> np.ndarray:
    """A folder of frames in order of their names, evenly spaced in time (MVBench's TVQA videos)."""
    files = sorted(p for p in Path(source.path).iterdir() if p.suffix.lower() in FRAME_ENDINGS)
    if not files:
        raise MediaError(f"{source.path}: holds no frames")
    step = SECOND_US / source.frames_per_second
    times = (np.arange(1, len(files) + 1) * step).round().astype(np.int64)
    inside = np.flatnonzero(_inside(times, source))
    if not len(inside):
        raise MediaError(f"{source.path}: has no frame in {_told(source)}")
    chosen = inside[sample_uniform(len(inside), round(len(inside) * step), _most(max_frames))]
    frames = [read_image(files[i]) for i in chosen]
    if len({f.shape for f in frames}) > 1:
        raise MediaError(f"{source.path}: its frames differ in size")
    height, width = frames[0].shape[:2]
    return resize(np.stack(frames), budget.size(height, width, len(frames)))


def _inside(times: np.ndarray, source: VideoSource) -> np.ndarray:
    """bool [frames]: those within the span."""
    first, last = int(times[0]), int(times[-1])
    start = first if source.start_us is None else source.start_us
    end = last if source.end_us is None else source.end_us
    if source.clamp:
        # OVO-Bench's reader as published with LiveCC: a start of 0 is the first frame's time.
        start, end = min(max(first, start), last), min(max(first, end), last)
        end = max(start + SECOND_US, end)
    return (times >= start) & (times <= end)


def _most(max_frames: int | None) -> int:
    """Frames shown of a video: never more than is published."""
    return min(max_frames or MAX_FRAMES, MAX_FRAMES)


def _told(source: VideoSource) -> str:
    start = "the beginning" if source.start_us is None else f"{source.start_us / 1e6:g} s"
    end = "the end" if source.end_us is None else f"{source.end_us / 1e6:g} s"
    return f"{start} to {end}"
