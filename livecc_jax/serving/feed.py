"""What is said, handed from the thread that decodes to whoever reads it, who may be slow or gone."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Feed(AsyncIterator[Item], Iterator[Item], Generic[Item]):
    """A bounded queue that is read with `for` or `async for`; putting into it never blocks.

    Of what comes live the oldest is dropped, and counted, when `limit` items wait. What may not be lost
    is never dropped: its source asks `has_room` before it reads on.

    Args:
        limit: items that may wait.
        on_read: called when one fewer waits.
    """

    def __init__(self, limit: int = 64, on_read: Callable[[], None] = lambda: None) -> None:
        self.limit, self._on_read = limit, on_read
        self.dropped = 0
        self._items: collections.deque[tuple[Item, bool]] = collections.deque()
        self._changed = threading.Condition()
        self._readers: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._over = False
        self._failure: BaseException | None = None

    @property
    def has_room(self) -> bool:
        """Whether fewer items wait than may, or nobody will read any more."""
        return self._over or len(self._items) < self.limit

    @property
    def closed(self) -> bool:
        """Whether nothing more comes."""
        return self._over

    def put(self, item: Item, live: bool = True) -> None:
        """Add an item; `live` ones give way to newer ones."""
        with self._changed:
            if self._over:
                return
            if live and len(self._items) >= self.limit:
                self.dropped += 1
                oldest = next((i for i, (_, old) in enumerate(self._items) if old), None)
                if oldest is None:
                    return
                del self._items[oldest]
            self._items.append((item, live))
            self._wake()

    def end(self, failure: BaseException | None = None) -> None:
        """Nothing more comes: reading ends after what waits, by raising `failure` if there is one."""
        with self._changed:
            if not self._over:
                self._over, self._failure = True, failure
                self._wake()

    def close(self) -> None:
        """Stop reading: what waits is let go, and nobody waits for this reader."""
        with self._changed:
            self._over, self._failure = True, None
            self._items.clear()
            self._wake()
        self._on_read()

    def __enter__(self) -> Feed[Item]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wake(self) -> None:
        self._changed.notify_all()
        for loop, reader in self._readers:
            with contextlib.suppress(RuntimeError):  # its loop is closed: nobody waits there
                loop.call_soon_threadsafe(_resolve, reader)

    def _next(self) -> tuple[bool, Item | None]:
        """(whether there was one, the oldest item). Raises what the feed ended with."""
        if self._items:
            return True, self._items.popleft()[0]
        if self._over and self._failure is not None:
            raise self._failure
        return False, None

    def __iter__(self) -> Feed[Item]:
        return self

    def __next__(self) -> Item:
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._over)
            there, item = self._next()
        if not there:
            raise StopIteration
        self._on_read()
        return item

    def __aiter__(self) -> Feed[Item]:
        return self

    async def __anext__(self) -> Item:
        while True:
            with self._changed:
                there, item = self._next()
                if not there:
                    if self._over:
                        raise StopAsyncIteration
                    loop = asyncio.get_running_loop()
                    waiter = loop, loop.create_future()
                    self._readers.append(waiter)
            if there:
                self._on_read()
                return item
            try:
                await waiter[1]
            finally:  # cancelled or not, it waits no more
                with self._changed:
                    self._readers.remove(waiter)


def _resolve(reader: asyncio.Future[None]) -> None:
    if not reader.done():
        reader.set_result(None)
