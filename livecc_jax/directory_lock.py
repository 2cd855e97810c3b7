"""The lock of a directory: two processes that write one directory would lose work of each other.

`<directory>/lock.json` says which process of which host works there. Its holder also has a file lock
on it, which the system releases when the process ends, however that happens, and touches it regularly.
So a stale lock is recognised at once on the same machine, and after a while on another one, where a
file lock may not be visible.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

from livecc_jax.bounded_json import parse_json
from livecc_jax.errors import ConfigError
from livecc_jax.writing import writing

log = logging.getLogger(__name__)

LOCK = "lock.json"
TOUCH_SECONDS = 10.0  # the holder touches its lock so often
STALE_SECONDS = 60.0  # a lock of another machine that is not touched for so long is stale
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
RELEASE_SECONDS = 2.0  # the system may need so long to end a process that was killed


class DirectoryLock:
    """The lock of one directory, held from the constructor to `release`.

    Args:
        directory: The directory; it is created if it does not exist.
        machine: Identity of this machine since it was started.
        touch_seconds: Seconds between two signs of life.
        stale_seconds: Seconds without a sign of life after which another machine's lock is stale.

    Attributes:
        activity: What the holder does, and what to do instead, for the message to a second process.

    Raises:
        ConfigError: Another process holds it.
        OutputError: The directory cannot be written.
    """

    activity = ("works in this directory", "use another directory")

    def __init__(
        self,
        directory: Path,
        machine: str = "",
        touch_seconds: float = TOUCH_SECONDS,
        stale_seconds: float = STALE_SECONDS,
    ) -> None:
        self._path = directory / LOCK
        self._stale_seconds = stale_seconds
        self._holder = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "machine": machine or _machine(),
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
            while (handle := self._create()) is None:
                self._remove_stale()
        self._handle = handle
        self._released = threading.Event()
        self._thread = threading.Thread(
            target=self._touch, args=(touch_seconds,), name="directory lock", daemon=True
        )
        self._thread.start()

    def _create(self) -> int | None:
        """Creates the lock file, complete and locked; returns None when there is one already."""
        unfinished = self._path.with_name(f".{LOCK}.{os.getpid()}-{os.urandom(4).hex()}")
        handle = os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        try:
            _try_lock(handle)
            self._describe(handle)
            os.link(unfinished, self._path)  # fails when there is one, unlike a renaming
            return handle
        except OSError as error:
            os.close(handle)
            if error.errno == errno.EEXIST:
                return None
            if error.errno in NO_LINKS:
                return self._create_without_link()
            raise
        finally:
            unfinished.unlink(missing_ok=True)

    def _create_without_link(self) -> int | None:
        """Creates the lock file where the file system has no links; it is empty for a moment."""
        try:
            handle = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
        except FileExistsError:
            return None
        _try_lock(handle)
        self._describe(handle)
        return handle

    def _describe(self, handle: int) -> None:
        """Writes who holds the lock."""
        rest = (json.dumps(self._holder, indent=1) + "\n").encode()
        while rest:  # a disk that is nearly full takes a part before it refuses
            rest = rest[os.write(handle, rest) :]

    def _remove_stale(self) -> None:
        """Removes the lock of another process if it is stale. Raises ConfigError if it is not."""
        try:
            handle = os.open(self._path, os.O_RDWR)
        except FileNotFoundError:
            return  # it was released meanwhile
        try:
            holder = _read(handle)
            name = f"process {holder.get('pid', '?')} on {holder.get('host', 'another host')}"
            locked = self._wait_for_lock(handle)
            # This machine sees all its locks, so one that nobody holds here is that of a dead process.
            here = locked is True and holder.get("machine") == self._holder["machine"]
            if locked is False or not (here or self._is_silent(handle, name)):
                raise ConfigError(
                    f"{self._path.parent}: {name} {self.activity[0]} (since "
                    f"{holder.get('started', 'an unknown time')}); wait until it has ended, or "
                    f"{self.activity[1]}"
                )
            log.warning("%s: %s has ended without releasing it", self._path, name)
            with contextlib.suppress(FileNotFoundError):
                if os.stat(self._path).st_ino == os.fstat(handle).st_ino:
                    self._path.unlink()
        finally:
            os.close(handle)

    def _wait_for_lock(self, handle: int) -> bool | None:
        """Returns whether nobody holds the file lock; None where the file system has no file locks."""
        deadline = time.monotonic() + RELEASE_SECONDS
        while (locked := _try_lock(handle)) is False and time.monotonic() < deadline:
            time.sleep(0.1)
        return locked

    def _is_silent(self, handle: int, name: str) -> bool:
        """Returns whether the holder, on another machine, gives no sign of life for long enough.

        The file's times are compared with each other, as the clocks of two machines may differ.
        """
        touched = os.fstat(handle).st_mtime_ns
        deadline = time.monotonic() + self._stale_seconds
        log.warning(
            "%s: held by %s; waiting up to %.0f s for a sign of life",
            self._path, name, self._stale_seconds,
        )  # fmt: skip
        while time.monotonic() < deadline:
            time.sleep(min(1.0, self._stale_seconds / 10))
            try:
                now = os.stat(self._path)
            except FileNotFoundError:
                return True  # released
            if now.st_mtime_ns != touched or now.st_ino != os.fstat(handle).st_ino:
                return False
        return True

    def _touch(self, seconds: float) -> None:
        """The thread that gives signs of life."""
        while not self._released.wait(seconds):
            with contextlib.suppress(OSError):
                os.utime(self._handle)

    def is_held(self) -> bool:
        """Returns whether the file is still there; it is not when the directory was deleted."""
        try:
            return os.stat(self._path).st_ino == os.fstat(self._handle).st_ino
        except OSError:
            return False

    def release(self) -> None:
        """Removes the lock."""
        self._released.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            if self.is_held():
                self._path.unlink()
        os.close(self._handle)


def _try_lock(handle: int) -> bool | None:
    """Takes the file lock; returns False when another holds it, None when there are no file locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _read(handle: int) -> dict[str, Any]:
    """Returns what a lock file says about its holder; nothing when it is not readable as JSON."""
    with contextlib.suppress(ValueError, OSError, RecursionError):
        holder = parse_json(os.pread(handle, 4096, 0))
        if isinstance(holder, dict):
            return holder
    return {}


def _machine() -> str:
    """Returns an identity of this machine since it was started, which its containers share."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return socket.gethostname()
