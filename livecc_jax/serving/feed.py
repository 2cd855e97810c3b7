"""A queue of results from the decoding thread to one reader, who may be slow or gone."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")


class Feed(AsyncIterator[Item], Iterator[Item], Generic[Item]):
    """A bounded queue that is read with `for` or `async for`; writing to it never blocks.

    When `limit` items of a live source wait, the oldest is dropped and counted. Items of a lossless
    source are never dropped: its reader thread checks `has_room` before it continues.

    Args:
        limit: Number of items that may wait.
        on_read: Called when an item was read.

    Attributes:
        dropped: Number of items that were dropped.
    """

    def __init__(self, limit: int = 64, on_read: Callable[[], None] = lambda: None) -> None:
        self.limit, self._on_read = limit, on_read
        self.dropped = 0
        self._items: collections.deque[tuple[Item, bool]] = collections.deque()
        self._changed = threading.Condition()
        self._async_readers: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._ended = False
        self._failure: BaseException | None = None

    @property
    def has_room(self) -> bool:
        """Whether fewer than `limit` items wait, or the feed has ended."""
        return self._ended or len(self._items) < self.limit

    @property
    def closed(self) -> bool:
        """Whether no more items will be added."""
        return self._ended

    @property
    def waiting(self) -> int:
        """Number of items that wait for the reader."""
        return len(self._items)

    @property
    def blocked_readers(self) -> int:
        """Number of `async for` loops that wait for an item."""
        return len(self._async_readers)

    def put(self, item: Item, live: bool = True) -> None:
        """Adds an item.

        Args:
            item: The item.
            live: Whether it may be dropped when newer items need its place.
        """
        with self._changed:
            if self._ended:
                return
            if live and len(self._items) >= self.limit:
                self.dropped += 1
                oldest = next((i for i, (_, is_live) in enumerate(self._items) if is_live), None)
                if oldest is None:
                    return
                del self._items[oldest]
            self._items.append((item, live))
            self._wake()

    def end(self, failure: BaseException | None = None) -> None:
        """Ends the feed: after the items that wait, reading stops or raises `failure`."""
        with self._changed:
            if not self._ended:
                self._ended, self._failure = True, failure
                self._wake()

    def close(self) -> None:
        """Stops reading: drops the items that wait, so that no source waits for this reader."""
        with self._changed:
            self._ended, self._failure = True, None
            self._items.clear()
            self._wake()
        self._on_read()

    def __enter__(self) -> Feed[Item]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wake(self) -> None:
        self._changed.notify_all()
        for loop, reader in self._async_readers:
            with contextlib.suppress(RuntimeError):  # the reader's event loop is closed
                loop.call_soon_threadsafe(_resolve, reader)

    def _pop(self) -> tuple[bool, Item | None]:
        """Returns (whether there was an item, the oldest item), or raises the feed's failure."""
        if self._items:
            return True, self._items.popleft()[0]
        if self._ended and self._failure is not None:
            raise self._failure
        return False, None

    def __iter__(self) -> Feed[Item]:
        return self

    def __next__(self) -> Item:
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._ended)
            has_item, item = self._pop()
        if not has_item:
            raise StopIteration
        self._on_read()
        return item

    def __aiter__(self) -> Feed[Item]:
        return self

    async def __anext__(self) -> Item:
        while True:
            with self._changed:
                has_item, item = self._pop()
                if not has_item:
                    if self._ended:
                        raise StopAsyncIteration
                    loop = asyncio.get_running_loop()
                    waiter = loop, loop.create_future()
                    self._async_readers.append(waiter)
            if has_item:
                self._on_read()
                return item
            try:
                await waiter[1]
            finally:  # also when the task is cancelled
                with self._changed:
                    self._async_readers.remove(waiter)


def _resolve(reader: asyncio.Future[None]) -> None:
    if not reader.done():
        reader.set_result(None)


def open_feeds(feeds: Sequence[weakref.ref[Feed[Any]]]) -> list[Feed[Any]]:
    """Returns the feeds that are still referenced and not closed."""
    return [feed for ref in tuple(feeds) if (feed := ref()) is not None and not feed.closed]
