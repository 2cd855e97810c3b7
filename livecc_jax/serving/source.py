"""One watched source: its reader thread, and the delivery of its results to sinks and feeds."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from livecc_jax.errors import LiveCCError, OutputError
from livecc_jax.media.ingest import TurnFrames
from livecc_jax.media.live import LiveSource, SourceEvent
from livecc_jax.serving.feed import Feed, open_feeds
from livecc_jax.serving.latency import SourceStats, StatsCollector
from livecc_jax.serving.sinks import Sink
from livecc_jax.stream.conversation import Conversation
from livecc_jax.stream.turn import Answer, ContextFull, SpokenTurn
from livecc_jax.timeline.turns import TURN_FRAMES

log = logging.getLogger(__name__)

StreamOutput = SpokenTurn | Answer
RECHECK_SECONDS = 1.0  # a blocked reader thread checks its conditions again after this long
STATES = {"opened": "watching", "stalled": "stalled", "broken": "broken", "ended": "ended"}


class WatchState:
    """What the decoding thread and the reader threads of a watch share.

    Attributes:
        changed: Notified whenever a thread may have something to do.
        stopping: Whether the watch is being closed.
        failure: What ended the decoding, if anything did.
        feeds: The feeds of all sources together.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.stopping = False
        self.failure: Exception | None = None
        self.feeds: list[weakref.ref[Feed[Any]]] = []

    def notify(self) -> None:
        """Wakes all threads that wait for a change."""
        with self.changed:
            self.changed.notify_all()

    def stop(self) -> None:
        """Tells all threads to end."""
        with self.changed:
            self.stopping = True
            self.changed.notify_all()

    def subscribe(self, feeds: list[weakref.ref[Feed[Any]]], limit: int) -> Feed[Any]:
        """Returns a new feed and adds it to a list of feeds."""
        feed = Feed(limit, self.notify)
        with self.changed:
            feeds[:] = [weakref.ref(f) for f in (*open_feeds(feeds), feed)]
            if self.stopping:
                feed.end(self.failure)
        return feed


