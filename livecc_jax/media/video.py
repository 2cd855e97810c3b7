"""Videos: probes a video's timestamps and size, and reads frames (PyAV).

Frame counts and rates in headers are often wrong, so they are not used. A frame is found by its
timestamp, which also works for variable frame rates and frames that are stored out of order.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from livecc_jax.errors import MediaError
from livecc_jax.media.completeness import check_complete, check_read
from livecc_jax.media.decode import check_file, decode_at
from livecc_jax.media.frame_file import is_frame_file, read_header
from livecc_jax.media.frame_file import read_frames as read_stored_frames
from livecc_jax.media.image_checks import check_as_video, is_still_picture
from livecc_jax.media.images import read_image
from livecc_jax.media.in_order import IN_ORDER, Timeline
from livecc_jax.media.packet_decoder import to_microseconds
from livecc_jax.media.packets import PacketScan, find_first_decoded, place_recordings, scan_packets
from livecc_jax.media.promises import Promise, read_promise
from livecc_jax.media.rules import DEFAULT, MediaRules

log = logging.getLogger(__name__)

MAX_UNSTAMPED = 0.1  # share of pictures that may lack a timestamp, as at a cut; they are not shown

# OpenCV writes to stderr by itself; its errors are raised as MediaError instead.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")


@dataclass(frozen=True)
class VideoInfo:
    """Timestamps and size of a video, as its packets give them.

    Attributes:
        path: Path of the file.
        pts_us: int64 [n], presentation timestamps in microseconds, ascending; the first timestamp of
            the file is 0 (as in the released reader, also where the stored ones start later). Frames at
            the beginning that cannot be decoded are not among them.
        frame_duration_us: Most common gap between successive timestamps, to the millisecond.
        width: Width in pixels as displayed: turned, and widened if pixels are not square.
        height: Height in pixels as displayed.
        lead_us: How far the first timestamp comes after the stream's nominal start (0 if none is
            given); `in_order.IN_ORDER` for a file that holds several recordings, one after the other.
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
    path = str(path)
    check_file(path)
    if is_frame_file(path):
        stored = read_header(path)
        return VideoInfo(
            path, stored.pts_us, stored.frame_duration_us, stored.width, stored.height, rules=rules
        )
    import av

    size = os.stat(path).st_size
    promise = read_promise(path) if rules.version > 1 else Promise()
    try:
        if rules.version > 1:
            check_as_video(path)
            if is_still_picture(path):
                read_image(path)  # which is whole, or refused
        scan = scan_packets(path, size, rules)
        if rules.version > 1:
            _check_stamped(path, scan)
        if not scan.num_stamps:
            raise MediaError(f"{path}: holds no video frame")
        if min(scan.size) < 1:
            raise MediaError(f"{path}: has no picture size, and none of its frames can be decoded")
        pts, gap, timeline = place_recordings(scan)
        if (pts[1:] <= pts[:-1]).any():
            raise MediaError(f"{path}: its frames are less than a microsecond apart, as no clock is")
        first, last = scan.recordings[0], scan.recordings[-1]
        lead = int(to_microseconds(timeline.starts[0] - scan.start, scan.unit))
        end = timeline.offsets_us[-1] + max(lead, 0)
        end += int(to_microseconds(last.end - timeline.starts[-1], scan.unit)) if last.stamps else 0
        check_complete(path, size, scan, promise, end, gap, rules)
        if rules.version > 1 and (len(scan.recordings) > 1 or scan.first_decoded != min(first.stamps)):
            pts = _decodable(path, scan, pts, timeline, rules)
    except (av.FFmpegError, OSError) as error:
        check_read(path, promise)
        if (promise.size or 0) > size:
            raise _cut_short(path, size, promise.size) from error
        raise MediaError(f"{path}: is not a readable video ({error.strerror})") from error
    except MediaError as error:
        if "another recording" not in str(error):
            check_read(path, promise)
        if "cut short" not in str(error) and (promise.size or 0) > size:
            raise _cut_short(path, size, promise.size) from error
        raise
    if len(scan.recordings) > 1:
        starts = ", ".join(f"{offset / 1e6:g} s" for offset in timeline.offsets_us[1:][:10])
        log.warning(
            "%s: holds %d recordings; at %s the clock starts anew, and time goes on without a gap",
            path, len(scan.recordings), starts,
        )  # fmt: skip
        lead = IN_ORDER
    return VideoInfo(path, pts, gap, *scan.size[::-1], lead, rules)


def _cut_short(path: str, size: int, promised: int) -> MediaError:
    return MediaError(
        f"{path}: is cut short: it holds {size:,} bytes of the {promised:,} that its header promises, "
        "and cannot be read"
    )


def _check_stamped(path: str, scan: PacketScan) -> None:
    """Raises MediaError if many pictures have no timestamp, as in packets of several frames."""
    total = scan.num_stamps + scan.unstamped
    if scan.unstamped > MAX_UNSTAMPED * total:
        raise MediaError(
            f"{path}: {scan.unstamped} of its {total} frames have no timestamps, so that their times "
            "are not known; encode it anew at its frame rate, such as with `ffmpeg -r 25 -i IN OUT.mp4`"
        )


def _decodable(
    path: str, scan: PacketScan, pts_us: np.ndarray, timeline: Timeline, rules: MediaRules
) -> np.ndarray:
    """Returns the times without those of pictures that cannot be decoded at the beginning.

    A recording that was cut from a longer one may begin between two key frames.
    """
    keep = np.ones(len(pts_us), bool)
    for start, offset_us, first in zip(
        timeline.starts, timeline.offsets_us, find_first_decoded(path, scan, rules), strict=True
    ):
        if first is None or first <= start:
            continue
        if scan.storage_order:
            raise MediaError(
                f"{path}: begins between two key frames, and its container has no display times to "
                "tell which frames are missing; encode it anew, such as with `ffmpeg -i IN OUT.mp4`"
            )
        usable_us = offset_us + int(to_microseconds(first - start, scan.unit))
        missing = (offset_us <= pts_us) & (pts_us < usable_us)
        keep &= ~missing
        log.warning(
            "%s: %s between two key frames: its first %.3f s (%d frames) cannot be decoded",
            path, f"the recording at {offset_us / 1e6:g} s begins" if offset_us else "begins",
            (usable_us - offset_us) / 1e6, missing.sum(),
        )  # fmt: skip
    return pts_us[keep]


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
    if is_frame_file(info.path):
        yield from read_stored_frames(info.path, info.pts_us[indices])
        return
    timeline = None
    if info.lead_us == IN_ORDER:
        scan = scan_packets(info.path, os.stat(info.path).st_size, info.rules)
        timeline = place_recordings(scan)[2]
    pictures = decode_at(info.path, times, info.lead_us, threads, info.rules, timeline=timeline)
    for count, picture in zip(counts.values(), pictures, strict=True):
        for _ in range(count):
            yield picture


def read_frames(info: VideoInfo, indices: Sequence[int] | np.ndarray) -> np.ndarray:
    """Returns frames by number, uint8 [F, H, W, 3] RGB; see `iter_frames`."""
    frames = list(iter_frames(info, indices))
    if len({f.shape for f in frames}) > 1:
        raise MediaError(f"{info.path}: its frames change size")
    return np.stack(frames) if frames else np.zeros((0, info.height, info.width, 3), np.uint8)
