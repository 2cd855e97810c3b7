"""Reads a live source as frames at 2 FPS, in a thread of its own, and opens it again when it fails.

A slow consumer loses the oldest frames in the queue. A source that stalls, breaks or ends is reported
and opened again after a pause that doubles; other sources are not affected.
"""

from __future__ import annotations

import collections
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from livecc_jax.errors import ConfigError, MediaError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.pixels import resize
from livecc_jax.media.sampling import FPS
from livecc_jax.media.sources import (
    SourceEnded,
    SourceError,
    SourceStalled,
    TimedPicture,
    Timeouts,
    read_source,
)
from livecc_jax.redact import redact_address

log = logging.getLogger(__name__)

STEP_US = 1_000_000 // FPS
JUMP_US = 10_000_000  # a stream clock that is this far ahead of arrival, or runs back, was reset


class SourceLost(MediaError):
    """A source failed too often in a row."""


@dataclass(frozen=True)
class LiveFrame:
    """A frame of a source.

    Attributes:
        picture: uint8 [h, w, 3] RGB at the budget's size.
        time_us: Microseconds since the source's first picture, lost pictures included.
        captured_at: `time.time()` of its arrival; None for a file that is not played live.
    """

    picture: np.ndarray
    time_us: int
    captured_at: float | None


@dataclass(frozen=True)
class SourceEvent:
    """Something that happened to a source.

    Attributes:
        source: Camera number or address, without password.
        kind: `opened` (pictures arrive), `stalled`, `broken` or `ended` (it is opened again after
            `retry_in` seconds), `resized` (its pictures have another size; frames keep theirs),
            `dropped` (the consumer lags; sent for the first of a run of lost frames), `finished` or
            `lost` (no more frames will come).
        detail: A sentence about it.
        at: `time.time()` of the event.
        retry_in: Seconds until the source is opened again.
    """

    source: str
    kind: Literal["opened", "stalled", "broken", "ended", "resized", "dropped", "finished", "lost"]
    detail: str
    at: float
    retry_in: float | None = None


@dataclass(frozen=True)
class LiveOptions:
    """How a live source is read.

    Attributes:
        timeouts: Time limits of opening and reading.
        retries: Maximum number of failed attempts in a row; None is no limit.
        retry_first: Also retry a source that has never sent a picture; otherwise its first failure is
            final.
        backoff: Seconds before the second attempt; the pause doubles with each further attempt.
        max_backoff: Maximum pause in seconds.
        queue: Maximum number of frames that wait for the consumer. When another one arrives, the
            oldest is dropped, because a live frame is worth more than an old one.
    """

    timeouts: Timeouts = field(default_factory=Timeouts)
    retries: int | None = 5
    retry_first: bool = False
    backoff: float = 0.5
    max_backoff: float = 30.0
    queue: int = 64

    def __post_init__(self) -> None:
        if self.queue < 1 or self.backoff <= 0 or self.max_backoff <= 0:
            raise ConfigError("a live source needs a queue of at least 1 frame and positive pauses")


@dataclass(frozen=True)
class LiveCounts:
    """Counters of a source.

    Attributes:
        pictures: Pictures that arrived.
        frames: Frames that were sampled from them at 2 FPS.
        dropped: Frames that were dropped from the queue.
        failures: Stalls, breaks and ends.
    """

    pictures: int = 0
    frames: int = 0
    dropped: int = 0
    failures: int = 0


class StreamClock:
    """Computes each picture's time since the first, from the stream's timestamps where plausible."""

    def __init__(self) -> None:
        self._first: float | None = None
        self._offset: int | None = None
        self._latest = -1

    def time_of(self, stamp_us: int | None, arrived: float) -> int:
        """Returns the time of a picture in microseconds; times ascend strictly.

        Args:
            stamp_us: The stream's timestamp in microseconds, or None.
            arrived: Arrival in seconds of a monotonic clock.
        """
        self._first = arrived if self._first is None else self._first
        elapsed = round((arrived - self._first) * 1_000_000)
        if stamp_us is None:
            time_us = elapsed
        else:
            if self._offset is None:
                self._offset = max(elapsed, self._latest + 1) - stamp_us
            time_us = stamp_us + self._offset
            if not self._latest < time_us <= max(elapsed, self._latest) + JUMP_US:
                self._offset = max(elapsed, self._latest + 1) - stamp_us
                time_us = stamp_us + self._offset
        self._latest = max(time_us, self._latest + 1)
        return self._latest

    def restart(self) -> None:
        """Start a new stream, whose timestamps are counted from the arrival of its first picture."""
        self._offset = None


