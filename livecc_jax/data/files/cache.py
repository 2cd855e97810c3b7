"""A bounded folder of files fetched from a store, shared by threads and processes of a host."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import math
import os
import queue
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from livecc_jax.data.files.remote import DISK, Stamp, patiently, store_of
from livecc_jax.errors import ConfigError, DataError, MediaError

log = logging.getLogger(__name__)

CHUNK = 1 << 20
STALL_S = 60.0  # without a byte, an attempt is given up
ROOM_S = 600.0  # waited for others to be done with files, when none can be evicted
OLD_PART_S = 3600.0
DEFAULT_GB = 50.0


def default_folder() -> Path:
    """Where files go when nothing else is said."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "livecc" / "media"


class FileCache:
    """Local copies of remote files, at most `max_bytes` of them; the longest unused goes first.

    A copy in use is never evicted: users hold a lock on it, which ends with their process.
    """

    def __init__(self, folder: str | Path = "", max_bytes: int = int(DEFAULT_GB * 1e9)) -> None:
        self.folder = Path(folder) if folder else default_folder()
        self.max_bytes = max_bytes

    @staticmethod
    def of(folder: str | Path, gigabytes: float) -> FileCache:
        """A cache of so many GB. Raises ConfigError when that is no size."""
        if not 0 < gigabytes < math.inf:
            raise ConfigError(f"a cache must hold more than 0 GB, not {gigabytes}")
        return FileCache(folder, int(gigabytes * 1e9))

    @contextlib.contextmanager
    def local(self, address: str, seen: Stamp) -> Iterator[str]:
        """A path of the file, good until the block ends.

        Raises:
            MediaError: the file is gone, larger than the cache, or its store fails again and again.
            DataError: the disk is full.
        """
        if seen.size > self.max_bytes:
            raise MediaError(
                f"{address}: has {seen.size} bytes, more than the cache may hold ({self.max_bytes})"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        key = hashlib.sha256(f"{address} {seen.size} {seen.mtime_ns}".encode()).hexdigest()[:32]
        path = self.folder / (key + os.path.splitext(address)[1][:8])
        with self._held(address, path, seen.size):
            os.utime(path)
            yield str(path)

    def size(self) -> int:
        """Bytes that are taken, files under way included."""
        if not self.folder.is_dir():
            return 0
        with self._turn():
            return self._taken()

    def _held(self, address: str, path: Path, size: int) -> IO[str]:
        """An open lock on the copy at `path`, which is fetched when it is not there."""
        while True:
            lock = open(self._lock_path(path), "a")  # noqa: SIM115 (the caller closes it)
            try:
                fcntl.flock(lock, fcntl.LOCK_SH)
                # A lock that was evicted meanwhile is nobody else's any more.
                if self._is_at(lock, path) and path.is_file():
                    return lock
                fcntl.flock(lock, fcntl.LOCK_EX)
                if self._is_at(lock, path) and not path.is_file():
                    try:
                        self._fetch(address, path, size)
                    except BaseException:
                        self._lock_path(path).unlink(missing_ok=True)
                        raise
            except BaseException:
                lock.close()
                raise
            lock.close()

    def _fetch(self, address: str, path: Path, size: int) -> None:
        part = self._reserve(address, path, size)
        try:
            patiently(address, lambda: _copy(address, part, size))
            with self._turn():
                os.replace(part, path)
        except OSError as error:
            if error.errno not in DISK:
                raise
            raise self._full(address, size) from error
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(part)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Alone among threads and processes: while files come and go under new names, a listing of
        the folder may hold one twice or not at all."""
        with open(self.folder / "room.lock", "a") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            yield

    def _taken(self) -> int:
        return sum(size for _, size, _ in self._files())

    def _reserve(self, address: str, path: Path, size: int) -> str:
        """Make room and take it: a file of the right size to write into."""
        until = time.monotonic() + ROOM_S
        while True:
            with self._turn():
                over = self._taken() + size - self.max_bytes
                while over > 0 and self._evict(over):
                    over = self._taken() + size - self.max_bytes
                if over <= 0:
                    return self._allocate(address, path, size)
            if time.monotonic() > until:
                raise DataError(
                    f"{self.folder}: {self.max_bytes} bytes are too few for the files in use"
                )
            time.sleep(0.2)

    def _allocate(self, address: str, path: Path, size: int) -> str:
        while True:
            handle, part = tempfile.mkstemp(dir=self.folder, prefix=path.stem, suffix=".part")
            try:
                os.posix_fallocate(handle, 0, size)
                return part
            except OSError as error:
                os.unlink(part)
                if error.errno not in DISK:
                    raise
                # Others fill the disk too: give up more than the bound asks for.
                if not self._evict(size):
                    raise self._full(address, size) from error
            finally:
                os.close(handle)

    def _full(self, address: str, size: int) -> DataError:
        return DataError(
            f"{self.folder}: the disk is full: {address} needs {size} bytes; make room, or give the "
            "cache another folder"
        )

    def _evict(self, need: int) -> int:
        """Remove the longest unused files, `need` bytes of them: how many were removed."""
        removed = freed = 0
        for _, size, path in sorted(self._files()):
            if freed >= need:
                break
            if path.suffix == ".part":
                continue
            lock_path = self._lock_path(path)
            with contextlib.suppress(OSError), open(lock_path, "a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while somebody uses it
                if self._is_at(lock, path):
                    path.unlink(missing_ok=True)
                    lock_path.unlink(missing_ok=True)
                    freed, removed = freed + size, removed + 1
        return removed

    def _files(self) -> list[tuple[float, int, Path]]:
        """(last use, bytes, path) of all files; parts of processes that died are removed."""
        found = []
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    facts = entry.stat()
                    if entry.name.endswith(".lock"):
                        continue
                    if entry.name.endswith(".part") and time.time() - facts.st_mtime > OLD_PART_S:
                        os.unlink(entry.path)
                    else:
                        found.append((facts.st_mtime, facts.st_size, Path(entry.path)))
        return found

    @staticmethod
    def _lock_path(path: Path) -> Path:
        return path.with_name(path.name + ".lock")

    @classmethod
    def _is_at(cls, lock: IO[str], path: Path) -> bool:
        """Whether an open lock is still the one of `path`."""
        try:
            return os.fstat(lock.fileno()).st_ino == os.stat(cls._lock_path(path)).st_ino
        except FileNotFoundError:
            return False


def _copy(address: str, target: str, size: int) -> None:
    """Fetch a file; a store that goes silent is given up, as waiting longer would stop training."""
    store, name = store_of(address)
    chunks: queue.Queue[bytes | Exception | None] = queue.Queue(4)
    given_up = threading.Event()

    def put(item: bytes | Exception | None) -> None:
        while not given_up.is_set():
            with contextlib.suppress(queue.Full):
                return chunks.put(item, timeout=1.0)

    def read() -> None:
        try:
            with store.open(name, "rb") as source:
                while not given_up.is_set() and (chunk := source.read(CHUNK)):
                    put(chunk)
            put(None)
        except Exception as error:  # raised again below
            put(error)

    threading.Thread(target=read, name="fetch", daemon=True).start()
    got = 0
    try:
        with open(target, "r+b") as file:
            while True:
                try:
                    chunk = chunks.get(timeout=STALL_S)
                except queue.Empty:
                    raise TimeoutError(f"not a byte in {STALL_S:g} s") from None
                if isinstance(chunk, Exception):
                    raise chunk
                if chunk is None:
                    break
                file.write(chunk)
                got += len(chunk)
    finally:
        given_up.set()
    if got != size:
        raise ConnectionError(f"{got} of {size} bytes came")
