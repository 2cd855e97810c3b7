"""Loads weights in HuggingFace layout to the devices of a mesh, each byte of a file read once.

Every tensor is read in rows, the way it lies in its file: each device gets a share of consecutive
bytes, so the whole slice reads each byte once however the parameter is sharded, and the devices turn
rows into the parameter's own sharding between themselves.
"""

from __future__ import annotations

import collections
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from livecc_jax.checkpoints.finite import ValueCheck, quiet_cast
from livecc_jax.checkpoints.hf_tensors import find_tensors
from livecc_jax.checkpoints.safetensors import TensorInfo
from livecc_jax.checkpoints.weight_names import WeightEntry, weight_name_table
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.qwen2_vl import Params

MAX_BYTES_IN_FLIGHT = 1 << 29  # read ahead, or on their way to the devices

T = TypeVar("T")


def load_to_devices(
    entries: Iterable[WeightEntry],
    tensors: Mapping[str, TensorInfo],
    dtypes: Mapping[str, np.dtype],
    shardings: Mapping[str, Sharding],
    pool: ThreadPoolExecutor,
    check: ValueCheck,
) -> dict[str, jax.Array]:
    """Load every parameter as a jax array.

    Args:
        entries: The parameters.
        tensors: Stored tensors by name.
        dtypes: Dtype of each parameter, by path.
        shardings: Sharding of each parameter, by path.
        pool: Threads that read the files.
        check: Sees the values of every tensor as they are read.

    Returns:
        The arrays by path.

    Raises:
        CheckpointError: A file cannot be read.
    """
    layers = [
        (entry, layer, row_sharding(shardings[entry.path], entry.hf_shape))
        for entry in entries
        for layer in range(len(entry.names))
    ]

    def read_job(entry: WeightEntry, layer: int, rows: Sharding) -> tuple[int, Callable]:
        tensor = tensors[entry.names[layer]]
        local = {
            device: span
            for device, span in _row_spans(rows, tensor.shape).items()
            if device.process_index == jax.process_index()
        }

        def read() -> dict[jax.Device, np.ndarray]:
            # Devices that need the same rows share one copy of them.
            spans = {}
            for span in set(local.values()):
                stored = tensor.read_rows(*span)
                check.see(entry.names[layer], stored, dtypes[entry.path])
                spans[span] = _without_float64(stored)
            return {device: spans[span] for device, span in local.items()}

        size = sum(b - a for a, b in (tensor.row_bytes(*span) for span in set(local.values())))
        return size, read

    params: dict[str, jax.Array] = {}
    in_flight: collections.deque[tuple[int, jax.Array]] = collections.deque()
    jobs = itertools.starmap(read_job, layers)
    shards = _run_ahead(jobs, pool, MAX_BYTES_IN_FLIGHT)
    for (entry, layer, rows_sharding), by_device in zip(layers, shards):
        arrays = [jax.device_put(shard, device) for device, shard in by_device.items()]
        rows = jax.make_array_from_single_device_arrays(entry.hf_shape, rows_sharding, arrays)
        dtype, sharding = dtypes[entry.path], _canonical_sharding(shardings[entry.path])
        if not entry.stacked:
            params[entry.path] = _place(entry.inputs, entry.shape, dtype, sharding)(rows)
        else:
            if layer == 0:
                params[entry.path] = jnp.zeros(entry.full_shape, dtype, device=sharding)
            place_layer = _place_layer(entry.inputs, entry.shape, dtype, sharding)
            params[entry.path] = place_layer(params[entry.path], rows, layer)
        # The host's copy lives until the devices have received it, so the bytes on the way are bounded.
        in_flight.append((sum(shard.nbytes for shard in by_device.values()), rows))
        while len(in_flight) > 1 and sum(n for n, _ in in_flight) > MAX_BYTES_IN_FLIGHT:
            in_flight.popleft()[1].block_until_ready()
    return params


def row_sharding(sharding: Sharding, shape: tuple[int, ...]) -> Sharding:
    """Returns the sharding in which a stored tensor is read.

    Its rows are split over as many of the mesh's axes as divide them; devices along the other axes
    read the same rows.

    Args:
        sharding: Sharding of the parameter.
        shape: Shape of the tensor as stored.
    """
    if not isinstance(sharding, NamedSharding):
        return sharding
    mesh: Mesh = sharding.mesh
    axes: list[str] = []
    for name, size in sorted(mesh.shape.items(), key=lambda item: -item[1]):
        if size > 1 and shape[0] % (size * math.prod(mesh.shape[a] for a in axes)) == 0:
            axes.append(name)
    # In the mesh's own order, neighbours in the file are neighbours in the mesh.
    split = tuple(name for name in mesh.axis_names if name in axes)
    return NamedSharding(mesh, PartitionSpec(split or None))


