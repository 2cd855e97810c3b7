"""Video containers: PyAV decodes every frame from the start, without any of our rules."""

from functools import cache
from pathlib import Path

import av
import numpy as np

from livecc_jax.media.video import probe, read_frames
from tests.fuzz.reader import Reader, all_files
from tests.support.media import make_video, remux

CONTAINERS = ("mp4", "mkv", "ts", "flv", "mov")


@cache
def _made(name: str) -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        base = make_video(
            Path(folder) / "base.mp4", range(0, 2000, 100), options={"g": "5"}, frame_rate=10
        )
        if name == "vp9.webm":
            path = make_video(
                Path(folder) / name, range(0, 1500, 100), "libvpx-vp9", {"deadline": "realtime"}
            )
        elif name == "mpeg4.avi":
            path = make_video(
                Path(folder) / name, range(0, 1500, 100), "mpeg4", {"g": "5"}, frame_rate=10
            )
        else:
            path = Path(folder) / name
            with av.open(str(base)) as source:
                remux(source, path)
        return path.read_bytes()


def _prepare(folder: Path) -> None:
    for name in (*(f"h264.{c}" for c in CONTAINERS), "vp9.webm", "mpeg4.avi"):
        (folder / name).write_bytes(_made(name))


def _read(folder: Path, file: str):
    info = probe(folder / file)
    chosen = sorted({0, len(info.pts_us) // 2, len(info.pts_us) - 1})
    return info, chosen, read_frames(info, chosen)


def _differs(folder: Path, file: str, value) -> str:
    info, chosen, pictures = value
    if (np.diff(info.pts_us) <= 0).any() or (info.frame_duration_us <= 0 and len(info.pts_us) > 1):
        return "times do not ascend"
    with av.open(str(folder / file), metadata_errors="replace") as container:
        if len(container.streams.video) != 1 or info.lead_us < 0:
            return ""  # a choice of tracks, or several recordings: held by tests of their own
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        frames = []
        for packet in container.demux(stream):
            try:
                frames += packet.decode()
            except av.FFmpegError:
                return (
                    ""  # what a decoder shows in place of damage depends on what it has decoded before
                )
        if any(frame.is_corrupt or frame.side_data.get("DISPLAYMATRIX") for frame in frames):
            return ""  # likewise; turned pictures are held by tests of their own
        decoded = [(frame.pts, frame.to_ndarray(format="rgb24")) for frame in frames]
        unit = stream.time_base
    stamps: dict[bytes, set[int | None]] = {}  # several frames may show the same picture
    for stamp, picture in decoded:
        stamps.setdefault(picture.tobytes(), set()).add(stamp)
    for picture in pictures:
        if picture.shape[:2] != decoded[0][1].shape[:2]:
            return ""  # a size or aspect that was changed: held by tests of their own
        if picture.tobytes() not in stamps:
            return "a picture that plain decoding does not give"
    shown = [stamps[picture.tobytes()] for picture in pictures]
    if any(None in found for found in shown) or file.endswith(".avi"):
        return ""
    expected = [int(info.pts_us[i] - info.pts_us[chosen[0]]) for i in chosen]
    for origin in shown[0]:
        times = [[float((stamp - origin) * unit) * 1e6 for stamp in found] for found in shown]
        if all(any(abs(t - e) <= 1.5 for t in found) for found, e in zip(times, expected, strict=True)):
            return ""
    return f"pictures of other times are given for {expected}"


READER = Reader("containers", _prepare, all_files, _read, _differs, share=1.2, fast=10)
