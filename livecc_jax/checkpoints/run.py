"""A training run on disk: Orbax step folders, with the configuration and tokenizer at the root.

    <run>/config.json        the model's configuration, with the blocks "livecc" and "train"
    <run>/tokenizer.json     and its companions
    <run>/<step>/params      parameters
    <run>/<step>/opt_state   optimiser state; absent when a checkpoint was converted
    <run>/<step>/meta        JSON: whatever else the trainer must remember

Everything comes back bit for bit, on any mesh.
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

from livecc_jax.checkpoints.hf_config import CONFIG, LiveCCBlock, read_json, to_dict, write_json
from livecc_jax.errors import CheckpointError
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.qwen2_vl import Params
from livecc_jax.text.tokenizer import Tokenizer

# Orbax narrates every step at INFO.
absl_logging.set_verbosity(absl_logging.WARNING)

ITEMS = ("params", "opt_state", "meta")
DAMAGED = ".damaged"  # what a step that cannot be read is renamed to


def steps_of(path: str | Path) -> list[int]:
    """The complete steps of a run, oldest first; none when there is no such run."""
    path = Path(path)
    if not path.is_dir():
        return []
    return sorted(int(p.name) for p in path.iterdir() if p.name.isdecimal() and is_complete(p))


def is_complete(step: Path) -> bool:
    """Whether a step folder was written to its end."""
    return (
        (step / "params").is_dir()
        and (step / "_CHECKPOINT_METADATA").is_file()
        and ocp.utils.is_checkpoint_finalized(step)
    )


def _leaves(tree: Any) -> dict[str, Any]:
    """{path: leaf}, alike for a tree and for what Orbax remembers of it."""

    def name(key: Any) -> str:
        return str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))))

    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(name(k) for k in path): leaf for path, leaf in flat}


def _target(leaf: jax.ShapeDtypeStruct) -> Any:
    """What tells Orbax where an array goes: a numpy array, here of no memory, means the host."""
    if getattr(leaf, "sharding", None) is not None:
        return leaf
    return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)


def _stored(folder: Path, item: str) -> Any:
    """The tree of an item of a step, with shape and dtype in place of arrays."""
    if not (folder / item).is_dir():
        raise CheckpointError(f"{folder}: has no {item}")
    with _telling(folder, f"its {item} cannot be read"):
        return ocp.StandardCheckpointHandler().metadata(folder / item).tree


@contextlib.contextmanager
def _telling(where: Path, what: str) -> Iterator[None]:
    """Turn what Orbax raises for a disk or a damaged checkpoint into one sentence."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError) as e:
        reason = str(e).strip().split("\n")[0] or type(e).__name__
        if len(reason) > 200:  # the cause ("No space left on device") is told last
            reason = f"{reason[:80]} ... {reason[-115:]}"
        raise CheckpointError(f"{where}: {what} ({reason})") from e


def _bounded_writers() -> dict[str, Any]:
    """Writers that copy a gigabyte of arrays at a time, in place of everything at once."""
    return {
        "params": ocp.StandardCheckpointHandler(save_concurrent_gb=1),
        "opt_state": ocp.StandardCheckpointHandler(save_concurrent_gb=1),
        "meta": ocp.JsonCheckpointHandler(),
    }


class _Manager(ocp.CheckpointManager):
    """Orbax's, that leaves notices of preemption to the training loop."""

    def reached_preemption(self, step: int) -> bool:
        """False, without asking jax's preemption service.

        The service compares one count with the number it agreed on, and whoever asks last sets the
        count: asked about steps, it would agree on one that the loop's polls reach much later or never.
        """
        del step
        return False


