"""Videos and images: probes a video's timestamps and size (PyAV), and reads frames and images.

Frame counts and rates in headers are often wrong, so they are not used. A frame is found by its
timestamp, which also works for variable frame rates and frames that are stored out of order.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from livecc_jax.errors import MediaError
from livecc_jax.media.decode import FrameSizeProbe, check_file, decode_at, open_video, to_microseconds
from livecc_jax.media.rules import DEFAULT, MediaRules

if TYPE_CHECKING:
    from av.index import IndexEntries

# OpenCV writes to stderr by itself; its errors are raised as MediaError instead.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")


@dataclass(frozen=True)
class VideoInfo:
    """Timestamps and size of a video, as its packets give them.

    Attributes:
        path: Path of the file.
        pts_us: int64 [n], presentation timestamps in microseconds, ascending; the first one is 0 (as
            in the released reader, also where the stored timestamps start later).
        frame_duration_us: Most common gap between successive timestamps, to the millisecond.
        width: Width in pixels as displayed: turned, and widened if pixels are not square.
        height: Height in pixels as displayed.
        lead_us: How far the first frame comes after the stream's nominal start (0 if none is given).
        rules: How the file is read.
    """

    path: str
    pts_us: np.ndarray
    frame_duration_us: int
    width: int
    height: int
    lead_us: int = 0
    rules: MediaRules = DEFAULT

    @property
    def frame_times_us(self) -> np.ndarray:
        """int64 [n] times in microseconds: each frame's timestamp plus one nominal frame duration."""
        return self.pts_us + self.frame_duration_us


def probe(path: str | Path, rules: MediaRules = DEFAULT) -> VideoInfo:
    """Read a video's timestamps, and the size of its first frame.

    Args:
        path: Path of the file.
        rules: How the file is read.

    Raises:
        MediaError: The file is missing, empty, no video, truncated, or has an unsupported codec.
    """
    import av

    path = str(path)
    check_file(path)
    container, stream = open_video(path, rules=rules)
    try:
        with container:
            unit = stream.time_base
            stamps, ends = [], []
            size_probe = FrameSizeProbe(stream, rules)
            for packet in container.demux(stream):
                size_probe.try_packet(packet)
                stamp = packet.pts if packet.pts is not None else packet.dts
                if packet.size and not packet.is_discard and stamp is not None:
                    stamps.append(stamp)
                    ends.append(stamp + (packet.duration or 0))
            start = stream.start_time
            length = stream.duration
            indexed = "mp4" in container.format.name
            if indexed:
                _check_samples(path, stream.index_entries)
            height, width = size_probe.size()
    except (av.FFmpegError, OSError) as error:
        raise MediaError(f"{path}: is not a readable video ({error.strerror})") from error
    if not stamps:
        raise MediaError(f"{path}: holds no video frame")
    if height < 1 or width < 1:
        raise MediaError(f"{path}: has no picture size")
    stamps = np.unique(np.array(stamps, np.int64))
    pts = to_microseconds(stamps - stamps[0], unit)
    gap = _common_gap(pts)
    lead = int(to_microseconds(int(stamps[0]) - (start or 0), unit))
    if indexed and length:
        # Missing fragments are in no index, but the duration counts them. The last frame is shown for
        # as long as its packet says, which may be most of the video.
        duration, end = to_microseconds(length, unit), to_microseconds(max(ends) - (start or 0), unit)
        if end + max(2 * gap, 500_000) < duration:
            raise MediaError(
                f"{path}: is cut short, with frames up to {end / 1e6:g} s of {duration / 1e6:g} s"
            )
    return VideoInfo(path, pts, gap, width, height, lead, rules)


def _check_samples(path: str, entries: IndexEntries) -> None:
    """Raises MediaError unless all frames that an MP4's index lists lie within the file."""
    size = os.stat(path).st_size
    missing = sum(entry.pos + entry.size > size for entry in entries)
    if missing:
        raise MediaError(f"{path}: is cut short: {missing} of its {len(entries)} frames are missing")


def _common_gap(pts_us: np.ndarray) -> int:
    """Returns the most common gap, to the millisecond (a container may alternate 33 and 34 ms)."""
    if len(pts_us) < 2:
        return 0
    gaps = np.diff(pts_us)
    in_ms = (gaps + 500) // 1000
    counts = Counter(in_ms.tolist())
    most_common = max(counts, key=lambda ms: (counts[ms], -ms))
    # The exact gap is finer than a millisecond: 41,667 us at 24 FPS, not 42,000.
    return round(float(np.mean(gaps[in_ms == most_common])))


def iter_frames(
    info: VideoInfo, indices: Sequence[int] | np.ndarray, threads: int = 1
) -> Iterator[np.ndarray]:
    """Decode frames one by one, in constant memory.

    Args:
        info: The video, from `probe`.
        indices: Frame numbers, ascending; a repeated number yields the same array again.
        threads: Decoding threads; 0 uses one thread per core. Data loaders run one process per core,
            with one thread each.

    Yields:
        uint8 [H, W, 3] RGB, turned and mirrored as displayed; pixels as wide as stored.

    Raises:
        MediaError: A frame cannot be decoded.
        ValueError: The frame numbers do not ascend, or the video has no such frame.
    """
    indices = [int(i) for i in indices]
    if not indices:
        return
    if indices[0] < 0 or indices[-1] >= len(info.pts_us) or indices != sorted(indices):
        raise ValueError(f"frame numbers must ascend within 0 and {len(info.pts_us) - 1}")
    check_file(info.path)
    counts = Counter(indices)
    times = [int(info.pts_us[i]) for i in counts]
    for count, picture in zip(
        counts.values(), decode_at(info.path, times, info.lead_us, threads, info.rules), strict=True
    ):
        for _ in range(count):
            yield picture


def read_frames(info: VideoInfo, indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """Returns frames by number, uint8 [F, H, W, 3] RGB; see `iter_frames`."""
    frames = list(iter_frames(info, indices))
    if len({f.shape for f in frames}) > 1:
        raise MediaError(f"{info.path}: its frames change size")
    return np.stack(frames) if frames else np.zeros((0, info.height, info.width, 3), np.uint8)


def read_image(path: str | Path) -> np.ndarray:
    """Returns an image as uint8 [H, W, 3] RGB, with its EXIF orientation applied.

    Raises:
        MediaError: The file is missing or not an image.
    """
    import cv2

    path = str(path)
    check_file(path)
    image = cv2.imread(path, cv2.IMREAD_COLOR)
    if image is None:
        raise MediaError(f"{path}: is not a readable image")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
