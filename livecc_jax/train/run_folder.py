"""Checks that the run directory still is the one that a run began in, and says what it holds."""

from __future__ import annotations

from livecc_jax.checkpoints.hf_config import CONFIG
from livecc_jax.checkpoints.run import RunDirectory
from livecc_jax.errors import CheckpointError
from livecc_jax.train.hooks import Hook
from livecc_jax.train.run_lock import LOCK, RunLock


def describe_newest(directory: RunDirectory) -> str:
    """Returns a clause about the newest complete checkpoint, for the end of an error's sentence."""
    newest = directory.latest_step()
    return "there is no checkpoint yet" if newest is None else f"the newest checkpoint is step {newest}"


def check_run_folder(directory: RunDirectory, lock: RunLock | None) -> None:
    """Checks, in the main process, that the run directory is still the one that the run began in.

    Args:
        directory: The run directory.
        lock: The lock on it; None in the other processes.

    Raises:
        CheckpointError: The directory, its config or its lock was deleted, moved or replaced.
    """
    if lock is None:
        return
    missing = [name for name in (CONFIG, LOCK) if not (directory.path / name).is_file()]
    if not directory.path.is_dir():
        what = "was deleted or moved"
    elif missing:
        what = f"has lost its {' and its '.join(missing)}"
    elif not lock.is_held():
        what = "was replaced by another one"
    else:
        return
    raise CheckpointError(
        f"{directory.path}: {what} while it was trained; {describe_newest(directory)}"
    )


class RunFolderHook(Hook):
    """Checks at every `log_every`-th step that the run directory is still there."""

    def __init__(self, log_every: int, directory: RunDirectory, lock: RunLock | None) -> None:
        self._log_every, self._directory, self._lock = log_every, directory, lock

    def after_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Raises CheckpointError when the directory is not there any more."""
        if step % self._log_every == 0:
            check_run_folder(self._directory, self._lock)
