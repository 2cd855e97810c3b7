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
        decoded = []
        for packet in container.demux(stream):
            try:
                decoded += [(f.pts, f.to_ndarray(format="rgb24")) for f in packet.decode()]
            except av.FFmpegError:
                continue
        unit = stream.time_base
    by_picture = {picture.tobytes(): stamp for stamp, picture in decoded}
    stamps = []
    for picture in pictures:
        if picture.shape[:2] != decoded[0][1].shape[:2]:
            return ""  # a size, aspect or turn that was changed: held by tests of their own
        if picture.tobytes() not in by_picture:
            return "a picture that plain decoding does not give"
        stamps.append(by_picture[picture.tobytes()])
    if any(stamp is None for stamp in stamps) or file.endswith(".avi"):
        return ""
    times = [round(float((stamp - stamps[0]) * unit) * 1e6) for stamp in stamps]
    expected = [int(info.pts_us[i] - info.pts_us[chosen[0]]) for i in chosen]
    close = all(abs(a - b) <= 1 for a, b in zip(times, expected, strict=True))
    return "" if close else f"pictures of {times} are given for {expected}"


READER = Reader("containers", _prepare, all_files, _read, _differs, share=1.2, fast=10)
