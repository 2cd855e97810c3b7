"""Loads weights in HuggingFace layout, to host memory or (`hf_load_devices`) to the devices of a mesh.

The tensors are read one after the other, some ahead of time, and each fills its layer of its parameter:
host memory holds the result and the tensors in flight, nothing else.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from livecc_jax.checkpoints.finite import ValueCheck, quiet_cast
from livecc_jax.checkpoints.hf_load_devices import load_to_devices
from livecc_jax.checkpoints.hf_tensors import find_tensors
from livecc_jax.checkpoints.safetensors import TensorInfo
from livecc_jax.checkpoints.weight_names import WeightEntry, weight_name_table
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.qwen2_vl import Params

BLOCK_BYTES = 1 << 23  # read at a time when a tensor goes to host memory
TRANSPOSED_ROWS = 16  # copied at a time: more rows fall out of the cache between two columns
ALIGNMENT = 64  # bytes; what XLA aligns arrays to on a CPU


def flat_dtypes(dtype: Any, paths: list[str]) -> dict[str, np.dtype | None]:
    """Returns a dtype for every parameter path.

    Args:
        dtype: None, one dtype for all parameters, or a tree of dtypes shaped like the parameters.
        paths: Paths of the parameters.
    """
    if isinstance(dtype, Mapping):
        flat = traverse_util.flatten_dict(dtype, sep="/")
        return {path: np.dtype(flat[path]) for path in paths}
    return dict.fromkeys(paths, None if dtype is None else np.dtype(dtype))


def abstract_hf(directory: str | Path, config: ModelConfig) -> Params:
    """Returns shapes and stored dtypes as `jax.ShapeDtypeStruct`s; only headers are read."""
    tensors = find_tensors(directory, config)
    leaves = {
        e.path: jax.ShapeDtypeStruct(e.full_shape, tensors[e.names[0]].dtype)
        for e in weight_name_table(config)
    }
    return traverse_util.unflatten_dict(leaves, sep="/")


def load_hf(
    directory: str | Path, config: ModelConfig, dtype: Any = None, shardings: Params | None = None
) -> Params:
    """Load the weights of a HuggingFace directory.

    Args:
        directory: Directory with `model.safetensors`, or with shards and their index.
        config: The architecture, as `read_config(directory)` returns it.
        dtype: A dtype, or a tree of dtypes shaped like the parameters; None keeps the stored dtypes.
        shardings: A tree of `jax.sharding.Sharding` shaped like the parameters, each a `NamedSharding`
            or one device; the weights then go from the files to the devices.

    Returns:
        Nested dict of numpy arrays, or of jax arrays when `shardings` is given.

    Raises:
        CheckpointError: See `find_tensors`; or weights hold NaN, infinity, or numbers that `dtype` does
            not hold.
    """
    tensors = find_tensors(directory, config)
    entries = weight_name_table(config)
    check = ValueCheck(Path(directory))
    requested = flat_dtypes(dtype, [e.path for e in entries])
    dtypes = {e.path: requested[e.path] or tensors[e.names[0]].dtype for e in entries}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1), "weights") as pool:
        if shardings is None:
            params = _load_to_host(entries, tensors, dtypes, pool, check)
        else:
            flat = traverse_util.flatten_dict(shardings, sep="/")
            params = load_to_devices(entries, tensors, dtypes, flat, pool, check)
    check.raise_problems()
    return traverse_util.unflatten_dict(params, sep="/")


def _load_to_host(
    entries: Iterable[WeightEntry],
    tensors: Mapping[str, TensorInfo],
    dtypes: Mapping[str, np.dtype],
    pool: ThreadPoolExecutor,
    check: ValueCheck,
) -> dict[str, np.ndarray]:
    """Returns every parameter as a numpy array; its layers are filled in parallel."""
    params, jobs = {}, []
    for entry in entries:
        params[entry.path] = array = _aligned_empty(entry.full_shape, dtypes[entry.path])
        for i, name in enumerate(entry.names):
            layer = array[i] if entry.stacked else array
            jobs.append(pool.submit(_fill_layer, entry, name, tensors[name], layer, check))
    try:
        for job in jobs:
            job.result()
    finally:
        for job in jobs:
            job.cancel()
    return params


def _aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Returns an uninitialised array that jax can use on a CPU without a copy."""
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def _fill_layer(
    entry: WeightEntry, name: str, tensor: TensorInfo, layer: np.ndarray, check: ValueCheck
) -> None:
    """Copy a tensor into a layer of its parameter, block by block."""
    count = tensor.shape[0]
    step = max(TRANSPOSED_ROWS, BLOCK_BYTES * count // max(1, tensor.stop - tensor.start))
    out = layer.reshape(entry.inputs, -1) if entry.inputs else layer.reshape(count, -1)
    for first in range(0, count, step):
        stop = min(first + step, count)
        stored = tensor.read_rows(first, stop).reshape(stop - first, -1)
        check.see(name, stored, layer.dtype)
        rows = quiet_cast(stored, layer.dtype)
        if not entry.inputs:
            out[first:stop] = rows
            continue
        # As integers: numpy copies them as fast for bfloat16 as for float32.
        raw, target = (x.view(f"uint{8 * x.itemsize}") for x in (rows, out))
        for i in range(0, stop - first, TRANSPOSED_ROWS):
            block = raw[i : i + TRANSPOSED_ROWS]
            target[:, first + i : first + i + len(block)] = block.T
