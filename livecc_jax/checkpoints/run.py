"""A training run on disk: Orbax step folders, with the configuration and tokenizer at the root.

    <run>/config.json        the model's configuration, with the blocks "livecc" and "train"
    <run>/tokenizer.json     and its companions
    <run>/<step>/params      parameters
    <run>/<step>/opt_state   optimiser state; absent when a checkpoint was converted
    <run>/<step>/meta        JSON: all other state of the trainer

Each of the three has checksums of its files (`checksums`), which are compared before anything is read.
Everything is restored bit for bit, on any mesh.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging as absl_logging

from livecc_jax.checkpoints.background_errors import (
    silence_background_errors,
    wait_for_background_threads,
)
from livecc_jax.checkpoints.checksums import check_files
from livecc_jax.checkpoints.hf_config import CONFIG, LiveCCBlock, to_config_json
from livecc_jax.checkpoints.item_handlers import JsonSave, TreeSave, item_handlers
from livecc_jax.checkpoints.json_fields import read_json, write_json
from livecc_jax.errors import CheckpointError
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.qwen2_vl import Params
from livecc_jax.text.tokenizer import Tokenizer

# Orbax logs every step at INFO.
absl_logging.set_verbosity(absl_logging.WARNING)

ITEMS = ("params", "opt_state", "meta")
DAMAGED = ".damaged"  # suffix of a step folder that could not be read
SMALL_FILE_BYTES = 1 << 20  # files up to this size are checked before the description of arrays is read


def list_steps(path: str | Path) -> list[int]:
    """Returns the complete steps of a run, oldest first; none when there is no such run."""
    path = Path(path)
    if not path.is_dir():
        return []
    return sorted(int(p.name) for p in path.iterdir() if p.name.isdecimal() and is_complete_step(p))


def is_complete_step(step: Path) -> bool:
    """Whether a step folder was written completely."""
    return (
        (step / "params").is_dir()
        and (step / "_CHECKPOINT_METADATA").is_file()
        and ocp.utils.is_checkpoint_finalized(step)
    )


def _leaves(tree: Any) -> dict[str, Any]:
    """Returns the leaves by path, for a tree as well as for its metadata in Orbax."""

    def name(key: Any) -> str:
        return str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))))

    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(name(k) for k in path): leaf for path, leaf in flat}


def _restore_target(leaf: jax.ShapeDtypeStruct) -> Any:
    """Returns what tells Orbax where to restore an array; a numpy array stands for the host.

    The numpy array is broadcast from one number, so it takes no memory.
    """
    if getattr(leaf, "sharding", None) is not None:
        return leaf
    return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)


def _item_metadata(folder: Path, item: str) -> Any:
    """Returns the tree of an item of a step, with shapes and dtypes in place of arrays."""
    if not (folder / item).is_dir():
        raise CheckpointError(f"{folder}: has no {item}")
    check_files(folder / item, max_bytes=SMALL_FILE_BYTES)
    with _reading(folder, item):
        tree = ocp.StandardCheckpointHandler().metadata(folder / item).tree
        for path, leaf in _leaves(tree).items():
            if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
                raise ValueError(f"{path:.200} is no array")
    return tree


def _reading(folder: Path, item: str) -> contextlib.AbstractContextManager[None]:
    """Turn what Orbax raises for an item that it cannot read into CheckpointError.

    A damaged file without checksums can make it raise anything.
    """
    return _as_checkpoint_error(folder, f"its {item} cannot be read", (Exception,))


@contextlib.contextmanager
def _as_checkpoint_error(
    where: Path,
    what: str,
    kinds: tuple[type[Exception], ...] = (OSError, ValueError, KeyError, RuntimeError),
) -> Iterator[None]:
    """Turn exceptions of these kinds, which Orbax raises for a failing disk, into CheckpointError."""
    try:
        yield
    except kinds as e:
        reason = str(e).strip().split("\n")[0] or type(e).__name__
        if len(reason) > 200:  # the cause ("No space left on device") comes last
            reason = f"{reason[:80]} ... {reason[-115:]}"
        raise CheckpointError(f"{where}: {what} ({reason})") from e


class _Manager(ocp.CheckpointManager):
    """Orbax's manager, without its own handling of preemption: the training loop does that."""

    def reached_preemption(self, step: int) -> bool:
        """Returns False, without a call to jax's preemption service.

        The service compares one counter with the number it agreed on, and the last caller sets the
        counter. If Orbax called it with steps, it would agree on a number that the training loop's
        polls reach much later, or never.
        """
        del step
        return False


