"""Weights by HuggingFace's names, one tensor at a time, wherever they are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from flax import traverse_util

from livecc_jax.checkpoints.adapters import adapter_paths, scale_of
from livecc_jax.checkpoints.hf_import import find_tensors
from livecc_jax.checkpoints.names import EMBED, HEAD, Entry, table
from livecc_jax.checkpoints.open import Checkpoint
from livecc_jax.errors import CheckpointError
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.lora import merged
from livecc_jax.model.qwen2_vl import Params


class Weights(Protocol):
    """Weights by HuggingFace's names of 2024."""

    shapes: dict[str, tuple[int, ...]]  # in the order the network uses them

    def read(self, name: str) -> np.ndarray:
        """The tensor; of a tied model the head is the embedding."""
        ...


def _places(config: ModelConfig) -> dict[str, tuple[Entry, int]]:
    """{name: (its parameter, its layer)}."""
    return {name: (e, layer) for e in table(config) for layer, name in enumerate(e.names)}


class HeldWeights:
    """Those of parameters in memory.

    Args:
        config: the architecture.
        params: nested dict of numpy or jax arrays, sharded or not.
        dtype: cast to this; without it every parameter keeps its own.

    Raises:
        CheckpointError: `params` is not this architecture's.
    """

    def __init__(self, config: ModelConfig, params: Params, dtype: Any = None) -> None:
        self._flat = traverse_util.flatten_dict(params, sep="/")
        wanted = {e.path: e.full_shape for e in table(config)}
        for path in (*wanted, *(self._flat.keys() - wanted.keys())):
            have = tuple(self._flat[path].shape) if path in self._flat else None
            if have != wanted.get(path):
                raise CheckpointError(f"parameter {path} has shape {have}, not {wanted.get(path)}")
        self._places = _places(config)
        self.shapes = {name: entry.hf_shape for name, (entry, _) in self._places.items()}
        self.dtypes = {
            name: np.dtype(self._flat[entry.path].dtype if dtype is None else dtype)
            for name, (entry, _) in self._places.items()
        }

    def read(self, name: str) -> np.ndarray:
        """The tensor. Of a stack on devices only the one layer comes to the host."""
        entry, layer = self._places[name]
        leaf = self._flat[entry.path]
        if entry.stacked and isinstance(leaf, jax.Array):
            # One program for all layers.
            leaf = jax.lax.dynamic_index_in_dim(leaf, layer, keepdims=False)
        elif entry.stacked:
            leaf = leaf[layer]
        return entry.to_hf(np.asarray(leaf)).astype(self.dtypes[name], copy=False)


class StoredWeights:
    """Those of a checkpoint on disk, whatever its layout.

    Of an Orbax step, which stores a parameter's layers as one array, one such array is held at a time;
    adapters are merged a layer at a time.

    Args:
        checkpoint: opened.
        dtype: cast each tensor to this; without it they are as stored.

    Raises:
        CheckpointError: the weights do not fit the configuration, or cannot be read.
    """

    def __init__(self, checkpoint: Checkpoint, dtype: Any = None) -> None:
        self._checkpoint = checkpoint
        self._places = _places(checkpoint.config)
        self.shapes = {name: entry.hf_shape for name, (entry, _) in self._places.items()}
        self._held: tuple[str, list[np.ndarray]] | None = None  # a parameter, and its adapter's A and B
        if checkpoint.kind == "hf":
            self._tensors = find_tensors(checkpoint.path, checkpoint.config)
            stored = {name: self._tensors[name].dtype for name in self._places}
        else:
            flat, self._adapters = checkpoint.stored_apart()
            self._scale = scale_of(checkpoint.root) if self._adapters else 0.0
            stored = {name: flat[entry.path].dtype for name, (entry, _) in self._places.items()}
        self.dtypes = {n: np.dtype(d if dtype is None else dtype) for n, d in stored.items()}

    def read(self, name: str) -> np.ndarray:
        """The tensor, read now."""
        if name == HEAD and name not in self.shapes:
            name = EMBED
        return self._stored(name).astype(self.dtypes[name], copy=False)

    def _stored(self, name: str) -> np.ndarray:
        if self._checkpoint.kind == "hf":
            tensor = self._tensors[name]
            return tensor.read_rows(0, tensor.shape[0])
        entry, layer = self._places[name]
        if self._held is None or self._held[0] != entry.path:
            self._held = None  # frees the last before the next is read
            ab = [path for path in adapter_paths(entry.path) if path in self._adapters]
            parts = [_read_parameter(self._checkpoint.path, path) for path in (entry.path, *ab)]
            self._held = entry.path, parts
        value, *adapter = (part[layer] if entry.stacked else part for part in self._held[1])
        return entry.to_hf(merged(value, *adapter, self._scale) if adapter else value)


def _read_parameter(step: Path, path: str) -> np.ndarray:
    """One array of an Orbax step, as stored."""
    import orbax.checkpoint as ocp

    # No dtype is asked for: a target's would cast.
    target: Any = ocp.RestoreArgs(restore_type=np.ndarray)
    item: Any = 0
    for key in reversed(path.split("/")):
        target, item = {key: target}, {key: item}
    request = ocp.args.PyTreeRestore(item=item, restore_args=target, partial_restore=True)
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            value = reader.restore(step / "params", args=request)
    except (OSError, ValueError, KeyError, RuntimeError) as e:
        reason = str(e).strip().split("\n")[0][:200] or type(e).__name__
        raise CheckpointError(f"{step}: its {path} cannot be read ({reason})") from e
    for key in path.split("/"):
        value = value[key]
    return value
