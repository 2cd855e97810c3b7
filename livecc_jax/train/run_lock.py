"""The lock of a run directory: two trainers that write one directory would lose steps of each other."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from livecc_jax.directory_lock import LOCK, DirectoryLock
from livecc_jax.errors import ConfigError, LiveCCError
from livecc_jax.parallel.processes import broadcast_from_main, is_main_process

__all__ = ["LOCK", "RunLock", "locked_run"]


class RunLock(DirectoryLock):
    """The lock of one run directory; see `DirectoryLock`."""

    activity = ("trains this run", "give this run another directory")


@contextlib.contextmanager
def locked_run(directory: Path) -> Iterator[RunLock | None]:
    """Holds the lock of a run directory; the main process does so for all processes of the run.

    Args:
        directory: The run directory; it is created if it does not exist.

    Yields:
        The lock in the main process, None in the others.

    Raises:
        ConfigError: Another run holds the lock, or the directory cannot be written; every process of
            this run raises it.
    """
    lock, refusal = None, None
    if is_main_process():
        try:
            lock = RunLock(directory)
        except LiveCCError as error:
            refusal = str(error)
    refusal = broadcast_from_main(refusal)
    if refusal is not None:
        raise ConfigError(refusal)
    try:
        yield lock
    finally:
        if lock is not None:
            lock.release()
