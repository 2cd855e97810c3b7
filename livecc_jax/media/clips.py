"""The clip loader: a span of a video, a folder of frames or an image, as resized frames or as patches.

`slice_video`, `slice_image` and the sampling functions choose frames by their times, without decoding
the video. The `MediaSlice` that results decodes, resizes and patchifies them one by one, so a clip
needs the memory of two frames beside its result.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from livecc_jax.errors import ConfigError, MediaError
from livecc_jax.families.qwen2_vl import CHANNELS, MERGED_PATCHES, PATCH, TEMPORAL
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.gaps import frames_shown
from livecc_jax.media.image_checks import is_animated_webp, is_still_picture
from livecc_jax.media.images import read_image
from livecc_jax.media.pixels import Resizer, patchify_planes, resize
from livecc_jax.media.rules import DEFAULT, MediaRules
from livecc_jax.media.sampling import MAX_FRAMES, frames_in_span, sample_uniform
from livecc_jax.media.video import VideoInfo, iter_frames, probe
from livecc_jax.timeline.example import seconds_to_us

log = logging.getLogger(__name__)

IMAGE_ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
FRAME_ENDINGS = (".jpg", ".jpeg", ".png")  # files of a folder that are frames of a video


class FrameReader(Protocol):
    """Reads frames of videos and images by path."""

    def frames(self, info: VideoInfo, indices: np.ndarray) -> Iterator[np.ndarray]:
        """Yields frames by number, uint8 [H, W, 3] RGB; a repeated frame is the same array."""

    def image(self, path: str) -> np.ndarray:
        """Returns an image as uint8 [H, W, 3] RGB."""


@dataclass(frozen=True)
class LocalFiles:
    """Reads files of the local file system.

    threads: Decoding threads; 0 uses one thread per core.
    """

    threads: int = 1

    def frames(self, info: VideoInfo, indices: np.ndarray) -> Iterator[np.ndarray]:
        """Yields frames by number; see `iter_frames`."""
        return iter_frames(info, indices, self.threads)

    def image(self, path: str) -> np.ndarray:
        """Returns an image; see `read_image`."""
        return read_image(path)


@dataclass(frozen=True)
class FrameFolder:
    """A folder whose image files are the frames of one video, evenly spaced in time.

    Attributes:
        path: Path of the folder.
        files: Paths of the frames, in order of their names.
        step_us: Microseconds from one frame to the next.
    """

    path: str
    files: tuple[str, ...]
    step_us: float

    @property
    def frame_times_us(self) -> np.ndarray:
        """int64 [n]: times of the frames; the first frame's time is one step."""
        return (np.arange(1, len(self.files) + 1) * self.step_us).round().astype(np.int64)


def open_frame_folder(path: str | Path, frames_per_second: float) -> FrameFolder:
    """List the frames of a folder (MVBench's TVQA videos). Raises MediaError when there is none."""
    files = sorted(p for p in Path(path).iterdir() if p.suffix.lower() in FRAME_ENDINGS)
    if not files:
        raise MediaError(f"{path}: holds no frames")
    return FrameFolder(str(path), tuple(map(str, files)), 1_000_000 / frames_per_second)