class WatchedSource:
    """One source of a watch; made by `Watch.add`.

    Args:
        state: The state that it shares with its watch.
        conversation: The conversation about it.
        source: A file, a camera number or an address.
        name: Name of the source in tables and logs.
        lossless: Whether the reader waits for slow readers of results, rather than drop any.
        clock: Returns the time by the engine's clock.
        max_waiting: Number of turns that a lossless source may queue.
        sinks: Receive all results; closed once the source is over.
        on_output: Called with each result by the decoding thread.
        on_event: Called with the events of a live source by the reader thread.

    Attributes:
        failure: What ended the source, if anything did.
    """

    def __init__(
        self,
        state: WatchState,
        conversation: Conversation,
        source: str,
        name: str,
        *,
        lossless: bool,
        clock: Callable[[], float],
        max_waiting: int,
        sinks: Sequence[Sink],
        on_output: Callable[[StreamOutput], None] | None,
        on_event: Callable[[SourceEvent], None] | None,
    ) -> None:
        self.conversation, self.source, self.name = conversation, source, name
        self.failure: BaseException | None = None
        self._shared, self._clock, self._max_waiting = state, clock, max_waiting
        self._lossless, self._sinks = lossless, tuple(sinks)
        self._on_output, self._on_event = on_output, on_event
        self._state = "opening"
        self._collector = StatsCollector()
        self._feeds: list[weakref.ref[Feed[StreamOutput]]] = []
        self._live: LiveSource | None = None
        self._closing = self._fully_read = self._over = False

    @property
    def over(self) -> bool:
        """Whether there will be no more results."""
        return self._over

    def stats(self) -> SourceStats:
        """Returns the current statistics."""
        dropped = self.conversation.latency.dropped * TURN_FRAMES
        if self._live is not None:
            dropped += self._live.counts.dropped
        return self._collector.stats(self.name, self._state, dropped)

    def outputs(self, limit: int = 64) -> Feed[StreamOutput]:
        """Returns the results from now on, for `for` or `async for`; as `Watch.outputs`.

        Reading ends when the source is over, by raising the source's failure if there is one.
        """
        feed = self._shared.subscribe(self._feeds, limit)
        if self._over:
            feed.end(self.failure)
        return feed

    def ask(self, question: str) -> None:
        """Queues a question, as `Conversation.ask`; the answer is one of the results."""
        self.conversation.ask(question)
        self._shared.notify()

    def close(self) -> None:
        """Stops watching the source."""
        self._closing = True
        if self._live is not None:
            self._live.close(wait=0)
        self._shared.notify()

    # --- Called by the reader thread ------------------------------------------------------------------

    def attach_live(self, live: LiveSource) -> None:
        """Takes note of the open live source, so that closing ends it."""
        self._live = live
        if self._closing:
            live.close(wait=0)

    def handle_event(self, event: SourceEvent) -> None:
        """Takes note of an event of the live source."""
        self._state = STATES.get(event.kind, self._state)
        if self._on_event is not None:
            self._on_event(event)

    def read(self, open_turns: Callable[[], Iterator[TurnFrames]]) -> None:
        """Reads the source and pushes its turns, until it ends or is not wanted any more."""
        latest = float("-inf")
        try:
            with contextlib.closing(open_turns()) as turns:
                for turn in turns:
                    if not self._wait_for_room():
                        return  # `finish` does the rest
                    # By the engine's clock, which never runs backwards as the time of day may.
                    latest = max(latest, self._clock() - _age(turn))
                    self.conversation.push(turn.frames, latest)
                    if self._live is None:
                        self._state = "watching"
                    self._shared.notify()
        except LiveCCError as error:
            self._fail(error)
        except Exception as error:
            log.exception("%s: reading it failed", self.name)
            self._fail(error)
        self._fully_read = True
        self._shared.notify()

    def _wait_for_room(self) -> bool:
        """Waits until a lossless source may push. Returns False if no turn is wanted any more."""

        def unwanted() -> bool:
            return self._closing or self._shared.stopping or self.conversation.closed

        def has_room() -> bool:
            if not self._lossless or unwanted():
                return True
            feeds = [*open_feeds(self._feeds), *open_feeds(self._shared.feeds)]
            return self.conversation.waiting < self._max_waiting and all(f.has_room for f in feeds)

        with self._shared.changed:
            while not self._shared.changed.wait_for(has_room, RECHECK_SECONDS):
                pass
        return not unwanted()

    def _fail(self, error: BaseException) -> None:
        if self.failure is None and not self._closing:
            self.failure = error

    # --- Called by the decoding thread ----------------------------------------------------------------

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to read or to decode."""
        if self._closing or self.conversation.closed:
            return True
        return self._fully_read and not self.conversation.waiting

    def deliver(self, result: StreamOutput | LiveCCError) -> None:
        """Delivers a result to the statistics, sinks, callback and feeds."""
        if isinstance(result, LiveCCError):
            if self.conversation.closed:
                self._fail(result)
            else:  # a question that does not fit
                log.warning("%s: %s", self.name, result)
            return
        if isinstance(result, SpokenTurn):
            self._collector.add(result, self.conversation.latency.latest)
        try:
            for sink in self._sinks:
                sink.write(result) if isinstance(result, SpokenTurn) else sink.answer(result)
            if self._on_output is not None:
                self._on_output(result)
        except Exception as error:
            if not isinstance(error, LiveCCError):  # such as a full disk, which `finish` reports
                log.exception("%s: delivering its results failed", self.name)
            self._fail(error)
            self.close()
        live = not self._lossless
        for feed in open_feeds(self._feeds):
            feed.put(result, live)
        for feed in open_feeds(self._shared.feeds):
            feed.put((self, result), live)

    def finish(self, failure: BaseException | None) -> None:
        """Ends the source: closes its conversation, sinks and feeds, and sets its final state.

        Args:
            failure: What ended the decoding, if anything did.
        """
        if failure is not None:
            self._fail(failure)
        if self.failure is not None:
            self._state = "full" if isinstance(self.failure, ContextFull) else "failed"
            log.warning("%s is over: %s", self.name, self.failure)
        else:
            complete = self._fully_read and not self.conversation.waiting
            self._state = "finished" if complete and not self._closing else "closed"
        self._closing = True
        if self._live is not None:
            self._live.close(wait=0)
        self.conversation.close()
        for sink in self._sinks:
            with contextlib.suppress(OSError, OutputError):
                sink.close()
        self._over = True
        for feed in open_feeds(self._feeds):
            feed.end(self.failure)


def _age(turn: TurnFrames) -> float:
    """Returns the seconds since the turn's last frame was captured; 0 for a file that is read fast."""
    return 0.0 if turn.captured_at is None else max(0.0, time.time() - float(turn.captured_at[-1]))
