"""A folder of limited size with local copies of remote files, shared by all processes of a host.

Ours, not fsspec's `filecache`, which has no largest size, no lock on a copy in use, and no answer to a
full disk or to a store that stops sending.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from livecc_jax.data.files.download import download
from livecc_jax.data.files.media_root import MediaRoot
from livecc_jax.data.files.remote import (
    DISK_FULL,
    FIRST_WAIT_S,
    FileStat,
    with_retries,
)
from livecc_jax.errors import ConfigError, DataError, MediaError
from livecc_jax.writing import format_bytes

STALL_TIMEOUT_S = 60.0  # an attempt that receives no byte for this long is given up
SPACE_TIMEOUT_S = 600.0  # longest wait for files in use to be released when none can be evicted
STALE_PART_S = 3600.0  # a partial file this old belongs to a process that died
DEFAULT_GB = 50.0


def default_folder() -> Path:
    """Returns the folder of the cache when none is configured."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "livecc" / "media"


def _suffix(address: str) -> str:
    """Returns the suffix of an address, by which some formats are told, but nothing of its query."""
    suffix = os.path.splitext(address.partition("?")[0])[1][:8]
    return suffix if suffix[1:].isalnum() else ""


class FileCache:
    """Local copies of remote files with least-recently-used eviction.

    A copy in use is never evicted: each user holds a file lock on it, which the system releases when
    the user's process ends.

    Args:
        folder: Folder of the copies; by default in the user's cache folder.
        max_bytes: Most bytes that all copies together may take.
        stall_timeout_s: Seconds without a byte after which an attempt to fetch is given up.
        first_wait_s: Longest wait in seconds before the first retry of a fetch.
        allocate: Reserves disk space for an open file, as os.posix_fallocate does.
    """

    def __init__(
        self,
        folder: str | Path = "",
        max_bytes: int = int(DEFAULT_GB * 1e9),
        *,
        stall_timeout_s: float = STALL_TIMEOUT_S,
        first_wait_s: float = FIRST_WAIT_S,
        allocate: Callable[[int, int, int], None] = os.posix_fallocate,
    ) -> None:
        self.folder = Path(folder) if folder else default_folder()
        self.max_bytes = max_bytes
        self._stall_timeout_s, self._first_wait_s = stall_timeout_s, first_wait_s
        self._allocate_space = allocate

    @staticmethod
    def from_gigabytes(folder: str | Path, gigabytes: float) -> FileCache:
        """Returns a cache of a size in GB. Raises ConfigError when the size is not positive."""
        if not 0 < gigabytes < math.inf:
            raise ConfigError(f"a cache must hold more than 0 GB, not {gigabytes}")
        return FileCache(folder, int(gigabytes * 1e9))

    @contextlib.contextmanager
    def local(self, address: str, stat: FileStat, media_root: MediaRoot | None = None) -> Iterator[str]:
        """Yields the path of a local copy, which stays valid until the block ends.

        Args:
            address: Address of the file.
            stat: Its size and modification time; another version of the file gets another copy.
            media_root: Confines the hosts that are connected to; see `open_store`.

        Raises:
            MediaError: The file is gone, is larger than the cache, or its store fails repeatedly.
            DataError: The disk is full.
        """
        if stat.size > self.max_bytes:
            raise MediaError(
                f"{address}: has {format_bytes(stat.size)}, more than the cache may hold "
                f"({format_bytes(self.max_bytes)})"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        key = hashlib.sha256(f"{address} {stat.size} {stat.mtime_ns}".encode()).hexdigest()[:32]
        path = self.folder / (key + _suffix(address))
        with self._locked_copy(address, path, stat.size, media_root):
            os.utime(path)
            yield str(path)

    def size(self) -> int:
        """Returns the bytes in use, including space reserved for files being fetched."""
        if not self.folder.is_dir():
            return 0
        with self._exclusive():
            return self._used_bytes()

    def _locked_copy(
        self, address: str, path: Path, size: int, media_root: MediaRoot | None
    ) -> IO[str]:
        """Returns an open lock on the copy at `path`, after fetching the file if it is missing."""
        while True:
            lock = open(self._lock_path(path), "a")  # noqa: SIM115 (the caller closes it)
            try:
                fcntl.flock(lock, fcntl.LOCK_SH)
                # A lock file that was evicted meanwhile is not the one others use.
                if self._is_current(lock, path) and path.is_file():
                    return lock
                fcntl.flock(lock, fcntl.LOCK_EX)
                if self._is_current(lock, path) and not path.is_file():
                    try:
                        self._fetch(address, path, size, media_root)
                    except BaseException:
                        self._lock_path(path).unlink(missing_ok=True)
                        raise
            except BaseException:
                lock.close()
                raise
            lock.close()

    def _fetch(self, address: str, path: Path, size: int, media_root: MediaRoot | None) -> None:
        part = self._reserve(address, path, size)
        try:
            with_retries(
                address,
                lambda: download(address, part, size, self._stall_timeout_s, media_root),
                self._first_wait_s,
            )
            with self._exclusive():
                os.replace(part, path)
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            raise self._disk_full_error(address, size) from error
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part)

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Excludes other threads and processes: while files are renamed, a listing of the folder may
        contain one of them twice or not at all."""
        with open(self.folder / "room.lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _used_bytes(self) -> int:
        return sum(size for _, size, _ in self._files())

    def _reserve(self, address: str, path: Path, size: int) -> str:
        """Evicts files until `size` bytes are free, and returns a partial file of that size."""
        deadline = time.monotonic() + SPACE_TIMEOUT_S
        while True:
            with self._exclusive():
                excess = self._used_bytes() + size - self.max_bytes
                while excess > 0 and self._evict(excess):
                    excess = self._used_bytes() + size - self.max_bytes
                if excess <= 0:
                    return self._allocate(address, path, size)
            if time.monotonic() > deadline:
                raise DataError(
                    f"{self.folder}: {format_bytes(self.max_bytes)} are too few for the files in use"
                )
            time.sleep(0.2)

    def _allocate(self, address: str, path: Path, size: int) -> str:
        while True:
            handle, part = tempfile.mkstemp(dir=self.folder, prefix=path.stem, suffix=".part")
            try:
                self._allocate_space(handle, 0, size)
                return part
            except OSError as error:
                os.unlink(part)
                if error.errno not in DISK_FULL:
                    raise
                # Others fill the disk too: evict more than the limit of the cache asks for.
                if not self._evict(size):
                    raise self._disk_full_error(address, size) from error
            finally:
                os.close(handle)

    def _disk_full_error(self, address: str, size: int) -> DataError:
        return DataError(
            f"{self.folder}: the disk is full: {address} needs {format_bytes(size)}; free some space, "
            "or configure another cache folder"
        )

    def _evict(self, needed_bytes: int) -> int:
        """Removes least recently used files up to `needed_bytes`; returns how many were removed."""
        num_removed = freed_bytes = 0
        for _, size, path in sorted(self._files()):
            if freed_bytes >= needed_bytes:
                break
            if path.suffix == ".part":
                continue
            lock_path = self._lock_path(path)
            with contextlib.suppress(OSError), open(lock_path, "a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while the copy is in use
                if self._is_current(lock, path):
                    path.unlink(missing_ok=True)
                    lock_path.unlink(missing_ok=True)
                    freed_bytes, num_removed = freed_bytes + size, num_removed + 1
        return num_removed

    def _files(self) -> list[tuple[float, int, Path]]:
        """Lists (last use, bytes, path) of all files; removes partial files of dead processes."""
        files = []
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    stat = entry.stat()
                    if entry.name.endswith(".lock"):
                        continue
                    if entry.name.endswith(".part") and time.time() - stat.st_mtime > STALE_PART_S:
                        os.unlink(entry.path)
                    else:
                        files.append((stat.st_mtime, stat.st_size, Path(entry.path)))
        return files

    @staticmethod
    def _lock_path(path: Path) -> Path:
        return path.with_name(path.name + ".lock")

    @classmethod
    def _is_current(cls, lock: IO[str], path: Path) -> bool:
        """Returns whether an open lock file is still the one that stands for `path`."""
        try:
            return os.fstat(lock.fileno()).st_ino == os.stat(cls._lock_path(path)).st_ino
        except FileNotFoundError:
            return False
