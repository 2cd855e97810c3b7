"""A source, turn by turn: a file as fast as it is asked for, a camera at the wall clock."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from livecc_jax.errors import ConfigError, MediaError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.clip import resized_frames
from livecc_jax.media.pixels import resize
from livecc_jax.media.sampling import FPS, sample_strict
from livecc_jax.media.video import probe
from livecc_jax.timeline.example import microseconds
from livecc_jax.timeline.turns import OPENING_FRAMES, TURN_FRAMES

LIVE_SCHEMES = ("rtsp://", "rtsps://", "rtmp://", "http://", "https://", "udp://")
LONGEST_US = 30 * 86_400_000_000  # of a file; beyond it, a timestamp is wrong
LIVE_QUEUE = 64  # sampled frames (32 s) that wait for a decoder that lags, before the oldest is lost


@dataclass(frozen=True)
class Turn:
    """Frames of one turn: uint8 [F, h, w, 3] at the budget's size, F even."""

    frames: np.ndarray


def turns(
    source: str, budget: PixelBudget, start: float | None = None, end: float | None = None
) -> Iterator[Turn]:
    """Six frames, then two a second, at strict 2 FPS; the last turn takes the frames there are.

    Args:
        source: a file, a camera number, or the address of a network stream.
        budget: `reference` needs a file, whose length is known.
        start: seconds of a file to start at.
        end: seconds of a file to end at.

    Raises:
        MediaError: the source cannot be read, or has no two frames in the span.
        ConfigError: an option needs a file.
    """
    if is_live(source):
        if budget.tokens is None:
            raise ConfigError(f"{source}: a live source needs a fixed pixel budget, not `reference`")
        if start is not None or end is not None:
            raise ConfigError(f"{source}: a live source has no start and end to choose")
        frames = _live_frames(source, budget)
    else:
        frames = _file_frames(source, budget, start, end)
    return _in_turns(frames, source)


def is_live(source: str) -> bool:
    """Whether the source is a camera number or a network address."""
    return source.isdigit() or source.lower().startswith(LIVE_SCHEMES)


def _in_turns(frames: Iterator[np.ndarray], source: str) -> Iterator[Turn]:
    held: list[np.ndarray] = []
    size, shown = OPENING_FRAMES, False
    for frame in frames:
        held.append(frame)
        if len(held) == size:
            yield Turn(np.stack(held))
            held, size, shown = [], TURN_FRAMES, True
    if len(held) >= 2:  # an odd frame is dropped, as the released demo does
        yield Turn(np.stack(held[: len(held) // 2 * 2]))
    elif not shown:
        raise MediaError(f"{source}: has fewer than two frames at {FPS} FPS")


def _file_frames(
    path: str, budget: PixelBudget, start: float | None, end: float | None
) -> Iterator[np.ndarray]:
    info = probe(path)
    span = [None if s is None else microseconds(s) for s in (start, end)]
    try:
        # As long as the source lasts (a slow video's frames come several times); but sized as training
        # sizes a clip, which ends at 480 frames.
        lasts = int(info.pts_us[-1])
        if lasts > LONGEST_US:
            raise MediaError(f"its timestamps span {lasts / 86_400e6:.0f} days")
        most = lasts * FPS // 2_000_000 * 2 + 2
        indices = sample_strict(info.frame_times_us, *span, max_frames=most, odd="drop")
        counted = sample_strict(info.frame_times_us, *span)
        size = budget.size(info.height, info.width, len(counted))
    except MediaError as error:
        raise MediaError(f"{path}: {error}") from None
    yield from resized_frames(info, indices, size, threads=0)


def _live_frames(source: str, budget: PixelBudget) -> Iterator[np.ndarray]:
    """Frames by arrival time: the first one, then the first at or after every further half second."""
    import cv2

    capture = cv2.VideoCapture(int(source) if source.isdigit() else source)
    if not capture.isOpened():
        raise MediaError(f"{source}: the live source cannot be opened")
    frames: queue.Queue[np.ndarray | None] = queue.Queue(LIVE_QUEUE)
    stop = threading.Event()

    def put(item: np.ndarray | None) -> None:
        while True:
            try:
                return frames.put_nowait(item)
            except queue.Full:
                frames.get_nowait()  # a live picture is worth more than an old one

    def read() -> None:
        began, taken = None, 0
        while not stop.is_set() and capture.grab():
            now = time.monotonic()
            began = now if began is None else began
            if now - began >= taken / FPS:
                ok, picture = capture.retrieve()
                if not ok:
                    break
                put(picture)
                # A gap in arrival is a gap in time: the next frame is due by the clock.
                taken = int((now - began) * FPS) + 1
        put(None)

    reader = threading.Thread(target=read, name="live-source", daemon=True)
    reader.start()
    size = None
    try:
        while (picture := frames.get()) is not None:
            size = size or budget.size(*picture.shape[:2], 2)
            yield resize(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)[None], size)[0]
    finally:
        stop.set()
        reader.join(timeout=5)
        capture.release()
