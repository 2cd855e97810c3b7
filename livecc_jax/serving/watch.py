"""Many live sources through one engine: a thread reads each source, and one thread decodes for all.

A source that stalls, breaks or ends affects no other source, and neither does a reader of its results
that stops reading.
"""

from __future__ import annotations

import asyncio
import collections
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from livecc_jax.decoding.options import StreamOptions
from livecc_jax.errors import LiveCCError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.ingest import TurnFrames, is_live, read_turns
from livecc_jax.media.live import LiveOptions, SourceEvent
from livecc_jax.media.rules import DEFAULT, MediaRules
from livecc_jax.media.sources import KeepPace, wait_until_due
from livecc_jax.redact import redact_address
from livecc_jax.serving.feed import Feed, open_feeds
from livecc_jax.serving.sinks import Sink
from livecc_jax.serving.source import StreamOutput, WatchedSource, WatchState
from livecc_jax.stream.engine import Engine
from livecc_jax.timeline.example import seconds_to_us

log = logging.getLogger(__name__)

RATE_SECONDS = 10.0  # engine steps are counted over this long


class Watch:
    """Runs an engine until it is closed. No one else may run its steps or close its conversations.

    Use it as `with` or `async with`, which close it.

    Args:
        engine: An engine with room for a conversation about each source that is watched at a time.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._state = WatchState()
        self._sources: list[WatchedSource] = []
        self._step_times: collections.deque[float] = collections.deque(maxlen=4096)
        self._thread = threading.Thread(target=self._run, name="engine steps", daemon=True)
        self._thread.start()

    @property
    def sources(self) -> list[WatchedSource]:
        """The sources that are not over."""
        return list(self._sources)

    @property
    def closing(self) -> bool:
        """Whether `close` was called."""
        return self._state.stopping

    @property
    def running(self) -> bool:
        """Whether the decoding thread is alive."""
        return self._thread.is_alive()

    def add(
        self,
        source: str,
        budget: PixelBudget,
        prompt: str = "",
        options: StreamOptions | None = None,
        *,
        name: str = "",
        pace: Literal["fast", "own"] = "fast",
        start: float | None = None,
        end: float | None = None,
        live: LiveOptions | None = None,
        sinks: Sequence[Sink] = (),
        on_output: Callable[[StreamOutput], None] | None = None,
        on_event: Callable[[SourceEvent], None] | None = None,
        keep_pace: KeepPace = wait_until_due,
        rules: MediaRules = DEFAULT,
    ) -> WatchedSource:
        """Starts watching one more source.

        Args:
            source: A file, a camera number or an address.
            budget: Pixel budget of its frames.
            prompt: Text of the first turn.
            options: Decoding options.
            name: Name in tables and logs; the source by default.
            pace: How a file is read: `fast` (nothing is lost) or `own` (as if it were live).
            start: Second of a file to start at.
            end: Second of a file to end at.
            live: Options of a live source.
            sinks: Receive all results; closed once the source is over.
            on_output: Called with each result by the decoding thread, so it delays all sources for as
                long as it takes. If it raises, this source ends.
            on_event: Called with the events of a live source by its reader thread.
            keep_pace: Waits until a frame is due, where a file is read as if it were live.
            rules: How videos are read.

        Raises:
            EngineFull: The engine has no room for another conversation.
            ConfigError: The engine cannot serve these options.
            LiveCCError: The watch is closed.
        """
        offset = seconds_to_us(start or 0.0)
        with self._state.changed:
            if self._state.stopping:
                raise LiveCCError("this watch is closed")
            watched = WatchedSource(
                self._state,
                self.engine.open(prompt, options, offset),
                source,
                name or redact_address(source),
                lossless=pace == "fast" and not is_live(source),
                clock=self.engine.clock,
                max_waiting=self.engine.options.max_waiting,
                sinks=sinks,
                on_output=on_output,
                on_event=on_event,
            )
            self._sources.append(watched)

        def open_turns() -> Iterator[TurnFrames]:
            return read_turns(
                source, budget, start, end, pace=pace, options=live,
                on_event=watched.handle_event, on_live=watched.attach_live, keep_pace=keep_pace,
                rules=rules,
            )  # fmt: skip

        threading.Thread(
            target=watched.read, args=(open_turns,), name=f"read {watched.name}", daemon=True
        ).start()
        return watched

    def outputs(self, limit: int = 256) -> Feed[tuple[WatchedSource, StreamOutput]]:
        """Returns the results of every source from now on, each with its source.

        The feed ends with the watch. When `limit` items wait, the oldest of a live source is dropped,
        and files that are read fast wait until there is room. A feed that is no longer referenced
        delays no source.
        """
        return self._state.subscribe(self._state.feeds, limit)

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until every source is over. Returns False if that took longer than `timeout` seconds.

        Raises the error that ended the decoding, if there was one.
        """
        with self._state.changed:
            done = self._state.changed.wait_for(lambda: not self._sources, timeout)
        if self._state.failure is not None:
            raise self._state.failure
        return done

    @property
    def steps_per_second(self) -> float:
        """Engine steps per second over the last ten seconds."""
        since = time.monotonic() - RATE_SECONDS
        return sum(at > since for at in list(self._step_times)) / RATE_SECONDS

    def close(self) -> None:
        """Ends every source. The engine step that runs ends first; turns that wait are dropped."""
        self._state.stop()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Watch:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)

    def _run(self) -> None:
        """The decoding thread."""
        try:
            while self._wait_for_work():
                results = self.engine.step()
                if results:
                    self._step_times.append(time.monotonic())
                by_conversation = {id(s.conversation): s for s in self._sources}
                for conversation, result in results:
                    by_conversation[id(conversation)].deliver(result)
                self._reap_finished()
        except Exception as error:  # any error at all, so that no reader waits indefinitely
            log.exception("the decoding failed")
            self._state.failure = error
        self._state.stop()
        self._reap_finished()
        for feed in open_feeds(self._state.feeds):
            feed.end(self._state.failure)

    def _wait_for_work(self) -> bool:
        """Waits until a turn waits or a source is done. Returns False when the watch is closing."""

        def has_work() -> bool:
            waiting = any(s.conversation.waiting or s.is_done for s in self._sources)
            return self._state.stopping or waiting

        with self._state.changed:
            self._state.changed.wait_for(has_work)
            return not self._state.stopping

    def _reap_finished(self) -> None:
        """Finishes and removes the sources that are done, or all of them when closing."""
        with self._state.changed:
            done = [s for s in self._sources if self._state.stopping or s.is_done]
        for source in done:
            source.finish(self._state.failure)
        with self._state.changed:
            self._sources = [s for s in self._sources if s not in done]
            self._state.changed.notify_all()
