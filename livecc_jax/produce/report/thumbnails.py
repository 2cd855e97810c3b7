"""Small pictures of clips for the report, made by a child process that may be ended: a video that no
stage had to open may be one that hangs a decoder or fills the memory."""

from __future__ import annotations

import logging
import multiprocessing
import os
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from livecc_jax.errors import LiveCCError
from livecc_jax.parallel.child_process import exit_with_parent
from livecc_jax.produce.line.limits import limit_address_space
from livecc_jax.produce.line.worker import without_main_module
from livecc_jax.produce.records import Clip
from livecc_jax.reports.page import Picture

log = logging.getLogger(__name__)

COUNT, SIDE, JPEG_QUALITY = 4, 160, 60  # pictures of a clip, pixels of the longest side
SECONDS = 20.0  # that one video may take
START_SECONDS = 120.0  # that starting the child may take
MEMORY_GB = 2.0


class Thumbnails:
    """Makes pictures; a context manager, whose end is that of the child.

    Args:
        seconds: Seconds that one video may take.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._process: Any = None
        self._pipe: Any = None
        self._ready = False

    def __enter__(self) -> Thumbnails:
        """Returns itself; the child is started for the first video."""
        return self

    def __exit__(self, *error: object) -> None:
        """Ends the child."""
        self._end()

    def of(self, video: str, start_ms: int, end_ms: int) -> list[Picture]:
        """Returns some pictures of a stretch of a video; none where it cannot be read in time."""
        if not Path(video).is_file():
            return []
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=_work, args=(theirs, os.getpid()), daemon=True)
            with without_main_module():
                self._process.start()
            theirs.close()
        try:
            if not self._ready:
                if not self._pipe.poll(START_SECONDS):
                    raise EOFError
                self._ready = self._pipe.recv()
            self._pipe.send((video, start_ms, end_ms))
            if self._pipe.poll(self._seconds):
                return [Picture(*values) for values in self._pipe.recv()]
        except (EOFError, OSError):
            pass  # the child has died
        log.warning("%s: no pictures for the report: it takes too long, or ends its reader", video)
        self._end()
        return []

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process, self._ready = None, False


def _work(pipe: Connection, parent: int) -> None:
    """Runs in the child."""
    exit_with_parent(parent)
    limit_address_space(MEMORY_GB)
    import cv2  # noqa: F401

    import livecc_jax.media.video  # noqa: F401

    pipe.send(True)  # from here on, what takes long is a video
    while True:
        try:
            video, start_ms, end_ms = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            pipe.send(_encode(Clip(0, 0, "", video, start_ms, max(end_ms, start_ms + 1), ())))
        except (LiveCCError, OSError, MemoryError) as error:
            log.info("%s: no pictures for the report: %s", video, error)
            pipe.send([])


def _encode(clip: Clip) -> list[tuple[bytes, int, int]]:
    """Returns (JPEG, width, height) of some frames. Raises MediaError."""
    import cv2

    from livecc_jax.produce.filters.frames import even_frames

    found = []
    for frame in even_frames(clip, COUNT, SIDE):
        done, jpeg = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        if done:
            found.append((jpeg.tobytes(), frame.shape[1], frame.shape[0]))
    return found
