"""Replacing a whole directory, so that nobody ever sees half of one."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from livecc_jax.errors import CheckpointError


@contextlib.contextmanager
def replacing(destination: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """A fresh directory beside `destination`, which takes its place when the block succeeds.

    Args:
        destination: where the result goes.
        overwrite: replace what is there, provided that it is a checkpoint or an empty directory.

    Raises:
        CheckpointError: something is there that may not be replaced, or the disk refuses.
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
