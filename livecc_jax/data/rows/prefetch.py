"""Building ahead, in threads or processes, that ends when it should, however it ends."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import grain.python as grain
from absl import flags

from livecc_jax.errors import DataError

log = logging.getLogger(__name__)

T = TypeVar("T")

MOST_DEATHS = 3  # of worker processes, without an element between them
DIED = "terminated unexpectedly"  # what grain says of a worker that was killed
PATIENCE_S = 60.0  # for threads that finish the element they are at


def ahead(build: Callable[[int], T], count: int, threads: int, workers: int) -> Iterator[T]:
    """build(0), ..., build(count - 1), in order, built ahead of their use.

    A worker process that is killed is replaced, and what it was at is built again. Closing the
    iterator, or leaving it by an exception, ends all threads and processes.

    Args:
        build: makes an element; it is copied to worker processes.
        count: of elements.
        threads: elements built at once in this process, without workers.
        workers: processes that build; 0 builds in threads.

    Raises:
        DataError: workers are killed again and again.
        Whatever `build` raises.
    """
    done = deaths = 0
    while done < count:
        before = set(threading.enumerate())
        iterator = _iterate(build, done, count, threads, workers)
        try:
            for element in iterator:
                done, deaths = done + 1, 0
                yield element
            return
        except RuntimeError as error:
            if DIED not in str(error):
                raise
            deaths += 1
            if deaths > MOST_DEATHS:
                raise DataError(
                    f"a worker process was killed {deaths} times over row {done} of this process "
                    "(out of memory?); fewer data.workers may help"
                ) from error
            log.warning("a worker process was killed; starting the workers again")
        finally:
            _close(iterator, before)


def _iterate(
    build: Callable[[int], T], first: int, stop: int, threads: int, workers: int
) -> grain.DatasetIterator:
    dataset = grain.MapDataset.range(first, stop).map(lambda i: build(int(i)))
    reading = grain.ReadOptions(num_threads=0 if workers else threads, prefetch_buffer_size=2 * threads)
    iterable = dataset.to_iter_dataset(reading)
    if workers:
        # Grain reads absl flags when it starts processes; nobody else here parses them.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        iterable = iterable.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers), worker_init_fn=_start_worker
        )
    return iter(iterable)


def _start_worker(_: int, __: int) -> None:
    # Ctrl-C reaches every process of the terminal; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The one that started it may be gone already: this process's parent is then another.
    parent = multiprocessing.parent_process()
    threading.Thread(target=_end_with, args=(parent.pid,), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process when the one that started it is gone, however it went."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _close(iterator: grain.DatasetIterator, before: set[threading.Thread]) -> None:
    """End processes and threads; grain itself does not wait for its threads."""
    iterator.close()
    until = time.monotonic() + PATIENCE_S
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("grain"):
            thread.join(max(0.0, until - time.monotonic()))