def resize_frames(frames: Iterable[np.ndarray], size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Resize frames, uint8 [H, W, 3] RGB, one by one; a repeated frame is resized once."""
    previous, resized = None, None
    for frame in frames:
        if frame is not previous:
            previous, resized = frame, resize(frame[None], size)[0]
        yield resized


@dataclass(frozen=True)
class MediaSlice:
    """The frames that are sampled from one file, and the size they are resized to.

    Attributes:
        source: A video's timestamps, a folder of frames, or the path of an image.
        indices: int64 [F], numbers of the frames, ascending, F even; empty for an image, which stands
            for a pair of itself.
        times_us: int64 [F], times of the frames in the file; empty for an image.
        height: Height after resizing in pixels, a multiple of two patches.
        width: Width after resizing in pixels, a multiple of two patches.
        patch: Pixels along one side of a patch.
    """

    source: VideoInfo | FrameFolder | str
    indices: np.ndarray
    times_us: np.ndarray
    height: int
    width: int
    patch: int = PATCH

    @property
    def kind(self) -> Literal["video", "image"]:
        """Whether it is a video or an image."""
        return "image" if isinstance(self.source, str) else "video"

    @property
    def pairs(self) -> int:
        """Number of frame pairs."""
        return 1 if isinstance(self.source, str) else len(self.indices) // TEMPORAL

    @property
    def rows_cols(self) -> tuple[int, int]:
        """Patches of a frame, vertically and horizontally."""
        return self.height // self.patch, self.width // self.patch

    @property
    def grid(self) -> tuple[int, int, int]:
        """Frame pairs, patch rows and patch columns."""
        return self.pairs, *self.rows_cols

    @property
    def pair_seconds(self) -> tuple[float, ...]:
        """Mean time of the two frames of each pair, in seconds since the first frame shown.

        Empty for an image.
        """
        times = (self.times_us - self.times_us[:1]).reshape(-1, TEMPORAL)
        return tuple((times.mean(axis=1) / 1e6).tolist())

    @property
    def patches_per_pair(self) -> int:
        """Number of patches of one frame pair."""
        rows, cols = self.rows_cols
        return rows * cols

    @property
    def tokens_per_pair(self) -> int:
        """Number of tokens of one frame pair, after the merger."""
        return self.patches_per_pair // MERGED_PATCHES

    def windows(self, size: int) -> int:
        """Number of vision windows of `size` patches that hold it, each with whole frame pairs."""
        return -(-self.pairs // (size // self.patches_per_pair))

    def decode(self, reader: FrameReader) -> Iterator[np.ndarray]:
        """Yields the frames in the file's size, uint8 [H, W, 3] RGB; an image comes twice.

        Raises:
            MediaError: A frame cannot be read, or the frames of a folder differ in size.
        """
        if isinstance(self.source, VideoInfo):
            yield from reader.frames(self.source, self.indices)
        elif isinstance(self.source, FrameFolder):
            yield from self._decode_folder(self.source, reader)
        else:
            image = reader.image(self.source)
            yield from [image] * TEMPORAL

    def _decode_folder(self, folder: FrameFolder, reader: FrameReader) -> Iterator[np.ndarray]:
        shape = None
        for i in self.indices:
            frame = reader.image(folder.files[i])
            if shape not in (None, frame.shape):
                raise MediaError(f"{folder.path}: its frames differ in size")
            shape = frame.shape
            yield frame

    def resized_frames(self, reader: FrameReader = LocalFiles()) -> Iterator[np.ndarray]:
        """Yields the frames resized, uint8 [height, width, 3] RGB. Raises MediaError as `decode`."""
        return resize_frames(self.decode(reader), (self.height, self.width))

    def load_frames(self, reader: FrameReader = LocalFiles()) -> np.ndarray:
        """Returns all frames resized, uint8 [F, height, width, 3]. Raises MediaError as `decode`."""
        frames = np.empty((TEMPORAL * self.pairs, self.height, self.width, 3), np.uint8)
        for out, frame in zip(frames, self.resized_frames(reader), strict=True):
            out[:] = frame
        return frames

    def load_patches(
        self,
        reader: FrameReader = LocalFiles(),
        timed_section: Callable[[str], contextlib.AbstractContextManager] = contextlib.nullcontext,
    ) -> np.ndarray:
        """Decode, resize and patchify, frame pair by frame pair.

        Args:
            reader: Reads the file.
            timed_section: Called with "decode", "resize" and "patchify"; what it returns is entered
                around each of these steps, to measure their time.

        Returns:
            uint8 [pairs, patches_per_pair, P], the values of `patchify`.

        Raises:
            MediaError: A frame cannot be read.
        """
        size = (self.height, self.width)
        values = CHANNELS * TEMPORAL * self.patch**2
        patches = np.empty((self.pairs, self.patches_per_pair, values), np.uint8)
        pair = np.empty((TEMPORAL, CHANNELS, *size), np.uint8)
        previous, resizer = None, None
        frames = self.decode(reader)
        for i in range(TEMPORAL * self.pairs):
            with timed_section("decode"):
                frame = next(frames)
            with timed_section("resize"):
                if frame is previous:
                    pair[i % TEMPORAL] = pair[(i + 1) % TEMPORAL]
                else:
                    if resizer is None or resizer.old != frame.shape[:2]:
                        resizer = Resizer(frame.shape[:2], size)
                    resizer(frame, pair[i % TEMPORAL])
            previous = frame
            if i % TEMPORAL == TEMPORAL - 1:
                with timed_section("patchify"):
                    patchify_planes(pair, patches[i // TEMPORAL], self.patch)
        return patches


def budget_size(
    path: str, height: int, width: int, num_frames: int, budget: PixelBudget
) -> tuple[int, int]:
    """Height and width of a frame after resizing. Raises MediaError naming the file."""
    try:
        return budget.size(height, width, num_frames)
    except MediaError as error:
        raise MediaError(f"{path}: {error}") from None


def slice_video(
    video: VideoInfo | FrameFolder,
    budget: PixelBudget,
    start_us: int | None = None,
    end_us: int | None = None,
    max_frames: int = MAX_FRAMES,
) -> MediaSlice:
    """Choose frames that are spread evenly over a span of a video, 2 a second and at least 4.

    Args:
        video: Timestamps from `probe`, or a folder of frames.
        budget: Pixels of a frame.
        start_us: Start of the span in microseconds of the file; None is its first frame.
        end_us: End of the span, which belongs to it; None is the last frame.
        max_frames: Maximum number of frames.

    Raises:
        MediaError: No frame lies in the span, or the frames' shape is too extreme.
    """
    times = video.frame_times_us
    if isinstance(video, FrameFolder):
        inside = frames_in_span(times, start_us, end_us)
    else:
        inside = frames_shown(video, start_us, end_us)
    if not len(inside):
        start = times[0] if start_us is None else start_us
        end = times[-1] if end_us is None else end_us
        raise MediaError(f"{video.path}: has no frame between {start / 1e6:g} s and {end / 1e6:g} s")
    if isinstance(video, FrameFolder):
        duration = round(len(inside) * video.step_us)
    else:
        duration = int(times[inside[-1]] - times[inside[0]]) + video.frame_duration_us
    indices = inside[sample_uniform(len(inside), duration, max_frames)]
    if isinstance(video, FrameFolder):
        height, width = read_image(video.files[indices[0]]).shape[:2]
    else:
        height, width = video.height, video.width
    size = budget_size(video.path, height, width, len(indices), budget)
    return MediaSlice(video, indices, times[indices], *size, budget.patch)


def slice_image(path: str, height: int, width: int, budget: PixelBudget) -> MediaSlice:
    """An image as one frame pair. Raises MediaError when its shape is too extreme.

    Args:
        path: Path of the image.
        height: Its height in pixels.
        width: Its width in pixels.
        budget: Pixels of a frame.
    """
    none = np.zeros(0, np.int64)
    size = budget_size(path, height, width, TEMPORAL, budget)
    return MediaSlice(path, none, none, *size, budget.patch)


@dataclass(frozen=True)
class SampledFrames:
    """The frames of one video or image, as a question about it shows them.

    Attributes:
        kind: Whether it is a video or an image.
        frames: uint8 [F, h, w, 3] RGB, F even, h and w multiples of two patches; an image comes twice.
        end_time: Time of the last frame, in seconds of the file.
        seconds: Mean time of each frame pair of a video, in seconds since its first frame shown.
    """

    kind: Literal["video", "image"]
    frames: np.ndarray
    end_time: float = 0.0
    seconds: tuple[float, ...] = ()


def sample_media(
    path: str | Path,
    budget: PixelBudget,
    start: float | None = None,
    end: float | None = None,
    max_frames: int = MAX_FRAMES,
    rules: MediaRules = DEFAULT,
) -> SampledFrames:
    """Read a whole video or image as questions about it are trained on.

    Args:
        path: Path of a video, or of an image (recognised by its file name extension or its contents).
        budget: Pixels of a frame.
        start: Start of the span in seconds of a video.
        end: End of the span in seconds of a video.
        max_frames: Maximum number of frames of a video; they are spread evenly, 2 a second, at least 4.
        rules: How videos are read.

    Raises:
        MediaError: The file cannot be read, or has no frame in the span.
        ConfigError: The span of an image is limited, or `max_frames` is below two.
    """
    path = str(path)
    if max_frames < 2:
        raise ConfigError(f"max-frames must be at least 2, not {max_frames}")
    if Path(path).suffix.lower() in IMAGE_ENDINGS or is_still_picture(path):
        if start is not None or end is not None:
            raise ConfigError(f"{path}: an image has no start and end to choose")
        image = read_image(path)
        if is_animated_webp(path):
            log.warning("%s: is an animation, of which only the first picture is shown", path)
        media = slice_image(path, *image.shape[:2], budget)
        frame = resize(image[None], (media.height, media.width))
        return SampledFrames("image", np.concatenate([frame, frame]))
    span = [None if seconds is None else seconds_to_us(seconds) for seconds in (start, end)]
    media = slice_video(probe(path, rules), budget, *span, max_frames)
    frames = media.load_frames(LocalFiles(threads=0))
    end = float(media.times_us[-1]) / 1e6
    return SampledFrames("video", frames, end, media.pair_seconds)
