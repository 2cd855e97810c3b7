"""Load videos in threads while the device works on earlier ones, and batch what was loaded."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

from livecc_jax.errors import LiveCCError

log = logging.getLogger(__name__)

Item, Loaded = TypeVar("Item"), TypeVar("Loaded")

PREFETCH_BATCHES = 2  # batches that are loaded while the device works on one


def prefetch(
    items: Iterable[Item], load: Callable[[Item], Loaded], batch_size: int = 1
) -> Iterator[tuple[Item, Future[Loaded]]]:
    """Yields each item with the future of `load(item)`; later items are loaded meanwhile in threads.

    Args:
        items: What to load.
        load: Loads an item.
        batch_size: Number of items that the consumer takes at a time; PREFETCH_BATCHES times as many
            are loaded ahead.
    """
    threads = PREFETCH_BATCHES * batch_size
    with ThreadPoolExecutor(threads) as pool:
        queue: deque[tuple[Item, Future[Loaded]]] = deque()
        for item in items:
            queue.append((item, pool.submit(load, item)))
            if len(queue) > threads:
                yield queue.popleft()
        yield from queue


class LoadedBatch(NamedTuple, Generic[Item, Loaded]):
    """Loaded items, and the items that could not be loaded with their errors."""

    loaded: list[tuple[Item, Loaded]]
    failed: list[tuple[Item, LiveCCError]]


def batch_loaded(
    futures: Iterable[tuple[Item, Future[Loaded]]], batch_size: int
) -> Iterator[LoadedBatch[Item, Loaded]]:
    """Yields batches of `batch_size` items that could be loaded; the last batch may have fewer."""
    batch: LoadedBatch[Item, Loaded] = LoadedBatch([], [])
    for item, future in futures:
        try:
            batch.loaded.append((item, future.result()))
        except LiveCCError as error:
            log.warning("%s", error)
            batch.failed.append((item, error))
        if len(batch.loaded) == batch_size:
            yield batch
            batch = LoadedBatch([], [])
    if batch.loaded or batch.failed:
        yield batch


def one_behind(items: Iterable[Item]) -> Iterator[Item]:
    """Yields each item after the next one exists, so that devices work on one batch while the results
    of the batch before are written."""
    previous = deque(maxlen=1)
    try:
        for item in items:
            if previous:
                yield previous[0]
            previous.append(item)
    except BaseException:
        yield from previous  # its work is submitted already, and an interrupt must not lose it
        raise
    yield from previous
