"""One way in for every command that takes a MODEL, whatever layout it has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from flax import traverse_util

from livecc_jax.checkpoints.hf_config import CONFIG, LiveCCBlock, read_config
from livecc_jax.checkpoints.hf_import import abstract_hf, flat_dtypes, load_hf
from livecc_jax.checkpoints.names import table
from livecc_jax.errors import CheckpointError
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.qwen2_vl import Params

if TYPE_CHECKING:
    from livecc_jax.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk.

    Attributes:
        path: the HuggingFace directory, or the step folder.
        root: where config.json and the tokenizer are: the directory, or the run.
        kind: "hf" or "orbax".
        config: the architecture.
        livecc: how it was trained.
        step: of an Orbax run, else None.
    """

    path: Path
    root: Path
    kind: str
    config: ModelConfig
    livecc: LiveCCBlock
    step: int | None = None

    def open_tokenizer(self) -> Tokenizer:
        """Its tokenizer. Raises TokenizerError when it has none."""
        from livecc_jax.text.open import open_tokenizer

        return open_tokenizer(self.root)

    def abstract_params(self) -> Params:
        """Shapes and stored dtypes, as `jax.ShapeDtypeStruct`s; only headers are read.

        Those of the model: adapters of a run are merged into it when it is loaded.
        """
        if self.kind == "hf":
            return abstract_hf(self.path, self.config)
        return traverse_util.unflatten_dict(self.stored_apart()[0], sep="/")

    def stored_apart(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """(parameters, adapters) of a step of a run, each {path: `jax.ShapeDtypeStruct`}.

        Raises CheckpointError when they are not this architecture's.
        """
        from livecc_jax.checkpoints.adapters import take_apart
        from livecc_jax.checkpoints.run import RunDirectory

        stored = traverse_util.flatten_dict(RunDirectory(self.root).abstract_params(self.step), sep="/")
        found, adapters = take_apart(stored, self.path)
        wanted = {e.path: e.full_shape for e in table(self.config)}
        for path in sorted(wanted.keys() | found.keys()):
            have = tuple(found[path].shape) if path in found else None
            if have != wanted.get(path):
                raise CheckpointError(
                    f"{self.path}: parameter {path} has shape {have}, "
                    f"but {CONFIG} makes it {wanted.get(path)}"
                )
        return found, adapters

    def load_params(self, dtype: Any = None, shardings: Params | None = None) -> Params:
        """The weights.

        Args:
            dtype: a dtype, or a tree of dtypes like the parameters; without it, as stored.
            shardings: a tree of shardings like the parameters; without it the arrays stay on the
                host.

        Returns:
            Nested dict of numpy arrays, or with `shardings` of jax arrays; adapters are merged.

        Raises:
            CheckpointError: the weights are damaged or are not this architecture's.
        """
        if self.kind == "hf":
            return load_hf(self.path, self.config, dtype, shardings)
        from livecc_jax.checkpoints.adapters import adapter_paths, merge_stack, scale_of
        from livecc_jax.checkpoints.run import RunDirectory

        stored, adapters = self.stored_apart()
        dtypes = flat_dtypes(dtype, list(stored))
        places: dict[str, Any] = dict.fromkeys(stored)
        if shardings is not None:
            places = traverse_util.flatten_dict(shardings, sep="/")
        adapted = {path: adapter_paths(path) for path in stored if adapter_paths(path)[0] in adapters}

        def wanted(path: str, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            dtype = x.dtype if path in adapted else dtypes[path] or x.dtype  # those are rounded once
            return jax.ShapeDtypeStruct(x.shape, dtype, sharding=places[path])

        abstract = {path: wanted(path, x) for path, x in stored.items()} | adapters
        nested = traverse_util.unflatten_dict(abstract, sep="/")
        loaded = RunDirectory(self.root).restore_params(self.step, nested)
        if not adapters:
            return loaded
        flat, scale = traverse_util.flatten_dict(loaded, sep="/"), scale_of(self.root)
        for path, (a, b) in adapted.items():
            dtype = dtypes[path] or stored[path].dtype
            flat[path] = merge_stack(flat[path], flat[a], flat[b], scale, dtype, places[path])
        return traverse_util.unflatten_dict({path: flat[path] for path in stored}, sep="/")


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a model.

    Args:
        path: a HuggingFace directory, an Orbax run (its newest complete step is meant), or one step
            folder of a run.

    Raises:
        CheckpointError: it is none of these, or its config.json cannot be used. The weights are
            checked when they are loaded.
    """
    path = Path(path).absolute()
    if not path.is_dir():
        raise CheckpointError(f"{path}: there is no such checkpoint directory")
    if not (path / CONFIG).is_file():
        if path.name.isdecimal() and (path.parent / CONFIG).is_file():
            return _open_step(path)
        raise CheckpointError(f"{path}: has no {CONFIG}, so it is not a checkpoint")
    if any(path.glob("*.safetensors*")) or any(path.glob("*.bin")):
        config, livecc = read_config(path)
        return Checkpoint(path, path, "hf", config, livecc)
    from livecc_jax.checkpoints.run import steps_of

    steps = steps_of(path)
    if not steps:
        raise CheckpointError(f"{path}: holds neither safetensors nor a complete step")
    return _open_step(path / str(steps[-1]))


def _open_step(path: Path) -> Checkpoint:
    from livecc_jax.checkpoints.run import is_complete

    if not is_complete(path):
        raise CheckpointError(f"{path}: is not a complete step")
    config, livecc = read_config(path.parent)
    return Checkpoint(path, path.parent, "orbax", config, livecc, int(path.name))
