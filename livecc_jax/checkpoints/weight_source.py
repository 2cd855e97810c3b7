"""Weight sources: weights by HuggingFace's names, one tensor at a time, from memory or a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from flax import traverse_util

from livecc_jax.checkpoints.adapters import adapter_paths, adapter_scale
from livecc_jax.checkpoints.finite import cast
from livecc_jax.checkpoints.hf_tensors import find_tensors
from livecc_jax.checkpoints.open import Checkpoint
from livecc_jax.checkpoints.weight_names import HEAD, WeightEntry, embed_name, weight_name_table
from livecc_jax.errors import CheckpointError
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.lora import merge_adapter
from livecc_jax.model.qwen2_vl import Params


class WeightSource(Protocol):
    """Weights by HuggingFace's 2024 names.

    Attributes:
        shapes: Shape of every tensor by name, in the order in which the network uses them.
    """

    shapes: dict[str, tuple[int, ...]]

    def read(self, name: str) -> np.ndarray:
        """Returns a tensor; the head of a tied model is the embedding."""
        ...


def _locations(config: ModelConfig) -> dict[str, tuple[WeightEntry, int]]:
    """Returns the parameter and the layer that hold each tensor, by the tensor's name."""
    return {
        name: (entry, layer)
        for entry in weight_name_table(config)
        for layer, name in enumerate(entry.names)
    }


class MemoryWeights:
    """The weights of parameters in memory.

    Args:
        config: The architecture.
        params: Nested dict of numpy or jax arrays, sharded or not.
        dtype: Dtype to cast to; None keeps each parameter's dtype.

    Raises:
        CheckpointError: `params` does not have this architecture.
    """

    def __init__(self, config: ModelConfig, params: Params, dtype: Any = None) -> None:
        self._flat = traverse_util.flatten_dict(params, sep="/")
        expected = {e.path: e.full_shape for e in weight_name_table(config)}
        for path in (*expected, *(self._flat.keys() - expected.keys())):
            shape = tuple(self._flat[path].shape) if path in self._flat else None
            if shape != expected.get(path):
                raise CheckpointError(f"parameter {path} has shape {shape}, not {expected.get(path)}")
        self._locations = _locations(config)
        self.shapes = {name: entry.hf_shape for name, (entry, _) in self._locations.items()}
        self.dtypes = {
            name: np.dtype(self._flat[entry.path].dtype if dtype is None else dtype)
            for name, (entry, _) in self._locations.items()
        }

    def read(self, name: str) -> np.ndarray:
        """Returns a tensor. Of a stack on devices, only the one layer comes to the host.

        Raises CheckpointError when it holds NaN or infinity, or numbers that the dtype does not hold.
        """
        entry, layer = self._locations[name]
        leaf = self._flat[entry.path]
        if entry.stacked and isinstance(leaf, jax.Array):
            # A dynamic index, so that all layers share one program.
            leaf = jax.lax.dynamic_index_in_dim(leaf, layer, keepdims=False)
        elif entry.stacked:
            leaf = leaf[layer]
        return cast(entry.to_hf(np.asarray(leaf)), self.dtypes[name], name, "the weights in memory")


class CheckpointWeights:
    """The weights of a checkpoint on disk, in either layout.

    An Orbax step stores all layers of a parameter as one array; one such array is in memory at a time,
    and adapters are merge_adapter one layer at a time.

    Args:
        checkpoint: The checkpoint.
        dtype: Dtype to cast each tensor to; None keeps the stored dtype.

    Raises:
        CheckpointError: The weights do not fit the configuration, or cannot be read.
    """

    def __init__(self, checkpoint: Checkpoint, dtype: Any = None) -> None:
        self._checkpoint = checkpoint
        self._locations = _locations(checkpoint.config)
        self.shapes = {name: entry.hf_shape for name, (entry, _) in self._locations.items()}
        # The last parameter read from an Orbax step: its path and arrays (kernel, adapter A and B).
        self._parameter: tuple[str, list[np.ndarray]] | None = None
        if checkpoint.kind == "hf":
            self._tensors = find_tensors(checkpoint.path, checkpoint.config)
            stored = {name: self._tensors[name].dtype for name in self._locations}
        else:
            checkpoint.check_files("params")
            params, self._adapters = checkpoint.abstract_params_and_adapters()
            self._scale = adapter_scale(checkpoint.root) if self._adapters else 0.0
            stored = {name: params[entry.path].dtype for name, (entry, _) in self._locations.items()}
        self.dtypes = {n: np.dtype(d if dtype is None else dtype) for n, d in stored.items()}

    def read(self, name: str) -> np.ndarray:
        """Returns a tensor, read from the disk now.

        Raises CheckpointError when it cannot be read, or holds NaN, infinity, or numbers that the dtype
        does not hold.
        """
        if name == HEAD and name not in self.shapes:
            name = embed_name(self.shapes)
        return cast(self._read_as_stored(name), self.dtypes[name], name, self._checkpoint.path)

    def _read_as_stored(self, name: str) -> np.ndarray:
        if self._checkpoint.kind == "hf":
            tensor = self._tensors[name]
            return tensor.read_rows(0, tensor.shape[0])
        entry, layer = self._locations[name]
        if self._parameter is None or self._parameter[0] != entry.path:
            self._parameter = None  # frees the previous parameter before the next one is read
            adapters = [path for path in adapter_paths(entry.path) if path in self._adapters]
            paths = (entry.path, *adapters)
            arrays = [_read_orbax_array(self._checkpoint.path, path) for path in paths]
            self._parameter = entry.path, arrays
        _, arrays = self._parameter
        value, *adapter = (array[layer] if entry.stacked else array for array in arrays)
        return entry.to_hf(merge_adapter(value, *adapter, self._scale) if adapter else value)


def _read_orbax_array(step: Path, path: str) -> np.ndarray:
    """Read one array of an Orbax step, in its stored dtype. Raises CheckpointError if that fails."""
    import orbax.checkpoint as ocp

    # A restore target would cast to its own dtype, so none is given.
    target: Any = ocp.RestoreArgs(restore_type=np.ndarray)
    item: Any = 0
    for key in reversed(path.split("/")):
        target, item = {key: target}, {key: item}
    request = ocp.args.PyTreeRestore(item=item, restore_args=target, partial_restore=True)
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            value = reader.restore(step / "params", args=request)
    except Exception as e:  # of a damaged file without checksums, Orbax raises anything
        reason = str(e).strip().split("\n")[0][:200] or type(e).__name__
        raise CheckpointError(f"{step}: its {path} cannot be read ({reason})") from e
    for key in path.split("/"):
        value = value[key]
    return value
