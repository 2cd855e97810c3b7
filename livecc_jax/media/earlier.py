"""Reads videos and images by the rules of indexes that record none (version 1 of the media rules).

This is what the timestamps, sizes and pixels of those indexes were made with, so it must not change.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np

from livecc_jax.errors import MediaError
from livecc_jax.media.decode import FrameSizeProbe, check_file, open_video
from livecc_jax.media.packet_decoder import to_microseconds
from livecc_jax.media.rules import EARLIER, MediaRules
from livecc_jax.media.video import VideoInfo


def probe_earlier(path: str | Path, rules: MediaRules = EARLIER) -> VideoInfo:
    """Returns a video's timestamps and size by the rules of version 1.

    Args:
        path: Path of the file.
        rules: How the file is read, of version 1.

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
            size_probe = FrameSizeProbe(path, stream, rules)
            for packet in container.demux(stream):
                size_probe.try_packet(packet)
                stamp = packet.pts if packet.pts is not None else packet.dts
                if packet.size and not packet.is_discard and stamp is not None:
                    stamps.append(stamp)
                    ends.append(stamp + (packet.duration or 0))
            start, length = stream.start_time or 0, stream.duration
            is_mp4 = "mp4" in container.format.name
            size = os.stat(path).st_size
            if is_mp4 and any(entry.pos + entry.size > size for entry in stream.index_entries):
                raise MediaError(f"{path}: is cut short")
            height, width = size_probe.size()
    except (av.FFmpegError, OSError) as error:
        raise MediaError(f"{path}: is not a readable video ({error.strerror})") from error
    if not stamps or height < 1 or width < 1:
        raise MediaError(f"{path}: holds no video frame")
    stamps = np.unique(np.array(stamps, np.int64))
    pts = to_microseconds(stamps - stamps[0], unit)
    gap = _common_gap(pts)
    lead = int(to_microseconds(int(stamps[0]) - start, unit))
    end = to_microseconds(max(ends) - start, unit)
    if is_mp4 and length and end + max(2 * gap, 500_000) < to_microseconds(length, unit):
        raise MediaError(f"{path}: is cut short")
    return VideoInfo(path, pts, gap, width, height, lead, rules)


def _common_gap(pts_us: np.ndarray) -> int:
    """Returns the most common gap in microseconds, to the millisecond; the shorter wins a tie."""
    if len(pts_us) < 2:
        return 0
    gaps = np.diff(pts_us)
    in_ms = (gaps + 500) // 1000
    counts = Counter(in_ms.tolist())
    most_common = max(counts, key=lambda ms: (counts[ms], -ms))
    return round(float(np.mean(gaps[in_ms == most_common])))


def read_image_earlier(path: str | Path) -> np.ndarray:
    """Returns an image by the rules of version 1, uint8 [H, W, 3] RGB.

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