def _row_spans(sharding: Sharding, shape: tuple[int, ...]) -> dict[jax.Device, tuple[int, int]]:
    """Returns the rows that each device reads, as (first, stop)."""
    indices = sharding.devices_indices_map(shape)
    return {device: index[0].indices(shape[0])[:2] for device, index in indices.items()}


def bytes_read_per_process(
    directory: str | Path, config: ModelConfig, shardings: Params
) -> dict[int, list[tuple[Path, int, int]]]:
    """Returns the bytes of a checkpoint that each process of a mesh reads; only headers are read.

    Args:
        directory: Directory in HuggingFace layout.
        config: Its architecture.
        shardings: Shardings as in `load_hf`; the devices may be those of a topology description.

    Returns:
        {process: [(file, first byte, byte after the last), ...]}; adjacent ranges are joined.

    Raises:
        CheckpointError: See `find_tensors`.
    """
    tensors = find_tensors(directory, config)
    flat = traverse_util.flatten_dict(shardings, sep="/")
    ranges: dict[int, set[tuple[Path, int, int]]] = collections.defaultdict(set)
    for entry in weight_name_table(config):
        rows = row_sharding(flat[entry.path], entry.hf_shape)
        spans = {(d.process_index, span) for d, span in _row_spans(rows, entry.hf_shape).items()}
        for name, (process, span) in itertools.product(entry.names, spans):
            ranges[process].add((tensors[name].file, *tensors[name].row_bytes(*span)))
    return {process: _joined(process_ranges) for process, process_ranges in sorted(ranges.items())}


def _joined(ranges: Iterable[tuple[Path, int, int]]) -> list[tuple[Path, int, int]]:
    out: list[tuple[Path, int, int]] = []
    for file, first, stop in sorted(ranges):
        if out and out[-1][0] == file and out[-1][2] >= first:
            out[-1] = (file, out[-1][1], max(stop, out[-1][2]))
        else:
            out.append((file, first, stop))
    return out


def _run_ahead(
    jobs: Iterable[tuple[int, Callable[[], T]]], pool: ThreadPoolExecutor, max_bytes: int
) -> Iterator[T]:
    """Yields the results of (bytes, function) jobs in order; jobs of up to `max_bytes` run ahead."""
    pending: collections.deque[tuple[int, Future[T]]] = collections.deque()
    pending_bytes = 0
    try:
        for size, job in jobs:
            while pending and pending_bytes + size > max_bytes:
                first_size, future = pending.popleft()
                pending_bytes -= first_size
                yield future.result()
            pending.append((size, pool.submit(job)))
            pending_bytes += size
        while pending:
            yield pending.popleft()[1].result()
    finally:
        for _, future in pending:
            future.cancel()


def _without_float64(values: np.ndarray) -> np.ndarray:
    """Returns float64 values as float32, because devices do not take float64."""
    return quiet_cast(values, np.dtype(np.float32)) if values.dtype == np.float64 else values


def _canonical_sharding(sharding: Sharding) -> Sharding:
    """Returns an equivalent sharding that equals others of the same meaning, to share programs."""
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, sharding.spec)
    (device,) = sharding.device_set
    return SingleDeviceSharding(device)


def _from_hf(rows: jax.Array, inputs: int, shape: tuple[int, ...], dtype: np.dtype) -> jax.Array:
    """`WeightEntry.from_hf` on a device."""
    values = rows.reshape(-1, inputs).T if inputs else rows
    return values.reshape(shape).astype(dtype)


@functools.cache
def _place(
    inputs: int, shape: tuple[int, ...], dtype: np.dtype, sharding: Sharding
) -> Callable[[jax.Array], jax.Array]:
    """Returns a program that turns a stored tensor into a parameter in its own sharding."""
    return jax.jit(lambda rows: _from_hf(rows, inputs, shape, dtype), out_shardings=sharding)


@functools.cache
def _place_layer(
    inputs: int, shape: tuple[int, ...], dtype: np.dtype, sharding: Sharding
) -> Callable[[jax.Array, jax.Array, int], jax.Array]:
    """Returns a program that puts a stored tensor into its layer of a parameter, which is donated."""

    def place(stack: jax.Array, rows: jax.Array, layer: jax.Array) -> jax.Array:
        values = _from_hf(rows, inputs, shape, dtype)
        return jax.lax.dynamic_update_index_in_dim(stack, values, layer, 0)

    return jax.jit(place, donate_argnums=0, out_shardings=sharding)
