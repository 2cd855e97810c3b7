"""What an example shows of one media file: which frames, at which size, and their patches."""

from __future__ import annotations

import numpy as np

from livecc_jax.data.examples.media_files import MediaFiles
from livecc_jax.data.files.timing import add_count, timed_section
from livecc_jax.errors import ExampleError, MediaError
from livecc_jax.families.qwen2_vl import TEMPORAL
from livecc_jax.media import clips
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.clips import MediaSlice
from livecc_jax.media.gaps import frames_shown
from livecc_jax.timeline.example import ImageFile, VideoClip


def load_patches(media: MediaSlice, files: MediaFiles | None = None) -> np.ndarray:
    """Decodes and resizes the frames of a media slice and cuts them into patches.

    Args:
        media: The frames of one file.
        files: Reads videos and images; by default they are read directly.

    Returns:
        uint8 [pairs, patches_per_pair, P], P values a patch.

    Raises:
        MediaError: The file cannot be read.
    """
    patches = media.load_patches(files or MediaFiles(), timed_section)
    add_count("frames", TEMPORAL * media.pairs)
    return patches


def slice_clip(clip: VideoClip, budget: PixelBudget, files: MediaFiles) -> MediaSlice:
    """Selects frames spread evenly over a clip, for questions about all of it.

    Raises:
        ExampleError: The clip's span holds no frame.
        MediaError: The file cannot be read.
    """
    info = files.video_info(clip)
    if not len(frames_shown(info, clip.start_us, clip.end_us)):
        raise ExampleError(f"{clip.path}: has no frame in the clip's span")
    media = clips.slice_video(info, budget, clip.start_us, clip.end_us)
    _check_window(clip.path, (info.height, info.width), (media.height, media.width), budget)
    return media


def slice_image(image: ImageFile, budget: PixelBudget, files: MediaFiles) -> MediaSlice:
    """Selects a whole image. Raises MediaError when the file cannot be read."""
    height, width = files.image_size(image)
    media = clips.slice_image(image.path, height, width, budget)
    _check_window(image.path, (height, width), (media.height, media.width), budget)
    return media


def frame_size(path: str, height: int, width: int, frames: int, budget: PixelBudget) -> tuple[int, int]:
    """Returns the height and width in pixels at which frames of a file are shown.

    Args:
        path: Path of the file, for error messages.
        height: Height of the file's frames in pixels.
        width: Width of the file's frames in pixels.
        frames: Number of frames that share the budget.
        budget: Pixel budget of a frame.

    Raises:
        MediaError: A frame pair of that size would not fit a vision window, as with a very long and
            thin picture, or the aspect ratio is extreme.
    """
    size = clips.budget_size(path, height, width, frames, budget)
    _check_window(path, (height, width), size, budget)
    return size


def _check_window(
    path: str, original: tuple[int, int], size: tuple[int, int], budget: PixelBudget
) -> None:
    """Raises MediaError when a frame pair of this size (height, width) does not fit a vision window."""
    if (size[0] // budget.patch) * (size[1] // budget.patch) > budget.max_pair_patches:
        height, width = original
        raise MediaError(f"{path}: {width}x{height} is too long and thin for pixel budget {budget}")