class RunDirectory:
    """One run.

    Args:
        path: its directory.
        keep: newest steps to keep; older ones are deleted as new ones complete.
        keep_every: steps that this divides are never deleted; 0: none.
        asynchronous: let `save` return once the arrays are copied, and write behind the caller.
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
        """Make the directory with its config.json and tokenizer files.

        Args:
            config: the architecture.
            livecc: positions, pixel budget, and the dtype in which the run is to be exported.
            tokenizer: its files go to the root; None writes none.
            train: the flat training configuration, kept under "train".

        Raises:
            CheckpointError: the run already holds a checkpoint, or the disk refuses.
        """
        if jax.process_index() != 0:
            return
        if steps_of(self.path):
            raise CheckpointError(f"{self.path}: already holds a run with checkpoints")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise CheckpointError(f"{self.path}: cannot be made ({e.strerror})") from e
        if tokenizer is not None:
            tokenizer.save(self.path)
        # Last, and by renaming: a directory with a config.json is a run.
        fresh = self.path / f".{CONFIG}.new"
        write_json(fresh, to_dict(config, livecc) | {"train": train})
        fresh.replace(self.path / CONFIG)

    def train_config(self) -> dict[str, Any]:
        """The flat training configuration that `create` was given."""
        return read_json(self.path / CONFIG).get("train") or {}

    def save(self, step: int, params: Params, opt_state: Any = None, meta: dict | None = None) -> None:
        """Write a step; it counts once complete.

        Args:
            step: its number.
            params: nested dict of arrays, sharded or not.
            opt_state: any tree of arrays; None leaves it out.
            meta: JSON values.

        Raises:
            CheckpointError: the step is there already, or cannot be written (an asynchronous write
                that failed is told by the next `save`, `wait` or `close`).
        """
        items = {"params": ocp.args.StandardSave(params), "meta": ocp.args.JsonSave(meta or {})}
        if opt_state is not None:
            items["opt_state"] = ocp.args.StandardSave(opt_state)
        if step in steps_of(self.path):
            raise CheckpointError(f"{self.path}: step {step} is already there")
        with self._writing():
            if self._manager is None:
                self._clear_unfinished()
                self._manager = _Manager(
                    self.path,
                    item_names=ITEMS,
                    item_handlers=None if self.asynchronous else _bounded_writers(),
                    options=ocp.CheckpointManagerOptions(
                        max_to_keep=self.keep,
                        keep_period=self.keep_every or None,
                        enable_async_checkpointing=self.asynchronous,
                    ),
                )
            # Forced: after going back to an older step, its successors are smaller than the newest.
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def check(self) -> None:
        """Raise CheckpointError if an asynchronous write has failed; waits for nothing."""
        if self._manager is not None:
            with self._writing():
                self._manager.check_for_errors()

    def wait(self) -> None:
        """Return when every step so far is complete. Raises CheckpointError if a write failed."""
        if self._manager is not None:
            with self._writing():
                self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait, and release the writer's threads."""
        if self._manager is not None:
            manager, self._manager = self._manager, None
            with self._writing():
                manager.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Say that a step was not written and which is left; give back the space of the failed one."""
        try:
            with _telling(self.path, "a checkpoint could not be written"):
                yield
        except CheckpointError as error:
            manager, self._manager = self._manager, None
            if manager is not None and jax.process_count() == 1:  # or it would wait for the others
                with contextlib.suppress(Exception):  # it fails for the same reason again
                    manager.close()
            self._clear_unfinished()
            left = self.latest_step()
            kept = "there is none before it" if left is None else f"step {left} is whole and stays"
            raise CheckpointError(f"{error}; {kept}") from error

    def __enter__(self) -> RunDirectory:
        """The run itself; leaving the block closes it."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close."""
        self.close()

    def set_aside(self, step: int) -> None:
        """Rename a step that cannot be read, so that it no longer counts and its number is free."""
        if jax.process_index() == 0:
            target = self.path / f"{step}{DAMAGED}"
            if target.exists():
                shutil.rmtree(target, ignore_errors=True)
            (self.path / str(step)).rename(target)

    def latest_step(self) -> int | None:
        """The newest complete step; None when there is none."""
        return max(steps_of(self.path), default=None)

    def restore(
        self, step: int, abstract_params: Params, abstract_opt_state: Any
    ) -> tuple[Params, Any, dict[str, Any]]:
        """A whole step.

        Args:
            step: which.
            abstract_params: `jax.ShapeDtypeStruct`s with shardings.
            abstract_opt_state: likewise, in the optimiser's own structure.

        Returns:
            (params, opt_state, meta), the arrays where the shardings say.

        Raises:
            CheckpointError: the step or a part of it is missing, or an array has another shape.
        """
        folder = self._folder(step)
        params = self._restore_item(folder, "params", abstract_params)
        opt_state = self._restore_item(folder, "opt_state", abstract_opt_state)
        return params, opt_state, self.restore_meta(step)

    def restore_meta(self, step: int) -> dict[str, Any]:
        """A step's JSON values alone. Raises CheckpointError when there are none."""
        folder = self._folder(step)
        if not (folder / "meta").is_dir():
            raise CheckpointError(f"{folder}: has no meta")
        with _telling(folder, "its meta cannot be read"):
            return ocp.JsonCheckpointHandler().restore(folder / "meta")

    def restore_params(self, step: int, abstract: Params | None = None) -> Params:
        """The parameters alone; nothing of the optimiser is read.

        Args:
            step: which.
            abstract: `jax.ShapeDtypeStruct`s; another dtype than stored casts, and what has no
                sharding stays on the host as a numpy array. None: all as stored, on the host.
        """
        folder = self._folder(step)
        return self._restore_item(folder, "params", abstract or self.abstract_params(step))

    def abstract_params(self, step: int) -> Params:
        """Shapes and stored dtypes of a step's parameters, as `jax.ShapeDtypeStruct`s."""
        stored = _stored(self._folder(step), "params")
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), stored)

    def _folder(self, step: int) -> Path:
        """A complete step's folder."""
        folder = self.path / str(step)
        if not folder.is_dir():
            have = ", ".join(map(str, steps_of(self.path))) or "none"
            raise CheckpointError(f"{self.path}: has no step {step} (complete steps: {have})")
        if not is_complete(folder):
            raise CheckpointError(f"{folder}: is not a complete step")
        return folder

    def _restore_item(self, folder: Path, item: str, wanted: Any) -> Any:
        """One item, after checking that it has just the wanted leaves, of the wanted shapes."""
        have, want = _leaves(_stored(folder, item)), _leaves(wanted)
        for path in want:
            if path not in have:
                raise CheckpointError(f"{folder}: {item} lacks {path}")
            if tuple(have[path].shape) != tuple(want[path].shape):
                raise CheckpointError(
                    f"{folder}: {item} {path} has shape {tuple(have[path].shape)}, "
                    f"not {tuple(want[path].shape)}"
                )
        extra = sorted(have.keys() - want.keys())
        if extra:
            raise CheckpointError(f"{folder}: {item} has {extra[0]}, which is not wanted")
        # Not by a Checkpointer, which waits for the other processes: one that finds a shard damaged
        # must be able to say so while the others can still hear it.
        with _telling(folder, f"its {item} cannot be read"):
            targets = jax.tree.map(_target, wanted)
            reader = ocp.StandardCheckpointHandler()
            return reader.restore(folder / item, args=ocp.args.StandardRestore(targets))

    def _clear_unfinished(self) -> None:
        """Remove what a killed run left half-written."""
        if jax.process_index() == 0:
            for folder in self.path.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(folder, ignore_errors=True)