class RunDirectory:
    """The directory of one training run.

    Args:
        path: The directory.
        keep: Number of newest steps to keep; older ones are deleted when new ones complete.
        asynchronous: Let `save` return once the arrays are copied, and write in the background.
        keep_every: Steps that are multiples of this number are never deleted; 0 protects none.
    """

    def __init__(
        self, path: str | Path, keep: int = 3, asynchronous: bool = True, keep_every: int = 0
    ) -> None:
        self.path = Path(path).absolute()
        self.keep = keep
        self.keep_every = keep_every
        self.asynchronous = asynchronous
        self._manager: _Manager | None = None

    def create(
        self, config: ModelConfig, livecc: LiveCCBlock, tokenizer: Tokenizer | None, train: dict
    ) -> None:
        """Create the directory with its config.json and tokenizer files.

        Args:
            config: The architecture.
            livecc: Positions, pixel budget, and the dtype in which the run is exported.
            tokenizer: Tokenizer whose files are written to the root; None writes none.
            train: The flat training configuration, stored under "train".

        Raises:
            CheckpointError: The run already holds a checkpoint, or cannot be written.
        """
        if jax.process_index() != 0:
            return
        if list_steps(self.path):
            raise CheckpointError(f"{self.path}: already holds a run with checkpoints")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise CheckpointError(f"{self.path}: cannot be created ({e.strerror})") from e
        if tokenizer is not None:
            tokenizer.save(self.path)
        # Written last, and renamed atomically, because a directory with a config.json is a run.
        fresh = self.path / f".{CONFIG}.new"
        write_json(fresh, to_config_json(config, livecc) | {"train": train})
        fresh.replace(self.path / CONFIG)

    def train_config(self) -> dict[str, Any]:
        """Returns the flat training configuration that was passed to `create`."""
        config = read_json(self.path / CONFIG)
        train = config.get("train") if isinstance(config, dict) else None
        return train if isinstance(train, dict) else {}

    def save(self, step: int, params: Params, opt_state: Any = None, meta: dict | None = None) -> None:
        """Write a step; it is listed once it is complete.

        Args:
            step: Number of the step.
            params: Nested dict of arrays, sharded or not.
            opt_state: Optimiser state, any tree of arrays; None leaves it out.
            meta: JSON values.

        Raises:
            CheckpointError: The step exists already, or cannot be written (the failure of an
                asynchronous write is raised by the next `save`, `check`, `wait` or `close`).
        """
        items = {"params": TreeSave(params), "meta": JsonSave(meta or {})}
        if opt_state is not None:
            items["opt_state"] = TreeSave(opt_state)
        if step in list_steps(self.path):
            raise CheckpointError(f"{self.path}: step {step} is already there")
        with self._writing():
            if self._manager is None:
                self._clear_unfinished()
                silence_background_errors()
                self._manager = _Manager(
                    self.path,
                    item_names=ITEMS,
                    item_handlers=item_handlers(self.asynchronous),
                    options=ocp.CheckpointManagerOptions(
                        max_to_keep=self.keep,
                        keep_period=self.keep_every or None,
                        enable_async_checkpointing=self.asynchronous,
                    ),
                )
            # Forced: after a return to an older step, new steps have smaller numbers than the newest.
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def check(self) -> None:
        """Raises CheckpointError if an asynchronous write has failed; does not wait."""
        if self._manager is not None:
            with self._writing():
                self._manager.check_for_errors()

    def wait(self) -> None:
        """Wait until every step so far is complete. Raises CheckpointError if a write failed."""
        if self._manager is not None:
            with self._writing():
                self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait until every step is complete, and release the writer's threads."""
        if self._manager is not None:
            manager, self._manager = self._manager, None
            with self._writing():
                manager.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """On failure, raise CheckpointError naming the newest step, and free the failed one's space."""
        try:
            with _as_checkpoint_error(self.path, "a checkpoint could not be written"):
                yield
        except CheckpointError as error:
            manager, self._manager = self._manager, None
            if manager is not None and jax.process_count() == 1:  # or it would wait for the others
                with contextlib.suppress(Exception):  # closing fails for the same reason
                    manager.close()
                wait_for_background_threads()
            self._clear_unfinished()
            latest = self.latest_step()
            state = "there is no earlier one" if latest is None else f"step {latest} is intact"
            raise CheckpointError(f"{error}; {state}") from error

    def __enter__(self) -> RunDirectory:
        """Returns the run itself; leaving the block closes it."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the run."""
        self.close()

    def set_aside(self, step: int) -> None:
        """Rename a step that cannot be read, so that it is no longer listed and its number is free."""
        if jax.process_index() == 0:
            target = self.path / f"{step}{DAMAGED}"
            if target.exists():
                shutil.rmtree(target, ignore_errors=True)
            (self.path / str(step)).rename(target)

    def latest_step(self) -> int | None:
        """Returns the newest complete step; None when there is none."""
        return max(list_steps(self.path), default=None)

    def restore(
        self, step: int, abstract_params: Params, abstract_opt_state: Any
    ) -> tuple[Params, Any, dict[str, Any]]:
        """Restore all items of a step.

        Args:
            step: Number of the step.
            abstract_params: Parameters as `jax.ShapeDtypeStruct`s with shardings.
            abstract_opt_state: Optimiser state likewise, in the optimiser's own structure.

        Returns:
            (params, opt_state, meta), with the arrays in their shardings.

        Raises:
            CheckpointError: The step or an item of it is missing, or an array has another shape.
        """
        folder = self._folder(step)
        params = self._restore_item(folder, "params", abstract_params)
        opt_state = self._restore_item(folder, "opt_state", abstract_opt_state)
        return params, opt_state, self.restore_meta(step)

    def restore_meta(self, step: int) -> dict[str, Any]:
        """Restore only the JSON values of a step. Raises CheckpointError when there are none."""
        folder = self._folder(step)
        if not (folder / "meta").is_dir():
            raise CheckpointError(f"{folder}: has no meta")
        check_files(folder / "meta")
        with _reading(folder, "meta"):
            meta = ocp.JsonCheckpointHandler().restore(folder / "meta")
            if not isinstance(meta, dict):
                raise ValueError("it is not a JSON object")
            return meta

    def restore_params(self, step: int, abstract: Params | None = None) -> Params:
        """Restore only the parameters; the optimiser state is not read.

        Args:
            step: Number of the step.
            abstract: Parameters as `jax.ShapeDtypeStruct`s; arrays are cast to their dtypes, and those
                without sharding stay on the host as numpy arrays. None keeps all stored dtypes, on
                the host.

        Raises:
            CheckpointError: The parameters cannot be read, or have other shapes.
        """
        folder = self._folder(step)
        return self._restore_item(folder, "params", abstract or self.abstract_params(step))

    def abstract_params(self, step: int) -> Params:
        """Returns shapes and stored dtypes of a step's parameters as `jax.ShapeDtypeStruct`s."""
        stored = _item_metadata(self._folder(step), "params")
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), stored)

    def check_files(self, step: int, item: str | None = None) -> int | None:
        """Compare the files of a step with their checksums.

        Args:
            step: Number of the step.
            item: The only item whose files are checked; None checks all.

        Returns:
            Number of files; None when an earlier version has written the step, without checksums.

        Raises:
            CheckpointError: A file is missing or damaged.
        """
        folder = self._folder(step)
        items = [x for x in ITEMS if item in (None, x) and (folder / x).is_dir()]
        counts = [check_files(folder / x) for x in items]
        return None if None in counts else sum(counts)

    def _folder(self, step: int) -> Path:
        """Returns the folder of a complete step. Raises CheckpointError when it is not complete."""
        folder = self.path / str(step)
        if not folder.is_dir():
            complete = ", ".join(map(str, list_steps(self.path))) or "none"
            raise CheckpointError(f"{self.path}: has no step {step} (complete steps: {complete})")
        if not is_complete_step(folder):
            raise CheckpointError(f"{folder}: is not a complete step")
        return folder

    def _restore_item(self, folder: Path, item: str, expected: Any) -> Any:
        """Restore one item, after checking that it has exactly the expected leaves and shapes."""
        stored_leaves, expected_leaves = _leaves(_item_metadata(folder, item)), _leaves(expected)
        for path, leaf in expected_leaves.items():
            if path not in stored_leaves:
                raise CheckpointError(f"{folder}: {item} lacks {path}")
            if tuple(stored_leaves[path].shape) != tuple(leaf.shape):
                raise CheckpointError(
                    f"{folder}: {item} {path} has shape {tuple(stored_leaves[path].shape)}, "
                    f"not {tuple(leaf.shape)}"
                )
        extra = sorted(stored_leaves.keys() - expected_leaves.keys())
        if extra:
            raise CheckpointError(f"{folder}: {item} has {extra[0]}, which is not expected")
        check_files(folder / item, share=(jax.process_index(), jax.process_count()))
        # Without a Checkpointer, which waits for the other processes: a process that finds a shard
        # damaged must be able to report it before the others wait for it.
        with _reading(folder, item):
            targets = jax.tree.map(_restore_target, expected)
            reader = ocp.StandardCheckpointHandler()
            return reader.restore(folder / item, args=ocp.args.StandardRestore(targets))

    def _clear_unfinished(self) -> None:
        """Remove the partly written steps of a killed run."""
        if jax.process_index() == 0:
            for folder in self.path.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(folder, ignore_errors=True)
