"""Checks that a video holds all that its header promises: a download may have broken off."""

from __future__ import annotations

import numpy as np

from livecc_jax.errors import MediaError
from livecc_jax.media.decode import open_video
from livecc_jax.media.packet_decoder import to_microseconds
from livecc_jax.media.packets import PacketScan
from livecc_jax.media.promises import Promise
from livecc_jax.media.rules import DEFAULT, MediaRules

TOLERANCE_US = 500_000  # headers round, and count the last frame in different ways
HEADER_LENGTHS = ("ivf", "rm", "mxf")  # containers whose length FFmpeg reads from the header alone


def check_complete(
    path: str,
    file_size: int,
    scan: PacketScan,
    promise: Promise,
    end_us: int,
    gap_us: int,
    rules: MediaRules = DEFAULT,
) -> None:
    """Check the packets of a video against its header.

    Args:
        path: Path of the file.
        file_size: Its size in bytes.
        scan: Its packets.
        promise: What its header says.
        end_us: End of the last picture, in microseconds after the first.
        gap_us: Most common gap between pictures in microseconds.
        rules: How the file is read.

    Raises:
        MediaError: The file holds less than its header promises, or another recording that is not read.
    """
    seconds = end_us / 1e6
    check_read(path, promise, f" after its first {seconds:g} s")
    promised = promise.seconds
    if scan.length and (scan.listed or scan.format_name in HEADER_LENGTHS):
        promised = float(scan.length * scan.unit)
    of = f"the {promised:g} s that its header promises" if promised else "an unknown length"
    cut = f"{path}: is cut short: it holds {seconds:g} s of {of}"
    if scan.missing:
        raise MediaError(f"{cut} ({scan.missing} of its {scan.listed} frames are missing)")
    if promise.size is not None and promise.size > file_size and not scan.listed:
        raise MediaError(f"{cut} ({file_size:,} of at least {promise.size:,} bytes)")
    if not promised or scan.format_name == "avi":
        return
    tolerance_us = max(2 * gap_us, TOLERANCE_US)
    latest_us = end_us
    if not scan.listed and latest_us + tolerance_us < promised * 1e6:
        latest_us = max(latest_us, _latest_end(path, rules))  # sound may be longer than the video
    if latest_us + tolerance_us < promised * 1e6:
        raise MediaError(cut)


def check_read(path: str, promise: Promise, place: str = "") -> None:
    """Raises MediaError if a file holds another recording that FFmpeg does not read.

    Args:
        path: Path of the file.
        promise: What its header says.
        place: Where the recording is, for the error message.
    """
    if promise.unread is not None:
        raise MediaError(
            f"{path}: holds another recording{place}, from byte {promise.unread:,} on, which cannot be "
            "read where it is; join recordings with FFmpeg's concat demuxer instead of appending files"
        )


def _latest_end(path: str, rules: MediaRules) -> int:
    """Returns the end of the last packet of any stream, in microseconds of the container's clock."""
    container, _ = open_video(path, rules=rules)
    latest = 0
    with container:
        for packet in container.demux():
            stamp = packet.pts if packet.pts is not None else packet.dts
            if packet.size and stamp is not None:
                end = stamp + (packet.duration or 0)
                latest = max(latest, int(to_microseconds(np.int64(end), packet.time_base)))
    return latest