class LiveSource:
    """Frames of one source, read by a thread until it is closed.

    Args:
        source: Camera number or address.
        budget: A fixed pixel budget. All frames get the size that it gives the first picture.
        options: How the source is read.
        on_event: Called with each SourceEvent, from the reading thread.
        opener: Yields the pictures; other functions than `read_source` serve other kinds of sources.
        size: Height and width of frames; None follows from the budget and the first picture.

    Raises:
        ConfigError: The budget is `reference`, which depends on the length of the source.
    """

    def __init__(
        self,
        source: str,
        budget: PixelBudget,
        options: LiveOptions | None = None,
        on_event: Callable[[SourceEvent], None] | None = None,
        opener: Callable[[str, Timeouts], Iterator[TimedPicture]] = read_source,
        size: tuple[int, int] | None = None,
    ) -> None:
        if budget.tokens is None and size is None:
            raise ConfigError(f"{source}: a live source needs a fixed pixel budget, not `reference`")
        self.source, self.name = source, redact_address(source)
        self.counts = LiveCounts()
        self._budget, self._options = budget, options or LiveOptions()
        self._on_event, self._opener = on_event, opener
        self._queue: collections.deque[LiveFrame] = collections.deque()
        self._condition = threading.Condition()  # guards the queue and the three fields below
        self._finished = False
        self._failure: Exception | None = None
        self._lagging = False
        self._stop = threading.Event()
        self._size = size
        self._picture_size: tuple[int, int] | None = None
        self._clock, self._next_step = StreamClock(), 0
        self._thread = threading.Thread(target=self._run, name=f"live {self.name}", daemon=True)
        self._thread.start()

    def frames(self) -> Iterator[LiveFrame]:
        """Yields frames in order, waiting for each, until the source has finished or was closed.

        Raises:
            SourceLost: The source failed too often in a row.
        """
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._queue or self._finished)
                if not self._queue:
                    break
                frame = self._queue.popleft()
                self._lagging = False
            yield frame
        if self._failure is not None:
            raise self._failure

    def close(self, wait: float = 0.5) -> None:
        """Stop reading. Waits so many seconds for a read that hangs, which its timeout ends later."""
        self._stop.set()
        self._finish()
        self.join(wait)

    def join(self, timeout: float) -> bool:
        """Wait until the reading thread has ended. Returns whether it has, within so many seconds."""
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def __enter__(self) -> LiveSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _finish(self, failure: Exception | None = None) -> None:
        with self._condition:
            self._finished = True
            self._failure = self._failure or failure
            self._condition.notify_all()

    def _notify(self, kind: str, detail: str, retry_in: float | None = None) -> None:
        retry = "" if retry_in is None else f"; trying again in {retry_in:g} s"
        log.log(logging.INFO if kind in ("opened", "finished") else logging.WARNING, detail + retry)
        if self._on_event is not None:
            self._on_event(SourceEvent(self.name, kind, detail, time.time(), retry_in))

    def _count(self, **increments: int) -> None:
        counts = self.counts
        self.counts = replace(counts, **{k: getattr(counts, k) + n for k, n in increments.items()})

    def _run(self) -> None:
        try:
            self._read_with_retries()
            self._finish()
        except Exception as error:  # any error must end the consumer's wait
            self._finish(error)

    def _read_with_retries(self) -> None:
        """Open and read the source until an attempt is the last one."""
        options, failures_in_a_row = self._options, 0
        while not self._stop.is_set():
            pictures_before = self.counts.pictures
            self._clock.restart()
            try:
                for picture in self._opener(self.source, options.timeouts):
                    if self._stop.is_set():
                        return
                    self._sample(picture, first=self.counts.pictures == pictures_before)
                raise SourceEnded(f"{self.name}: the stream ended")
            except SourceError as error:
                self._count(failures=1)
                if isinstance(error, SourceEnded) and error.complete:
                    self._notify("finished", str(error))
                    return
                worked = self.counts.pictures > pictures_before
                failures_in_a_row = 1 if worked else failures_in_a_row + 1
                kind = {SourceEnded: "ended", SourceStalled: "stalled"}.get(type(error), "broken")
                if not self.counts.pictures and not options.retry_first:
                    self._notify("lost", str(error))
                    raise SourceLost(str(error)) from error
                if options.retries is not None and failures_in_a_row > options.retries:
                    self._notify("lost", str(error))
                    raise SourceLost(
                        f"{error}, and {options.retries} attempts to open it again failed"
                    ) from error
                doublings = min(failures_in_a_row - 1, 30)
                pause = min(options.max_backoff, options.backoff * 2**doublings)
                self._notify(kind, str(error), pause)
                self._stop.wait(pause)

    def _sample(self, timed: TimedPicture, first: bool) -> None:
        """Put the first picture of each half second into the queue."""
        time_us = self._clock.time_of(timed.stamp_us, time.monotonic())
        self._count(pictures=1)
        if first:
            self._notify("opened", f"{self.name}: pictures arrive")
        if time_us < self._next_step * STEP_US:
            return
        captured_at = time.time()
        picture = timed.load()
        shape = timed.size or picture.shape[:2]  # as displayed
        self._size = self._size or self._budget.size(*shape, 2)
        if self._picture_size not in (None, shape):
            self._notify("resized", f"{self.name}: its pictures are {shape[1]}x{shape[0]} now")
        self._picture_size = shape
        # After a gap, the next frame is due by the clock; lost frames are not repeated.
        self._next_step = time_us // STEP_US + 1
        if picture.shape[:2] != self._size:
            picture = resize(picture[None], self._size)[0]
        self._put(LiveFrame(picture, time_us, captured_at))

    def _put(self, frame: LiveFrame) -> None:
        self._count(frames=1)
        with self._condition:
            drop = len(self._queue) >= self._options.queue
            if drop:
                self._queue.popleft()
            starts_lagging = drop and not self._lagging
            self._lagging = self._lagging or drop
            self._queue.append(frame)
            self._condition.notify_all()
        if drop:
            self._count(dropped=1)
        if starts_lagging:
            self._notify("dropped", f"{self.name}: frames are dropped: they are read too slowly")
