"""Opens the MODEL of a command, in either layout: a HuggingFace directory, an Orbax run or one step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import jax
import numpy as np
from flax import traverse_util

from livecc_jax.checkpoints.finite import ValueCheck, not_finite
from livecc_jax.checkpoints.hf_config import CONFIG, LiveCCBlock, read_config
from livecc_jax.checkpoints.hf_load import abstract_hf, flat_dtypes, load_hf
from livecc_jax.checkpoints.tied_head import resolve_tied_head
from livecc_jax.checkpoints.weight_names import weight_name_table
from livecc_jax.errors import CheckpointError
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.qwen2_vl import Params

if TYPE_CHECKING:
    from livecc_jax.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk.

    Attributes:
        path: The HuggingFace directory, or the step folder.
        root: The directory with config.json and the tokenizer: the HuggingFace directory or the run.
        kind: Layout, "hf" or "orbax".
        config: The architecture.
        livecc: How the model was trained.
        step: Number of the step of an Orbax run; None for a HuggingFace directory.
    """

    path: Path
    root: Path
    kind: str
    config: ModelConfig
    livecc: LiveCCBlock
    step: int | None = None

    def open_tokenizer(self) -> Tokenizer:
        """Open its tokenizer. Raises TokenizerError when it has none."""
        from livecc_jax.text.open import open_tokenizer

        return open_tokenizer(self.root)

    def abstract_params(self) -> Params:
        """Returns shapes and stored dtypes as `jax.ShapeDtypeStruct`s; only headers are read.

        Adapters of a run are not included, because loading merges them into the model.
        """
        if self.kind == "hf":
            return abstract_hf(self.path, self.config)
        return traverse_util.unflatten_dict(self.abstract_params_and_adapters()[0], sep="/")

    def abstract_params_and_adapters(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns (parameters, adapters) of a step of a run, as `jax.ShapeDtypeStruct`s by path.

        Raises:
            CheckpointError: The step does not have this architecture.
        """
        from livecc_jax.checkpoints.adapters import split_adapters
        from livecc_jax.checkpoints.run import RunDirectory

        stored = traverse_util.flatten_dict(RunDirectory(self.root).abstract_params(self.step), sep="/")
        params, adapters = split_adapters(stored, self.path)
        expected = {e.path: e.full_shape for e in weight_name_table(self.config)}
        for path in sorted(expected.keys() | params.keys()):
            shape = tuple(params[path].shape) if path in params else None
            if shape != expected.get(path):
                raise CheckpointError(
                    f"{self.path}: parameter {path} has shape {shape}, "
                    f"but {CONFIG} makes it {expected.get(path)}"
                )
        return params, adapters

    def check_files(self, item: str | None = None) -> int | None:
        """Compare the files of a step of a run with its checksums.

        Args:
            item: "params", to check only the weights; None checks all items.

        Returns:
            Number of files; None when there are no checksums: in steps that earlier versions have
            written, and in HuggingFace layout.

        Raises:
            CheckpointError: A file is missing or damaged.
        """
        if self.kind == "hf":
            return None
        from livecc_jax.checkpoints.run import RunDirectory

        return RunDirectory(self.root).check_files(self.step, item)

    def load_params(self, dtype: Any = None, shardings: Params | None = None) -> Params:
        """Load the weights, with adapters merged.

        Args:
            dtype: A dtype, or a tree of dtypes shaped like the parameters; None keeps stored dtypes.
            shardings: A tree of shardings shaped like the parameters; None keeps the arrays on the
                host.

        Returns:
            Nested dict of numpy arrays, or of jax arrays when `shardings` is given.

        Raises:
            CheckpointError: The weights are damaged, do not have this architecture, or hold NaN,
                infinity, or numbers that `dtype` does not hold; the message names the tensors.
        """
        if self.kind == "hf":
            return load_hf(self.path, self.config, dtype, shardings)
        params = self._load_step(dtype, shardings)
        flat = traverse_util.flatten_dict(params, sep="/")
        if unusable := not_finite(flat):
            self._explain(unusable, {path: np.dtype(flat[path].dtype) for path in unusable})
        return params

    def _explain(self, paths: list[str], dtypes: dict[str, np.dtype]) -> NoReturn:
        """Raises CheckpointError that names the tensors because of which parameters cannot be used."""
        check = ValueCheck(self.path)
        # As stored, on the host: what another dtype cannot hold is infinite in it.
        stored = traverse_util.flatten_dict(self._load_step(None, None), sep="/")
        for entry in weight_name_table(self.config):
            if entry.path in paths:
                layers = stored[entry.path] if entry.stacked else [stored[entry.path]]
                for name, values in zip(entry.names, layers):
                    check.see(name, values, dtypes[entry.path])
        check.raise_problems()
        raise CheckpointError(f"{self.path}: {', '.join(paths)} cannot be loaded as finite numbers")

    def _load_step(self, dtype: Any, shardings: Params | None) -> Params:
        """`load_params` of a step of a run, without a look at the values."""
        from livecc_jax.checkpoints.adapters import adapter_paths, adapter_scale, merge_adapters
        from livecc_jax.checkpoints.run import RunDirectory

        stored, adapters = self.abstract_params_and_adapters()
        dtypes = flat_dtypes(dtype, list(stored))
        flat_shardings: dict[str, Any] = dict.fromkeys(stored)
        if shardings is not None:
            flat_shardings = traverse_util.flatten_dict(shardings, sep="/")
        adapted = {path: adapter_paths(path) for path in stored if adapter_paths(path)[0] in adapters}

        def target(path: str, x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            # An adapted kernel is rounded once, after its adapters have been added.
            dtype = x.dtype if path in adapted else dtypes[path] or x.dtype
            return jax.ShapeDtypeStruct(x.shape, dtype, sharding=flat_shardings[path])

        abstract = {path: target(path, x) for path, x in stored.items()} | adapters
        nested = traverse_util.unflatten_dict(abstract, sep="/")
        loaded = RunDirectory(self.root).restore_params(self.step, nested)
        if not adapters:
            return loaded
        flat, scale = traverse_util.flatten_dict(loaded, sep="/"), adapter_scale(self.root)
        for path, (a, b) in adapted.items():
            dtype = dtypes[path] or stored[path].dtype
            flat[path] = merge_adapters(
                flat[path], flat[a], flat[b], scale, dtype, flat_shardings[path]
            )
        return traverse_util.unflatten_dict({path: flat[path] for path in stored}, sep="/")


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a model.

    Args:
        path: A HuggingFace directory, an Orbax run (its newest complete step is opened), or one
            step folder of a run.

    Raises:
        CheckpointError: The path is none of these, or its config.json cannot be used. The weights
            are checked when they are loaded.
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
        config = resolve_tied_head(path, config)
        return Checkpoint(path, path, "hf", config, livecc)
    from livecc_jax.checkpoints.run import list_steps

    steps = list_steps(path)
    if not steps:
        raise CheckpointError(f"{path}: holds neither safetensors nor a complete step")
    return _open_step(path / str(steps[-1]))


def _open_step(path: Path) -> Checkpoint:
    from livecc_jax.checkpoints.run import is_complete_step

    if not is_complete_step(path):
        raise CheckpointError(f"{path}: is not a complete step")
    config, livecc = read_config(path.parent)
    return Checkpoint(path, path.parent, "orbax", config, livecc, int(path.name))
