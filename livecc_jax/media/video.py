"""Videos and images: timestamps by demuxing (PyAV), pictures by decoding (OpenCV).

Headers lie about frame counts and rates, so neither is asked. A picture is found by its timestamp,
which holds for variable frame rates and for frames stored out of order.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from livecc_jax.errors import MediaError

if TYPE_CHECKING:
    from av.index import IndexEntries

# The native decoders write to stderr by themselves; what matters of it comes back as MediaError.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")

SEEK_FROM_US = 8_000_000  # nearer targets are reached faster by decoding up to them
SEEK_MARGIN_US = 1_000_000
TOLERANCE_US = 1_000  # OpenCV gives times as milliseconds in floating point


@dataclass(frozen=True)
class VideoInfo:
    """What a video's packets say.

    Attributes:
        path: of the file.
        pts_us: int64 [n], presentation timestamps in microseconds, ascending, the first one 0
            (as the released reader has them, also where the stored ones start later).
        frame_duration_us: the most common gap between successive timestamps, to the millisecond.
        width, height: in pixels as displayed, rotation applied.
        lead_us: how far the first frame comes after the stream's nominal start.
    """

    path: str
    pts_us: np.ndarray
    frame_duration_us: int
    width: int
    height: int
    lead_us: int = 0

    @property
    def frame_times_us(self) -> np.ndarray:
        """int64 [n]: a frame's time is its timestamp plus one nominal frame duration."""
        return self.pts_us + self.frame_duration_us


def probe(path: str | Path) -> VideoInfo:
    """Read a video's timestamps and size; no frame is decoded.

    Raises:
        MediaError: the file is missing, empty, no video, or cut short.
    """
    import av

    av.logging.set_level(av.logging.PANIC)
    path = str(path)
    _check_file(path)
    try:
        with av.open(path) as container:
            if not container.streams.video:
                raise MediaError(f"{path}: holds no video stream")
            stream = container.streams.video[0]
            unit = stream.time_base
            stamps, ends = [], []
            for packet in container.demux(stream):
                stamp = packet.pts if packet.pts is not None else packet.dts
                if packet.size and not packet.is_discard and stamp is not None:
                    stamps.append(stamp)
                    ends.append(stamp + (packet.duration or 0))
            start = stream.start_time
            length = stream.duration
            indexed = "mp4" in container.format.name
            if indexed:
                _check_samples(path, stream.index_entries)
    except av.FFmpegError as error:
        raise MediaError(f"{path}: is not a readable video ({error.strerror})") from error
    if not stamps:
        raise MediaError(f"{path}: holds no video frame")
    stamps = np.unique(np.array(stamps, np.int64))
    pts = _microseconds(stamps - stamps[0], unit)
    gap = _common_gap(pts)
    lead = int(_microseconds(np.array([stamps[0] - (stamps[0] if start is None else start)]), unit)[0])
    if indexed and length:
        # What its index does not list (fragments that are not there) is missed by the duration. The last
        # frame is shown for as long as its packet says, which may be most of the video.
        whole, shown = _microseconds(np.array([length, max(ends) - (start or 0)]), unit)
        if shown + max(2 * gap, 500_000) < whole:
            raise MediaError(
                f"{path}: is cut short, with frames up to {shown / 1e6:g} s of {whole / 1e6:g} s"
            )
    width, height = _displayed_size(path)
    return VideoInfo(path, pts, gap, width, height, lead)


def _check_file(path: str) -> None:
    try:
        size = os.stat(path).st_size
    except OSError as error:
        raise MediaError(f"{path}: cannot be read: {error.strerror}") from error
    if os.path.isdir(path):
        raise MediaError(f"{path}: is a directory")
    if not size:
        raise MediaError(f"{path}: is empty")


def _check_samples(path: str, entries: IndexEntries) -> None:
    """Make sure that all of an MP4's frames, which its index lists by place and size, are in the file."""
    size = os.stat(path).st_size
    missing = sum(entry.pos + entry.size > size for entry in entries)
    if missing:
        raise MediaError(f"{path}: is cut short: {missing} of its {len(entries)} frames are missing")


def _microseconds(stamps: np.ndarray, unit: Fraction) -> np.ndarray:
    """Stamps in `unit` seconds to microseconds, halves up, without floating point."""
    top, bottom = unit.numerator * 1_000_000, unit.denominator
    return (2 * stamps * top + bottom) // (2 * bottom)


