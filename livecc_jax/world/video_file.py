"""Writes H.264 videos (PyAV); one thread, so that the same frames give the same bytes."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np

from livecc_jax.errors import ConfigError, OutputError
from livecc_jax.writing import make_folder, writing

# Without macroblock trees, whose rate control gave other bytes in each run (x264 of PyAV 18.1).
X264 = "threads=1:lookahead_threads=1:mbtree=0"
OPTIONS = {"crf": "16", "preset": "veryfast", "threads": "1", "x264-params": X264}
KEY_FRAMES = 2  # seconds from one key frame to the next


def write_video(
    path: str | Path, frames: Iterable[np.ndarray], size: tuple[int, int], fps: int
) -> None:
    """Encodes frames as an MP4 file, complete or not at all.

    Args:
        path: The file.
        frames: uint8 [n, height, width, 3] pieces, RGB, in order.
        size: Height and width; both even.
        fps: Frames a second.

    Raises:
        ConfigError: A side is odd, which H.264's colours do not allow, or PyAV is not installed.
        OutputError: The file cannot be written.
    """
    if size[0] % 2 or size[1] % 2:
        raise ConfigError(f"a video of {size[1]}x{size[0]} pixels is not possible: sides must be even")
    try:
        import av
    except ImportError as error:
        raise ConfigError(
            "writing videos needs PyAV, which is not installed; `--frames stored` does without"
        ) from error

    path = Path(path)
    make_folder(path.parent)
    unfinished = path.with_name(f".{path.stem}.{os.getpid()}.part.mp4")
    try:
        with writing(path), av.open(str(unfinished), "w") as container:
            stream = container.add_stream("libx264", rate=fps, options=OPTIONS)
            stream.height, stream.width = size
            stream.pix_fmt = "yuv420p"
            stream.time_base = Fraction(1, fps)
            stream.codec_context.thread_count = 1
            stream.codec_context.gop_size = KEY_FRAMES * fps
            number = 0
            for piece in frames:
                for frame in piece:
                    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
                    picture.pts, picture.time_base = number, Fraction(1, fps)
                    container.mux(stream.encode(picture))
                    number += 1
            container.mux(stream.encode())
        with writing(path):
            os.replace(unfinished, path)
    except av.FFmpegError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        unfinished.unlink(missing_ok=True)
