"""Replacing a whole directory, so that nobody ever sees half of one."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from livecc_jax.errors import CheckpointError


@contextlib.contextmanager
def replacing(destination: str | Path, overwrite: bool = False, needed: int = 0) -> Iterator[Path]:
    """A fresh directory beside `destination`, which takes its place when the block succeeds.

    Args:
        destination: where the result goes.
        overwrite: replace what is there, provided that it is a checkpoint or an empty directory.
        needed: bytes that are going to be written.

    Raises:
        CheckpointError: something is there that may not be replaced, or the disk has no room (what is
            replaced is removed last, so it gives none) or refuses.
    """
    destination = Path(destination).absolute()
    if destination.exists() or destination.is_symlink():
        if not overwrite:
            raise CheckpointError(
                f"{destination}: already exists; choose another place or overwrite it"
            )
        checkpoint = destination.is_dir() and (
            (destination / "config.json").is_file() or not any(destination.iterdir())
        )
        if not checkpoint or destination.is_symlink():
            raise CheckpointError(f"{destination}: is not a checkpoint, so it is not overwritten")
    _check_room(destination, needed)
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


def _check_room(destination: Path, needed: int) -> None:
    """Raise CheckpointError unless the disk has this many bytes free."""
    home = next(p for p in destination.parents if p.exists())
    free = shutil.disk_usage(home).free
    if free < needed:
        raise CheckpointError(
            f"{destination}: needs {needed / 1e9:.1f} GB, but its disk has {free / 1e9:.1f} GB free"
        )


def carry(source: str | Path, destination: Path, names: Iterable[str]) -> None:
    """Copy the files of these names that `source` has, over those at `destination`."""
    for name in names:
        if (Path(source) / name).is_file():
            try:
                shutil.copyfile(Path(source) / name, destination / name)
            except OSError as e:
                raise CheckpointError(f"{e.filename}: {name} cannot be copied ({e.strerror})") from e