def _common_gap(pts_us: np.ndarray) -> int:
    """The most common gap, compared to the millisecond (a container may alternate 33 and 34 ms)."""
    if len(pts_us) < 2:
        return 0
    gaps = np.diff(pts_us)
    in_ms = (gaps + 500) // 1000
    counts = Counter(in_ms.tolist())
    most = max(counts, key=lambda ms: (counts[ms], -ms))
    # The exact gap is finer than a millisecond: 41,667 us at 24 FPS, not 42,000.
    return round(float(np.mean(gaps[in_ms == most])))


def _open(path: str) -> object:
    import cv2

    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
    if not capture.isOpened():
        raise MediaError(f"{path}: cannot be decoded")
    return capture


def _displayed_size(path: str) -> tuple[int, int]:
    import cv2

    capture = _open(path)
    try:
        width = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH))
        height = int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    finally:
        capture.release()
    if width < 1 or height < 1:
        raise MediaError(f"{path}: has no picture size")
    return width, height


def iter_frames(info: VideoInfo, indices: Sequence[int] | np.ndarray) -> Iterator[np.ndarray]:
    """Decode frames one by one, in constant memory.

    Args:
        info: from `probe`.
        indices: frame numbers, ascending; a repeated one is yielded again.

    Yields:
        uint8 [H, W, 3] RGB, rotation applied.

    Raises:
        MediaError: a frame cannot be decoded.
    """
    import cv2

    indices = [int(i) for i in indices]
    if not indices:
        return
    if indices[0] < 0 or indices[-1] >= len(info.pts_us) or indices != sorted(indices):
        raise ValueError(f"frame numbers must ascend within 0 and {len(info.pts_us) - 1}")
    capture = _seek(info, int(info.pts_us[indices[0]]))
    picture, at = None, -SEEK_FROM_US  # before every frame
    try:
        for i in indices:
            wanted = int(info.pts_us[i])
            while at < wanted - TOLERANCE_US:
                if not capture.grab():
                    raise _undecodable(info, i)
                at = _position(capture, info)
                picture = None
            if at > wanted + TOLERANCE_US:
                raise _undecodable(info, i)
            if picture is None:
                ok, bgr = capture.retrieve()
                if not ok:
                    raise _undecodable(info, i)
                picture = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
            yield picture
    finally:
        capture.release()


def _undecodable(info: VideoInfo, i: int) -> MediaError:
    return MediaError(f"{info.path}: the frame at {info.pts_us[i] / 1e6:.3f} s cannot be decoded")


def _position(capture: object, info: VideoInfo) -> int:
    """Timestamp of the frame just grabbed, on `info.pts_us`'s clock."""
    import cv2

    return round(capture.get(cv2.CAP_PROP_POS_MSEC) * 1000) - info.lead_us


def _seek(info: VideoInfo, target_us: int) -> object:
    """A capture whose next frames lead up to the target.

    A seek may land anywhere; where it landed is read from the frame itself, and if that is past the
    target, decoding starts from the beginning.
    """
    import cv2

    capture = _open(info.path)
    if target_us < SEEK_FROM_US:
        return capture
    capture.set(cv2.CAP_PROP_POS_MSEC, (target_us + info.lead_us - SEEK_MARGIN_US) / 1000)
    if capture.grab() and _position(capture, info) < target_us - TOLERANCE_US:
        return capture
    capture.release()
    return _open(info.path)


def read_frames(info: VideoInfo, indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """Frames by number: uint8 [F, H, W, 3] RGB; see `iter_frames`."""
    frames = list(iter_frames(info, indices))
    if len({f.shape for f in frames}) > 1:
        raise MediaError(f"{info.path}: its frames change size")
    return np.stack(frames) if frames else np.zeros((0, info.height, info.width, 3), np.uint8)


def read_image(path: str | Path) -> np.ndarray:
    """An image as uint8 [H, W, 3] RGB, turned as its EXIF orientation says.

    Raises MediaError when it is missing or no image.
    """
    import cv2

    path = str(path)
    _check_file(path)
    image = cv2.imread(path, cv2.IMREAD_COLOR)
    if image is None:
        raise MediaError(f"{path}: is not a readable image")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
