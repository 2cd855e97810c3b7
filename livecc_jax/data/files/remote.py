"""Files that lie in a bucket, through fsspec, with patience for stores that are slow or fail."""

from __future__ import annotations

import datetime
import errno
import functools
import logging
import os
import posixpath
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from livecc_jax.errors import ConfigError, LiveCCError, MediaError

log = logging.getLogger(__name__)

ATTEMPTS = 5
DISK = (errno.ENOSPC, errno.EDQUOT)  # this host's disk, not the store
FIRST_WAIT_S = 0.5  # doubled after each failure, with jitter so that hosts do not knock together
T = TypeVar("T")


def is_remote(path: str) -> bool:
    """Whether the path is an address, as `gs://bucket/name`."""
    return "://" in path


def join(folder: str, path: str) -> str:
    """A path of an annotation file, whose folder may be local or an address."""
    if is_remote(path) or os.path.isabs(path):
        return path
    return normal(f"{folder}/{path}") if is_remote(folder) else os.path.join(folder, path)


def normal(address: str) -> str:
    """An address without `.` and `..`."""
    scheme, rest = address.split("://", 1)
    lead = "/" if rest.startswith("/") else ""
    return f"{scheme}://{lead}{posixpath.normpath(rest).lstrip('/')}"


def folder_of(path: str) -> str:
    """The folder that holds a file."""
    return path.rsplit("/", 1)[0] if is_remote(path) else os.path.dirname(path)


@functools.lru_cache(maxsize=64)
def _filesystem(scheme: str) -> Any:
    import fsspec

    try:
        return fsspec.filesystem(scheme)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{scheme}://: cannot be opened here: {error}") from error


def store_of(address: str) -> tuple[Any, str]:
    """The fsspec file system of an address, and the path in it.

    Raises ConfigError when the package for that kind of store is not installed.
    """
    store = _filesystem(address.split("://", 1)[0])
    return store, store._strip_protocol(address)


def patiently(what: str, work: Callable[[], T]) -> T:
    """Do `work` with a remote store; failures are tried again, longer and longer apart.

    Args:
        what: names the file in the error.
        work: that may raise.

    Raises:
        MediaError: it is not there, may not be read, or failed every time.
    """
    wait = FIRST_WAIT_S
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return work()
        except LiveCCError:
            raise
        except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
            known = {FileNotFoundError: errno.ENOENT, PermissionError: errno.EACCES}
            reason = os.strerror(error.errno or known.get(type(error), errno.EISDIR))
            raise MediaError(f"{what}: cannot be read: {reason}") from error
        except Exception as error:  # what a store raises is its own affair
            if isinstance(error, OSError) and error.errno in DISK:
                raise
            if attempt == ATTEMPTS:
                reason = str(error) or type(error).__name__
                raise MediaError(
                    f"{what}: the store failed {ATTEMPTS} times; the last time: {reason}"
                ) from error
            log.info("%s: attempt %d failed (%s)", what, attempt, error)
        time.sleep(wait * random.uniform(0.5, 1.0))
        wait *= 2
    raise AssertionError("unreachable")


@dataclass(frozen=True)
class Stamp:
    """A file from outside: bytes, and nanoseconds of its last change (0: unknown)."""

    size: int
    mtime_ns: int


def stamp(path: str) -> Stamp:
    """A file's stamp. Raises MediaError when it is missing or empty."""
    if is_remote(path):
        store, name = store_of(path)
        facts = patiently(path, lambda: store.info(name))
        found = Stamp(int(facts.get("size") or 0), _changed(facts))
    else:
        folder, record, _ = path.partition("/#")
        if record or os.path.isfile(os.path.join(path, "dataset_info.json")):
            path = os.path.join(folder, "dataset_info.json")  # a dataset stands and changes as a whole
        try:
            facts = os.stat(path)
        except OSError as error:
            raise MediaError(f"{path}: cannot be read: {error.strerror}") from error
        if os.path.isdir(path):
            raise MediaError(f"{path}: is a directory")
        found = Stamp(facts.st_size, facts.st_mtime_ns)
    if not found.size:
        raise MediaError(f"{path}: is empty")
    return found


def _changed(facts: dict) -> int:
    """Nanoseconds of the last change, from whichever key the store has for it."""
    for key in ("mtime", "LastModified", "last_modified", "updated", "timeModified"):
        value = facts.get(key)
        if isinstance(value, str):
            try:
                value = datetime.datetime.fromisoformat(value)
            except ValueError:
                continue
        if isinstance(value, datetime.datetime):
            value = value.timestamp()
        if isinstance(value, int | float):
            return int(value * 1_000_000_000)
    return 0


class ByteFile:
    """A file read by range, local or in a bucket.

    Raises OSError or MediaError when it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = None
        if is_remote(path):
            self._store, self._name = store_of(path)
            self.size = int(patiently(path, lambda: self._store.info(self._name))["size"])
        else:
            self._file = open(path, "rb")  # noqa: SIM115 (held for the object's life)
            self.size = self._file.seek(0, 2)

    def read(self, start: int, stop: int) -> bytes:
        """Bytes start to stop; one call that moves no shared position, so threads may share a file."""
        if self._file is None:
            return patiently(self.path, lambda: self._store.cat_file(self._name, start, stop))
        return os.pread(self._file.fileno(), stop - start, start)
