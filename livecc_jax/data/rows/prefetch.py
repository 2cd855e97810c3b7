"""Builds elements ahead of their use, in threads or in processes that always end with the iterator."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import grain.python as grain
from absl import flags

from livecc_jax.errors import DataError
from livecc_jax.parallel.child_process import exit_with_parent

log = logging.getLogger(__name__)

T = TypeVar("T")

MAX_RESTARTS = 3  # after workers were killed without an element in between
KILLED_MESSAGE = "terminated unexpectedly"  # part of grain's error for a worker that was killed
JOIN_TIMEOUT_S = 60.0  # for threads to finish the element that they are building


def prefetch(build: Callable[[int], T], count: int, threads: int, workers: int) -> Iterator[T]:
    """Yields build(0), ..., build(count - 1) in order, built ahead of their use.

    A worker process that is killed is replaced, and the element that it was building is built again.
    Closing the iterator, or leaving it by an exception, ends all threads and processes.

    Args:
        build: Builds an element; it is copied to worker processes.
        count: Number of elements.
        threads: Elements that are built in parallel in this process, when there are no workers.
        workers: Number of worker processes; 0 builds in threads.

    Raises:
        DataError: Workers are killed repeatedly.
        Exception: Any error that `build` raises.
    """
    done = num_killed = 0
    while done < count:
        earlier_threads = set(threading.enumerate())
        iterator = _iterate(build, done, count, threads, workers)
        try:
            for element in iterator:
                done, num_killed = done + 1, 0
                yield element
            return
        except RuntimeError as error:
            if KILLED_MESSAGE not in str(error):
                raise
            num_killed += 1
            if num_killed > MAX_RESTARTS:
                raise DataError(
                    f"a worker process was killed {num_killed} times over row {done} of this process "
                    "(out of memory?); fewer data.workers may help"
                ) from error
            log.warning("a worker process was killed; starting the workers again")
        finally:
            _close(iterator, earlier_threads)


def _iterate(
    build: Callable[[int], T], first: int, stop: int, threads: int, workers: int
) -> grain.DatasetIterator:
    dataset = grain.MapDataset.range(first, stop).map(lambda i: build(int(i)))
    options = grain.ReadOptions(num_threads=0 if workers else threads, prefetch_buffer_size=2 * threads)
    iterable = dataset.to_iter_dataset(options)
    if workers:
        # Grain reads absl flags when it starts processes, and nothing else here parses them.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        iterable = iterable.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers), worker_init_fn=_start_worker
        )
    return iter(iterable)


def _start_worker(_: int, __: int) -> None:
    # Ctrl-C reaches every process of the terminal; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The starting process may have ended already; this process's parent is then another one.
    exit_with_parent(multiprocessing.parent_process().pid)


def _close(iterator: grain.DatasetIterator, earlier_threads: set[threading.Thread]) -> None:
    """Ends processes and threads; grain itself does not wait for its threads."""
    iterator.close()
    deadline = time.monotonic() + JOIN_TIMEOUT_S
    for thread in set(threading.enumerate()) - earlier_threads:
        if thread.name.startswith("grain"):
            thread.join(max(0.0, deadline - time.monotonic()))
