"""A live source as frames at 2 FPS: read in a thread of its own, retried when it fails.

What is stated here is kept whoever reads: a consumer that is slow loses the oldest frames that wait, a
source that stalls, breaks or ends is reported and opened again after a pause that doubles, and no other
source notices.
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

log = logging.getLogger(__name__)

STEP_US = 1_000_000 // FPS
JUMP_US = 10_000_000  # a stream's clock that is so far ahead of arrival, or runs back, was set anew


class SourceLost(MediaError):
    """A source failed more often in a row than it may."""


@dataclass(frozen=True)
class LiveFrame:
    """A frame as it was captured.

    Attributes:
        picture: uint8 [h, w, 3] RGB at the budget's size.
        time_us: microseconds since the source's first picture; what was lost in between counts.
        captured: when it came, as time.time() has it; None of a file that is not live.
    """

    picture: np.ndarray
    time_us: int
    captured: float | None


@dataclass(frozen=True)
class SourceEvent:
    """Something that happened to a source.

    kind: `opened` (pictures come), `stalled`, `broken` or `ended` (and will be tried again in
    `retry_in` seconds), `resized` (its pictures have another size; frames keep theirs), `dropped` (the
    consumer lags: the first of a run of lost frames), `finished` or `lost` (nothing more will come).
    """

    source: str
    kind: Literal["opened", "stalled", "broken", "ended", "resized", "dropped", "finished", "lost"]
    detail: str
    at: float
    retry_in: float | None = None


@dataclass(frozen=True)
class LiveOptions:
    """How a live source is treated.

    Attributes:
        limits: seconds that opening and reading may take.
        retries: attempts in a row that may give no picture, or None for no limit.
        patient: retry a source that has never given a picture, too. Otherwise that is an error at once.
        backoff, longest_backoff: seconds before the first and, doubling, before any further attempt.
        queue: frames that may wait for the consumer; when one more comes the oldest is dropped, for a
            live picture is worth more than an old one.
    """

    limits: Timeouts = field(default_factory=Timeouts)
    retries: int | None = 5
    patient: bool = False
    backoff: float = 0.5
    longest_backoff: float = 30.0
    queue: int = 64

    def __post_init__(self) -> None:
        if self.queue < 1 or self.backoff <= 0 or self.longest_backoff <= 0:
            raise ConfigError("a live source needs a queue of at least 1 frame and positive pauses")


@dataclass(frozen=True)
class LiveCounts:
    """What became of a source's pictures: pictures came, frames were taken of them at 2 FPS, some of
    those dropped; failures counts stalls, breaks and ends."""

    pictures: int = 0
    frames: int = 0
    dropped: int = 0
    failures: int = 0


class StreamClock:
    """The time of each picture since the first, from the stream's own stamps where they make sense."""

    def __init__(self) -> None:
        self._first: float | None = None
        self._offset: int | None = None
        self._latest = -1

    def time_of(self, stamp_us: int | None, arrived: float) -> int:
        """Microseconds, ascending. arrived: seconds of a clock that never runs back."""
        self._first = arrived if self._first is None else self._first
        elapsed = round((arrived - self._first) * 1_000_000)
        if stamp_us is None:
            at = elapsed
        else:
            if self._offset is None:
                self._offset = max(elapsed, self._latest + 1) - stamp_us
            at = stamp_us + self._offset
            if not self._latest < at <= max(elapsed, self._latest) + JUMP_US:
                self._offset = max(elapsed, self._latest + 1) - stamp_us
                at = stamp_us + self._offset
        self._latest = max(at, self._latest + 1)
        return self._latest

    def restart(self) -> None:
        """The stream is another one now: its stamps go on from when its first picture comes."""
        self._offset = None


