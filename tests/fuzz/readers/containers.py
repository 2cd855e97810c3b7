"""Video containers: PyAV decodes every frame from the start, without any of our rules."""

from functools import cache
from pathlib import Path

import av
import numpy as np

from livecc_jax.media.video import probe, read_frames
from tests.fuzz.reader import Reader, all_files
from tests.support.media import make_video, remux

CONTAINERS = ("mp4", "mkv", "ts", "flv", "mov")
OTHERS = {  # codec, options and frames a second
    "vp9.webm": ("libvpx-vp9", {"deadline": "realtime"}, None),
    "vp8.ogv": ("libvpx", {"deadline": "realtime", "g": "5"}, 10),
    "mpeg4.avi": ("mpeg4", {"g": "5"}, 10),
    "mpeg2.mpg": ("mpeg2video", {"g": "5", "bf": "2"}, 25),
    "wmv2.wmv": ("wmv2", {"g": "5"}, 10),
}


@cache
def _made(name: str) -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        base = make_video(
            Path(folder) / "base.mp4", range(0, 2000, 100), options={"g": "5"}, frame_rate=10
        )
        path = Path(folder) / name
        if name in OTHERS:
            codec, options, rate = OTHERS[name]
            step = 40 if rate == 25 else 100
            make_video(path, range(0, 15 * step, step), codec, options, frame_rate=rate)
        else:
            options = {"movflags": "frag_keyframe+empty_moov"} if "fragments" in name else None
            with av.open(str(base)) as source:
                remux(source, path, options)
        return path.read_bytes()


def _prepare(folder: Path) -> None:
    for name in (*(f"h264.{c}" for c in CONTAINERS), "h264.fragments.mp4", *OTHERS):
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
        if any(frame.is_corrupt for frame in frames):
            return ""  # likewise
        decoded = [(frame.pts, _displayed(frame, frame.to_ndarray(format="rgb24"))) for frame in frames]
        if any(picture is None for _, picture in decoded):
            return ""
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


def _displayed(frame: av.VideoFrame, picture: np.ndarray) -> np.ndarray | None:
    """Puts every pixel where the display matrix says; None if that is no multiple of 90 degrees."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return picture
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    if b == c == 0 != a * d:
        right, down = (np.sign(a), 0), (0, np.sign(d))
    elif a == d == 0 != b * c:
        right, down = (0, np.sign(b)), (np.sign(c), 0)
    else:
        return None
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]]
    on_x, on_y = x * right[0] + y * down[0], x * right[1] + y * down[1]
    shown = np.zeros((np.ptp(on_y) + 1, np.ptp(on_x) + 1, 3), np.uint8)
    shown[on_y - on_y.min(), on_x - on_x.min()] = picture
    return shown


READER = Reader("containers", _prepare, all_files, _read, _differs, share=1.2, fast=10)
