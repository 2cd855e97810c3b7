"""Writes a directory atomically: other processes see the old directory or the new one, never a part."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from livecc_jax.errors import CheckpointError


@contextlib.contextmanager
def atomic_directory(
    destination: str | Path, overwrite: bool = False, needed_bytes: int = 0
) -> Iterator[Path]:
    """Yields a temporary directory that replaces `destination` when the block succeeds.

    Args:
        destination: The directory to write.
        overwrite: Replace an existing directory, provided that it is a checkpoint or empty.
        needed_bytes: Number of bytes that are going to be written.

    Raises:
        CheckpointError: The destination exists and may not be replaced, or the disk is too full (the
            old directory is removed last, so its space does not count) or cannot be written.
    """
    destination = Path(destination).absolute()
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
    fresh = destination.with_name(f".{destination.name}.new-{os.getpid()}")
    old = destination.with_name(f".{destination.name}.old-{os.getpid()}")
    try:
        fresh.mkdir(parents=True)
    except OSError as e:
        raise CheckpointError(f"{destination}: cannot be written ({e.strerror})") from e
    try:
        yield fresh
        try:
            if destination.exists():
                destination.rename(old)
            fresh.rename(destination)
        except OSError as e:
            raise CheckpointError(f"{destination}: cannot be replaced ({e.strerror})") from e
    finally:
        if old.exists() and not destination.exists():
            old.rename(destination)
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _check_free_space(destination: Path, needed_bytes: int) -> None:
    """Raises CheckpointError unless the disk has this many bytes free."""
    parent = next(p for p in destination.parents if p.exists())
    free = shutil.disk_usage(parent).free
    if free < needed_bytes:
        raise CheckpointError(
            f"{destination}: needs {needed_bytes / 1e9:.1f} GB, "
            f"but its disk has {free / 1e9:.1f} GB free"
        )


def copy_files(source: str | Path, destination: Path, names: Iterable[str]) -> None:
    """Copy those of the named files that `source` has, over those at `destination`.

    Raises:
        CheckpointError: A file cannot be copied.
    """
    for name in names:
        if (Path(source) / name).is_file():
            try:
                shutil.copyfile(Path(source) / name, destination / name)
            except OSError as e:
                raise CheckpointError(f"{e.filename}: {name} cannot be copied ({e.strerror})") from e
