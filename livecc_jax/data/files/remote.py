"""Access to files in buckets through fsspec, with retries for stores that are slow or fail."""

from __future__ import annotations

import datetime
import errno
import functools
import logging
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from livecc_jax.data.files.media_root import HTTP_SCHEMES, MediaRoot, confined_client
from livecc_jax.data.files.paths import is_remote
from livecc_jax.errors import ConfigError, LiveCCError, MediaError
from livecc_jax.redact import redact

log = logging.getLogger(__name__)

ATTEMPTS = 5
FIRST_WAIT_S = 0.5  # doubled after each failure, with jitter so that hosts do not retry in step
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)  # errors of this host's disk, not of the store
T = TypeVar("T")


@functools.lru_cache(maxsize=64)
def _filesystem(scheme: str, media_root: MediaRoot | None) -> Any:
    import fsspec

    options = {}
    if media_root is not None and scheme.lower() in HTTP_SCHEMES:
        options["get_client"] = functools.partial(confined_client, media_root)
    try:
        return fsspec.filesystem(scheme, **options)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{scheme}://: cannot be opened here: {error}") from error


def open_store(address: str, media_root: MediaRoot | None = None) -> tuple[Any, str]:
    """Returns the fsspec file system of an address, and the path in it.

    Args:
        address: Address of a file.
        media_root: Confines the hosts that are connected to, for the address of an annotation.

    Raises:
        ConfigError: The package for that kind of store is not installed.
    """
    store = _filesystem(address.split("://", 1)[0], media_root)
    return store, store._strip_protocol(address)


def with_retries(name: str, request: Callable[[], T], first_wait_s: float = FIRST_WAIT_S) -> T:
    """Sends a request to a remote store; failures are retried with exponential backoff.

    Args:
        name: Names the file in errors.
        request: Called at most ATTEMPTS times.
        first_wait_s: Longest wait in seconds after the first failure; doubled after each failure.

    Raises:
        MediaError: The file does not exist, may not be read, or every attempt failed.
    """
    wait_s = first_wait_s
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return request()
        except LiveCCError:
            raise
        except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
            codes = {FileNotFoundError: errno.ENOENT, PermissionError: errno.EACCES}
            if isinstance(error.__cause__, LiveCCError):  # fsspec takes a refusal for a missing file
                raise MediaError(f"{name}: {error.__cause__}") from error
            reason = os.strerror(error.errno or codes.get(type(error), errno.EISDIR))
            raise MediaError(f"{name}: cannot be read: {reason}") from error
        except Exception as error:  # stores raise errors of their own kinds
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                raise
            if attempt == ATTEMPTS:
                reason = str(error) or type(error).__name__
                raise MediaError(
                    f"{name}: the store failed {ATTEMPTS} times; the last time: {reason}"
                ) from error
            log.info("%s: attempt %d failed (%s)", redact(name), attempt, redact(str(error)))
        time.sleep(wait_s * random.uniform(0.5, 1.0))
        wait_s *= 2
    raise AssertionError("unreachable")


@dataclass(frozen=True)
class FileStat:
    """Size and time of the last change of a file, by which another version of it is recognised.

    Attributes:
        size: Size in bytes.
        mtime_ns: Time of the last change in nanoseconds; 0 when the store does not tell.
    """

    size: int
    mtime_ns: int


def file_stat(path: str, media_root: MediaRoot | None = None) -> FileStat:
    """Returns size and modification time of a file, local or remote.

    Args:
        path: Path or address of the file.
        media_root: See `open_store`.

    Raises:
        MediaError: The file is missing or empty.
    """
    if is_remote(path):
        store, name = open_store(path, media_root)
        info = with_retries(path, lambda: store.info(name))
        stat = FileStat(int(info.get("size") or 0), _mtime_ns(info))
    else:
        folder, record, _ = path.partition("/#")
        if record or os.path.isfile(os.path.join(path, "dataset_info.json")):
            # A dataset is replaced as one, so its info file stands for each of its records.
            path = os.path.join(folder, "dataset_info.json")
        try:
            local = os.stat(path)
        except OSError as error:
            raise MediaError(f"{path}: cannot be read: {error.strerror}") from error
        except ValueError as error:  # a NUL, or a character that no file name can have
            raise MediaError(f"{path!a:.200}: is no possible path") from error
        if os.path.isdir(path):
            raise MediaError(f"{path}: is a directory")
        stat = FileStat(local.st_size, local.st_mtime_ns)
    if not stat.size:
        raise MediaError(f"{path}: is empty")
    return stat


def _mtime_ns(info: dict) -> int:
    """Reads the time of the last change under whichever key the store uses for it."""
    for key in ("mtime", "LastModified", "last_modified", "updated", "timeModified"):
        value = info.get(key)
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


class RandomAccessFile:
    """A file that is read by byte range, local or in a bucket.

    Raises:
        OSError: A local file cannot be opened.
        MediaError: A remote file cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = None
        if is_remote(path):
            self._store, self._name = open_store(path)
            self.size = int(with_retries(path, lambda: self._store.info(self._name))["size"])
        else:
            self._file = open(path, "rb")  # noqa: SIM115 (stays open as long as the object lives)
            self.size = self._file.seek(0, 2)

    def read(self, start: int, stop: int) -> bytes:
        """Returns bytes start to stop. Moves no shared file position, so threads may share a file."""
        if self._file is None:
            return with_retries(self.path, lambda: self._store.cat_file(self._name, start, stop))
        return os.pread(self._file.fileno(), stop - start, start)