class LiveSource:
    """Frames of one source, read by a thread until it is closed.

    Args:
        source: camera number or address.
        budget: a fixed one. All frames get the size that suits the first picture.
        on_event: called with each SourceEvent, from the reading thread.
        opener: gives the pictures; others than `read_source` serve further kinds of source.
        size: height and width of frames, if not by the budget off the first picture.

    Raises:
        ConfigError: the budget needs to know how long the source is.
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
        self.source = source
        self.counts = LiveCounts()
        self._budget, self._options = budget, options or LiveOptions()
        self._on_event, self._opener = on_event, opener
        self._waiting: collections.deque[LiveFrame] = collections.deque()
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._over = False
        self._failure: Exception | None = None
        self._size = size
        self._seen_size: tuple[int, int] | None = None
        self._clock, self._taken = StreamClock(), 0
        self._lagging = False
        self._thread = threading.Thread(target=self._read, name=f"live {source}", daemon=True)
        self._thread.start()

    def frames(self) -> Iterator[LiveFrame]:
        """Frames in order, waiting for each, until the source has finished or was closed.

        Raises:
            SourceLost: it failed more often in a row than it may.
        """
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._over)
                if not self._waiting:
                    break
                frame = self._waiting.popleft()
                self._lagging = False
            yield frame
        if self._failure is not None:
            raise self._failure

    def close(self, wait: float = 0.5) -> None:
        """Stop reading. A read that hangs is waited for so long, then left to its time limit."""
        self._stop.set()
        self._finish()
        if threading.current_thread() is not self._thread:
            self._thread.join(wait)

    def __enter__(self) -> LiveSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _finish(self, failure: Exception | None = None) -> None:
        with self._changed:
            self._over = True
            self._failure = self._failure or failure
            self._changed.notify_all()

    def _tell(self, kind: str, detail: str, retry_in: float | None = None) -> None:
        again = "" if retry_in is None else f"; trying again in {retry_in:g} s"
        log.log(logging.INFO if kind in ("opened", "finished") else logging.WARNING, detail + again)
        if self._on_event is not None:
            self._on_event(SourceEvent(self.source, kind, detail, time.time(), retry_in))

    def _count(self, **more: int) -> None:
        counts = self.counts
        self.counts = replace(counts, **{k: getattr(counts, k) + n for k, n in more.items()})

    def _read(self) -> None:
        try:
            self._read_on()
            self._finish()
        except Exception as error:  # whatever it is, the consumer must not wait for ever
            self._finish(error)

    def _read_on(self) -> None:
        """Attempts until one is the last."""
        options, in_a_row = self._options, 0
        while not self._stop.is_set():
            before = self.counts.pictures
            self._clock.restart()
            try:
                for seen in self._opener(self.source, options.limits):
                    if self._stop.is_set():
                        return
                    self._take(seen, first=self.counts.pictures == before)
                raise SourceEnded(f"{self.source}: the stream ended")
            except SourceError as error:
                self._count(failures=1)
                if isinstance(error, SourceEnded) and error.over:
                    self._tell("finished", str(error))
                    return
                in_a_row = 1 if self.counts.pictures > before else in_a_row + 1
                kind = {SourceEnded: "ended", SourceStalled: "stalled"}.get(type(error), "broken")
                if not self.counts.pictures and not options.patient:
                    self._tell("lost", str(error))
                    raise SourceLost(str(error)) from error
                if options.retries is not None and in_a_row > options.retries:
                    self._tell("lost", str(error))
                    tried = f"{error}, and {options.retries} attempts to open it again failed"
                    raise SourceLost(tried) from error
                pause = min(options.longest_backoff, options.backoff * 2 ** min(in_a_row - 1, 30))
                self._tell(kind, str(error), pause)
                self._stop.wait(pause)

    def _take(self, seen: TimedPicture, first: bool) -> None:
        """Of each half second the first picture."""
        at = self._clock.time_of(seen.stamp_us, time.monotonic())
        self._count(pictures=1)
        if first:
            self._tell("opened", f"{self.source}: pictures come")
        if at < self._taken * STEP_US:
            return
        captured = time.time()
        picture = seen.picture()
        shape = picture.shape[:2]
        self._size = self._size or self._budget.size(*shape, 2)
        if self._seen_size not in (None, shape):
            self._tell("resized", f"{self.source}: its pictures are {shape[1]}x{shape[0]} now")
        self._seen_size = shape
        # A gap is a gap in time: the next frame is due by the clock.
        self._taken = at // STEP_US + 1
        if shape != self._size:
            picture = resize(picture[None], self._size)[0]
        self._put(LiveFrame(picture, at, captured))

    def _put(self, frame: LiveFrame) -> None:
        self._count(frames=1)
        with self._changed:
            drop = len(self._waiting) >= self._options.queue
            if drop:
                self._waiting.popleft()
            news = drop and not self._lagging
            self._lagging = self._lagging or drop
            self._waiting.append(frame)
            self._changed.notify_all()
        if drop:
            self._count(dropped=1)
        if news:
            self._tell("dropped", f"{self.source}: frames are dropped, they are taken too slowly")
