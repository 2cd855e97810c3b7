"""Many live sources through one engine: a thread reads each, one thread decodes for all.

A source that stalls, breaks or ends concerns itself alone, and so does a reader of its words that stops
reading.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from livecc_jax.decoding.options import StreamOptions
from livecc_jax.errors import LiveCCError
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.ingest import Turn, is_live, turns
from livecc_jax.media.live import LiveOptions, LiveSource, SourceEvent
from livecc_jax.serving.feed import Feed
from livecc_jax.serving.latency import Figures, Tally
from livecc_jax.serving.sinks import Sink
from livecc_jax.stream.conversation import Conversation
from livecc_jax.stream.engine import DUE, Engine
from livecc_jax.stream.session import Answer, ContextFull, SpokenTurn
from livecc_jax.timeline.example import microseconds
from livecc_jax.timeline.turns import TURN_FRAMES

log = logging.getLogger(__name__)

Said = SpokenTurn | Answer
RATE_SPAN = 10.0  # seconds that ticks are counted over
BACKSTOP = 1.0  # seconds after which a reader looks again whether it may go on


class Watch:
    """Runs an engine until it is closed; nobody else may tick or close its conversations.

    Use as `with` or `async with`, which close it.

    Args:
        engine: with a slot for each source that is watched at once.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._changed = threading.Condition()
        self._active: list[Watched] = []
        self._feeds: list[weakref.ref[Feed[tuple[Watched, Said]]]] = []
        self._stopping = False
        self._failure: Exception | None = None
        self._ticks: collections.deque[float] = collections.deque(maxlen=4096)
        self._thread = threading.Thread(target=self._run, name="ticks", daemon=True)
        self._thread.start()

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
        on_said: Callable[[Said], None] | None = None,
        on_event: Callable[[SourceEvent], None] | None = None,
    ) -> Watched:
        """Watch one more source.

        Args:
            source: a file, a camera number or an address.
            budget: of its frames.
            prompt: the first turn's text.
            options: decoding.
            name: what it is called; the source by default.
            pace: of a file, `fast` (nothing is lost) or `own` (as if it were live).
            start: second of a file to start at.
            end: second of a file to end at.
            live: how a live source is treated.
            sinks: written to, and closed once the source is over.
            on_said: called with what is said, from the thread that decodes: it holds up all sources for
                as long as it takes. One that raises ends this source.
            on_event: called with what happens to a live source, from its reading thread.

        Raises:
            SlotsFull: there are as many sources as the engine has slots.
            ConfigError: options that the engine cannot serve.
            LiveCCError: the watch is closed.
        """
        offset = microseconds(start or 0.0)
        with self._changed:
            if self._stopping or not self._thread.is_alive():
                raise LiveCCError("this watch is closed")
            conversation = self.engine.open(prompt, options, offset)
            keeps_all = pace == "fast" and not is_live(source)
            made = Watched(self, conversation, source, name or source, keeps_all)
            made._sinks, made._on_said, made._on_event = tuple(sinks), on_said, on_event
            self._active.append(made)

        def read() -> Iterator[Turn]:
            return turns(
                source, budget, start, end,
                pace=pace, options=live, on_event=made._happened, on_live=made._opened,
            )  # fmt: skip

        threading.Thread(target=made._read, args=(read,), name=f"read {made.name}", daemon=True).start()
        return made

    def said(self, limit: int = 256) -> Feed[tuple[Watched, Said]]:
        """What is said from now on, of every source, with the source that it is about.

        The feed ends with the watch. Of live sources the oldest is dropped when `limit` items wait;
        files read fast wait until there is room. A feed that nobody holds any more holds up nobody.
        """
        return self._subscribe(self._feeds, limit)

    def wait(self, timeout: float | None = None) -> bool:
        """Until every source is over; False if that took too long.

        Raises whatever ended the decoding, if anything did.
        """
        with self._changed:
            done = self._changed.wait_for(lambda: not self._active, timeout)
        if self._failure is not None:
            raise self._failure
        return done

    @property
    def ticks_per_second(self) -> float:
        """Over the last ten seconds."""
        since = time.monotonic() - RATE_SPAN
        return sum(at > since for at in list(self._ticks)) / RATE_SPAN

    def close(self) -> None:
        """End every source. The tick that runs ends first; what still waits is not said."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
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

    def _subscribe(self, feeds: list[weakref.ref[Feed[Any]]], limit: int) -> Feed[Any]:
        feed = Feed(limit, self._notify)
        with self._changed:
            feeds[:] = [weakref.ref(f) for f in (*readers(feeds), feed)]
            if self._stopping or not self._thread.is_alive():
                feed.end(self._failure)
        return feed

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _run(self) -> None:
        """The thread that decodes."""
        try:
            while self._something_to_do():
                said = self.engine.tick()
                if said:
                    self._ticks.append(time.monotonic())
                spoken_by = {id(w.conversation): w for w in self._active}
                for conversation, result in said:
                    spoken_by[id(conversation)]._take(result)
                self._settle()
        except Exception as error:  # whatever it is, nobody must wait for words for ever
            log.exception("the decoding failed")
            self._failure = error
        with self._changed:
            self._stopping = True
        self._settle()
        for feed in readers(self._feeds):
            feed.end(self._failure)

    def _something_to_do(self) -> bool:
        def ready() -> bool:
            return self._stopping or any(w.conversation.waiting or w._is_done() for w in self._active)

        with self._changed:
            self._changed.wait_for(ready)
            return not self._stopping

    def _settle(self) -> None:
        """Let go of the sources that are over."""
        with self._changed:
            done = [w for w in self._active if self._stopping or w._is_done()]
        for watched in done:
            watched._finish(self._failure)
        with self._changed:
            self._active = [w for w in self._active if w not in done]
            self._changed.notify_all()


class Watched:
    """One source of a watch; made by `Watch.add`."""

    def __init__(
        self, watch: Watch, conversation: Conversation, source: str, name: str, keeps_all: bool
    ) -> None:
        self.watch, self.conversation, self.source, self.name = watch, conversation, source, name
        self.failure: BaseException | None = None
        self._keeps_all = keeps_all
        self._state = "opening"
        self._tally = Tally()
        self._feeds: list[weakref.ref[Feed[Said]]] = []
        self._live: LiveSource | None = None
        self._closing = self._read_all = self._over = False
        self._sinks: tuple[Sink, ...] = ()
        self._on_said: Callable[[Said], None] | None = None
        self._on_event: Callable[[SourceEvent], None] | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more will be said of it."""
        return self._over

    def figures(self) -> Figures:
        """How it is doing."""
        dropped = self.conversation.lateness.dropped * TURN_FRAMES
        if self._live is not None:
            dropped += self._live.counts.dropped
        return self._tally.figures(self.name, self._state, dropped)

    def said(self, limit: int = 64) -> Feed[Said]:
        """What is said from now on, for `for` or `async for`; as in `Watch.said`, of this source alone.

        Reading ends when the source is over, by raising what it failed with if it did.
        """
        feed = self.watch._subscribe(self._feeds, limit)
        if self._over:
            feed.end(self.failure)
        return feed

    def ask(self, question: str) -> None:
        """As `Conversation.ask`: the answer is said like a turn."""
        self.conversation.ask(question)
        self.watch._notify()

    def close(self) -> None:
        """Stop watching it."""
        self._closing = True
        if self._live is not None:
            self._live.close(wait=0)
        self.watch._notify()

    # --- its reading thread ---------------------------------------------------------------------------

    def _opened(self, live: LiveSource) -> None:
        self._live = live
        if self._closing:
            live.close(wait=0)

    def _happened(self, event: SourceEvent) -> None:
        states = {"opened": "watching", "stalled": "stalled", "broken": "broken", "ended": "ended"}
        self._state = states.get(event.kind, self._state)
        if self._on_event is not None:
            self._on_event(event)

    def _read(self, read: Callable[[], Iterator[Turn]]) -> None:
        latest = float("-inf")
        try:
            with contextlib.closing(read()) as found:
                for turn in found:
                    if not self._may_push():
                        return  # whoever wants no more lets go of it; it is not read to its end
                    # By the engine's clock, which does not run back as the time of day may.
                    latest = max(latest, self.watch.engine.clock() - _age(turn))
                    self.conversation.push(turn.frames, latest)
                    if self._live is None:
                        self._state = "watching"
                    self.watch._notify()
        except LiveCCError as error:
            self._fail(error)
        except Exception as error:
            log.exception("%s: reading it failed", self.name)
            self._fail(error)
        self._read_all = True
        self.watch._notify()

    def _may_push(self) -> bool:
        """Wait, if nothing may be lost, until there is room; False once nothing is wanted any more."""
        watch, room = self.watch, self.watch.engine.options.waiting

        def unwanted() -> bool:
            return self._closing or watch._stopping or self.conversation.closed

        def has_room() -> bool:
            if not self._keeps_all or unwanted():
                return True
            feeds = [*readers(self._feeds), *readers(watch._feeds)]
            return self.conversation.waiting < room and all(f.has_room for f in feeds)

        with watch._changed:
            while not watch._changed.wait_for(has_room, BACKSTOP):
                pass
        return not unwanted()

    def _fail(self, error: BaseException) -> None:
        if self.failure is None and not self._closing:
            self.failure = error

    # --- the thread that decodes ----------------------------------------------------------------------

    def _is_done(self) -> bool:
        if self._closing or self.conversation.closed:
            return True
        return self._read_all and not self.conversation.waiting

    def _take(self, result: Said | LiveCCError) -> None:
        if isinstance(result, LiveCCError):
            if self.conversation.closed:
                self._fail(result)
            else:  # a question that does not fit
                log.warning("%s: %s", self.name, result)
            return
        if isinstance(result, SpokenTurn):
            self._tally.add(result, self.conversation.lateness.last + DUE)
        try:
            for sink in self._sinks:
                sink.write(result) if isinstance(result, SpokenTurn) else sink.answer(result)
            if self._on_said is not None:
                self._on_said(result)
        except Exception as error:
            log.exception("%s: handing on its words failed", self.name)
            self._fail(error)
            self.close()
        live = not self._keeps_all
        for feed in readers(self._feeds):
            feed.put(result, live)
        for feed in readers(self.watch._feeds):
            feed.put((self, result), live)

    def _finish(self, failure: BaseException | None) -> None:
        if failure is not None:
            self._fail(failure)
        if self.failure is not None:
            self._state = "full" if isinstance(self.failure, ContextFull) else "failed"
            log.warning("%s is over: %s", self.name, self.failure)
        else:
            said_all = self._read_all and not self.conversation.waiting
            self._state = "finished" if said_all and not self._closing else "closed"
        self._closing = True
        if self._live is not None:
            self._live.close(wait=0)
        self.conversation.close()
        for sink in self._sinks:
            with contextlib.suppress(OSError):
                sink.close()
        self._over = True
        for feed in readers(self._feeds):
            feed.end(self.failure)


def readers(feeds: list[weakref.ref[Feed[Any]]]) -> list[Feed[Any]]:
    """Those that somebody may still read."""
    return [feed for ref in tuple(feeds) if (feed := ref()) is not None and not feed.closed]


def _age(turn: Turn) -> float:
    """Seconds since its last frame was captured; 0 of a file read fast."""
    return 0.0 if turn.captured is None else max(0.0, time.time() - float(turn.captured[-1]))
