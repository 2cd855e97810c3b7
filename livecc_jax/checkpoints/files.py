"""Writes a directory atomically: other processes see the old directory or the new one, never a part."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import logging
import os
import re
import shutil
import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from livecc_jax.errors import CheckpointError, OutputError
from livecc_jax.text.links import target_outside
from livecc_jax.writing import format_bytes, output_error

log = logging.getLogger(__name__)

ABANDONED_SECONDS = 3600.0  # another host has stopped writing when nothing changed for so long


@contextlib.contextmanager
def atomic_directory(
    destination: str | Path, overwrite: bool = False, needed_bytes: int = 0
) -> Iterator[Path]:
    """Yields a temporary directory that replaces `destination` when the block succeeds.

    A process that is killed leaves its temporary directory; the next one that writes the same
    destination removes it, and puts back a directory that was being replaced.

    Args:
        destination: The directory to write.
        overwrite: Replace an existing directory, provided that it is a checkpoint or empty.
        needed_bytes: Number of bytes that are going to be written.

    Raises:
        CheckpointError: The destination exists and may not be replaced, or the disk is too full (the
            old directory is removed last, so its space does not count) or cannot be written.
    """
    destination = Path(destination).absolute()
    _clear_leftovers(destination)
    if destination.exists() or destination.is_symlink():
        if not overwrite:
            raise CheckpointError(
                f"{destination}: already exists; choose another place or overwrite it"
            )
        replaceable = destination.is_dir() and (
            (destination / "config.json").is_file() or not any(destination.iterdir())
        )
        if not replaceable or destination.is_symlink():
            raise CheckpointError(f"{destination}: is not a checkpoint, so it is not overwritten")
    _check_free_space(destination, needed_bytes)
    writer = f"{_host()}-{os.getpid()}"
    fresh = destination.with_name(f".{destination.name}.new-{writer}")
    old = destination.with_name(f".{destination.name}.old-{writer}")
    with contextlib.ExitStack() as locks:
        try:
            fresh.mkdir(parents=True)
            locks.enter_context(_locked(fresh))
        except OSError as e:
            raise CheckpointError(f"{destination}: cannot be written ({e.strerror})") from e
        try:
            with _named(destination, fresh):
                yield fresh
            try:
                if destination.exists():
                    locks.enter_context(_locked(destination))
                    destination.rename(old)
                fresh.rename(destination)
            except OSError as e:
                raise CheckpointError(f"{destination}: cannot be replaced ({e.strerror})") from e
        finally:
            if old.exists() and not destination.exists():
                old.rename(destination)
            shutil.rmtree(fresh, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def _named(destination: Path, fresh: Path) -> Iterator[None]:
    """Lets errors of the block name the destination, which the user knows, not the temporary one."""
    try:
        yield
    except OutputError as e:
        raise CheckpointError(str(e).replace(str(fresh), str(destination))) from e
    except CheckpointError as e:
        if str(fresh) not in str(e):
            raise
        raise CheckpointError(str(e).replace(str(fresh), str(destination))) from e
    except OSError as e:
        if e.filename is not None and str(fresh) not in str(e.filename):
            raise  # of a file that is read
        raise CheckpointError(str(output_error(destination, e))) from e


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[bool]:
    """Holds a file lock on a directory, as a sign that a living process writes it.

    Yields:
        Whether nobody else holds it; True where the file system has no file locks.
    """
    handle = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:
            pass
        yield True
    finally:
        os.close(handle)


def _clear_leftovers(destination: Path) -> None:
    """Removes what killed processes have left of `destination`, and puts back what they replaced."""
    prefix = f".{destination.name}."
    for kind in ("old-", "new-"):
        for path in sorted(destination.parent.glob(f"{glob.escape(prefix + kind)}*")):
            # A leftover that cannot be examined or removed is in nobody's way.
            with contextlib.suppress(OSError), _locked(path) as unlocked:
                if not unlocked or not _is_abandoned(path, path.name.removeprefix(prefix + kind)):
                    continue
                if kind == "old-" and not destination.exists():
                    path.rename(destination)
                    log.warning("%s: put back, as the process that replaced it ended", destination)
                else:
                    shutil.rmtree(path)
                    log.info("%s: removed, as the process that wrote it ended", path)


def _is_abandoned(path: Path, writer: str) -> bool:
    """Returns whether the writer of a temporary directory, which holds no lock here, has ended.

    Args:
        path: The directory.
        writer: Its host and process id, or the process id alone, as earlier versions named it.
    """
    host, _, pid = writer.rpartition("-")
    if not pid.isdecimal():
        return False
    if host and host != _host():
        # The locks of another host may not be visible here, but what it writes is.
        entries = [path, *path.rglob("*")]
        return time.time() - max(p.lstat().st_mtime for p in entries) > ABANDONED_SECONDS
    if host or int(pid) == os.getpid():
        return True  # this version holds a lock while it writes
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass
    return False


def _host() -> str:
    """Returns the name of this host, as it is part of the name of a temporary directory."""
    return re.sub(r"[^\w.]+", "-", socket.gethostname())


def _check_free_space(destination: Path, needed_bytes: int) -> None:
    """Raises CheckpointError unless the disk has this many bytes free."""
    parent = next(p for p in destination.parents if p.exists())
    free = shutil.disk_usage(parent).free
    if free < needed_bytes:
        raise CheckpointError(
            f"{destination}: needs {format_bytes(needed_bytes)}, "
            f"but its disk has {format_bytes(free)} free"
        )


def check_link(file: Path) -> Path:
    """Returns the file. Raises CheckpointError when it is a link that leads out of its directory."""
    target = target_outside(file)
    if target is not None:
        raise CheckpointError(f"{file}: is a link that leaves its directory, to {target}")
    return file


def copy_files(source: str | Path, destination: Path, names: Iterable[str]) -> None:
    """Copy those of the named files that `source` has, over those at `destination`.

    Raises:
        CheckpointError: A file cannot be copied, or is a link that leads out of `source`.
    """
    for name in names:
        if (Path(source) / name).is_file():
            try:
                shutil.copyfile(check_link(Path(source) / name), destination / name)
            except OSError as e:
                raise CheckpointError(f"{e.filename}: {name} cannot be copied ({e.strerror})") from e
