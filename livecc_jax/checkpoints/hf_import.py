"""Weights in HuggingFace layout, streamed in.

Nothing is loaded before everything has been checked against the table of names, and all that is wrong
comes in one message. Then the tensors are read one after the other, some ahead of their turn, and each
fills its layer of its parameter: host memory holds what is in flight and nothing else.

Over a mesh, every tensor is read in rows, the way it lies in its file: each device gets a share of
consecutive bytes, so that each byte is read once in the whole slice however the parameter is to be
split, and the devices turn rows into the parameter's own sharding between themselves.
"""

from __future__ import annotations

import collections
import functools
import itertools
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from livecc_jax.checkpoints.hf_config import CONFIG
from livecc_jax.checkpoints.names import EMBED, HEAD, Entry, canonical, is_derived, table
from livecc_jax.checkpoints.safetensors import Tensor, read_directory
from livecc_jax.errors import CheckpointError
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.qwen2_vl import Params

FLOATS = tuple(np.dtype(d) for d in ("float16", jnp.bfloat16, "float32", "float64"))
IN_FLIGHT = 1 << 29  # bytes read ahead of their turn
BLOCK = 1 << 23  # bytes read at a time when they go to host memory
TRANSPOSED_ROWS = 16  # copied at a time: more of them fall out of the cache between two columns

ALIGNMENT = 64  # bytes, XLA's on a CPU

T = TypeVar("T")


def _problems(entry: Entry, found: Mapping[str, list[Tensor]]) -> list[str]:
    """What is wrong with the tensors of one parameter."""
    problems, dtypes = [], set()
    for name in entry.names:
        tensors = found.get(name, [])
        if not tensors:
            problems.append(f"missing {name}")
            continue
        if len(tensors) > 1:
            files = " and ".join(sorted({t.file.name for t in tensors}))
            problems.append(f"duplicated {name} (in {files})")
        tensor = tensors[0]
        dtypes.add(tensor.dtype)
        if tensor.shape != entry.hf_shape:
            problems.append(f"{name} has shape {tensor.shape}, not {entry.hf_shape}")
        elif tensor.dtype not in FLOATS:
            problems.append(f"{name} has dtype {tensor.dtype}, not a floating-point one")
    if len(dtypes) > 1:
        kinds = ", ".join(sorted(map(str, dtypes)))
        problems.append(f"{entry.names[0]} and its other layers have different dtypes ({kinds})")
    return problems


def _by_layers(problems: Iterable[str]) -> list[str]:
    """Sentences alike but for the number of a layer as one: `missing model.layers.{0-3,7}.mlp...`."""
    layers: dict[tuple[str, str], list[int]] = {}
    for problem in problems:
        before, number, after = re.fullmatch(r"(.*?(?:layers|blocks)\.|.*)(\d*)(.*)", problem).groups()
        layers.setdefault((before, after), []).extend([int(number)] if number else [])
    return [
        f"{before}{_spans(numbers) if numbers else ''}{after}"
        for (before, after), numbers in layers.items()
    ]


def _spans(numbers: list[int]) -> str:
    """`3`, or `{0-3,7}`."""
    spans: list[list[int]] = []
    for n in sorted(numbers):
        if spans and spans[-1][1] == n - 1:
            spans[-1][1] = n
        else:
            spans.append([n, n])
    told = ",".join(f"{a}-{b}" if b > a else str(a) for a, b in spans)
    return told if len(numbers) == 1 else f"{{{told}}}"


def _same(a: Tensor, b: Tensor, rows: int = 4096) -> bool:
    """Whether two tensors are equal bit for bit."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    parts = ((i, min(i + rows, a.shape[0])) for i in range(0, a.shape[0], rows))
    return all(a.read_rows(*part).tobytes() == b.read_rows(*part).tobytes() for part in parts)


def find_tensors(directory: str | Path, config: ModelConfig) -> dict[str, Tensor]:
    """The tensors of a checkpoint by canonical name, all present and of the right shape.

    A tied model may store its head as well, provided that it equals the embedding.

    Raises:
        CheckpointError: naming all that is missing, extra, duplicated or mis-shaped.
    """
    found: dict[str, list[Tensor]] = {}
    for name, tensor in read_directory(directory):
        if not is_derived(name):
            found.setdefault(canonical(name), []).append(tensor)
    problems = []
    head = found.pop(HEAD, []) if config.text.tied else []
    if head and EMBED in found and not all(_same(t, found[EMBED][0]) for t in head):
        problems.append(f"{HEAD} differs from {EMBED} though config.json ties them")
    entries = table(config)
    for entry in entries:
        problems += _problems(entry, found)
    known = {name for entry in entries for name in entry.names}
    problems += [f"extra {name}" for name in found if name not in known]
    if problems:
        raise CheckpointError(
            f"{directory}: the weights do not fit {CONFIG}: {'; '.join(_by_layers(problems))}"
        )
    return {name: tensors[0] for name, tensors in found.items()}


def flat_dtypes(dtype: Any, paths: list[str]) -> dict[str, np.dtype | None]:
    """`dtype` for every path: None, one for all, or a tree of them shaped like the parameters."""
    if isinstance(dtype, Mapping):
        given = traverse_util.flatten_dict(dtype, sep="/")
        return {path: np.dtype(given[path]) for path in paths}
    return dict.fromkeys(paths, None if dtype is None else np.dtype(dtype))


def abstract_hf(directory: str | Path, config: ModelConfig) -> Params:
    """Shapes and stored dtypes, as `jax.ShapeDtypeStruct`s; only headers are read."""
    found = find_tensors(directory, config)
    leaves = {
        e.path: jax.ShapeDtypeStruct(e.full_shape, found[e.names[0]].dtype) for e in table(config)
    }
    return traverse_util.unflatten_dict(leaves, sep="/")


def load_hf(
    directory: str | Path, config: ModelConfig, dtype: Any = None, shardings: Params | None = None
) -> Params:
    """Read the weights of a HuggingFace directory.

    Args:
        directory: holds `model.safetensors`, or shards and their index.
        config: the architecture, as `read_config(directory)` gives it.
        dtype: a dtype, or a tree of dtypes like the parameters; without it tensors keep theirs.
        shardings: a tree of `jax.sharding.Sharding` like the parameters, each a `NamedSharding` or
            one device; the weights then go from the files to the devices.

    Returns:
        Nested dict of numpy arrays, or with `shardings` of jax arrays.

    Raises:
        CheckpointError: see `find_tensors`.
    """
    found = find_tensors(directory, config)
    entries = table(config)
    dtypes = flat_dtypes(dtype, [e.path for e in entries])
    kinds = {e.path: dtypes[e.path] or found[e.names[0]].dtype for e in entries}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1), "weights") as pool:
        if shardings is None:
            params = _load_to_host(entries, found, kinds, pool)
        else:
            places = traverse_util.flatten_dict(shardings, sep="/")
            params = _load_to_devices(entries, found, kinds, places, pool)
    return traverse_util.unflatten_dict(params, sep="/")


def _load_to_host(
    entries: Iterable[Entry],
    found: Mapping[str, Tensor],
    kinds: Mapping[str, np.dtype],
    pool: ThreadPoolExecutor,
) -> dict[str, np.ndarray]:
    """Every parameter as a numpy array, its layers filled side by side."""
    params, jobs = {}, []
    for entry in entries:
        params[entry.path] = whole = _aligned(entry.full_shape, kinds[entry.path])
        for i, name in enumerate(entry.names):
            layer = whole[i] if entry.stacked else whole
            jobs.append(pool.submit(_fill, entry, found[name], layer))
    try:
        for job in jobs:
            job.result()
    finally:
        for job in jobs:
            job.cancel()
    return params


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialised array that jax can take over on a CPU without a copy."""
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def _fill(entry: Entry, tensor: Tensor, layer: np.ndarray) -> None:
    """Copy a tensor into a layer of its parameter, block by block."""
    count = tensor.shape[0]
    step = max(TRANSPOSED_ROWS, BLOCK * count // max(1, tensor.stop - tensor.start))
    out = layer.reshape(entry.inputs, -1) if entry.inputs else layer.reshape(count, -1)
    for first in range(0, count, step):
        stop = min(first + step, count)
        rows = tensor.read_rows(first, stop).reshape(stop - first, -1).astype(layer.dtype, copy=False)
        if not entry.inputs:
            out[first:stop] = rows
            continue
        # As integers: a copy of them is as plain for bfloat16 as for float32.
        raw, target = (x.view(f"uint{8 * x.itemsize}") for x in (rows, out))
        for i in range(0, stop - first, TRANSPOSED_ROWS):
            some = raw[i : i + TRANSPOSED_ROWS]
            target[:, first + i : first + i + len(some)] = some.T


def row_sharding(sharding: Sharding, shape: tuple[int, ...]) -> Sharding:
    """How a tensor is read for a parameter that is to be placed by `sharding`.

    Its rows are split over as many of the mesh's axes as divide them, and the axes left over read the
    same rows again.

    Args:
        sharding: of the parameter.
        shape: of the tensor as stored.
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


def _row_ranges(sharding: Sharding, shape: tuple[int, ...]) -> dict[jax.Device, tuple[int, int]]:
    """{device: (first, stop)} of the rows that each device reads."""
    indices = sharding.devices_indices_map(shape)
    return {device: index[0].indices(shape[0])[:2] for device, index in indices.items()}


def reading_plan(
    directory: str | Path, config: ModelConfig, shardings: Params
) -> dict[int, list[tuple[Path, int, int]]]:
    """What each process of a mesh reads of a checkpoint; only headers are looked at.

    Args:
        directory: in HuggingFace layout.
        config: its architecture.
        shardings: as in `load_hf`; the devices may be those of a topology that is not there.

    Returns:
        {process: [(file, first byte, byte after the last), ...]}, ranges that touch put together.

    Raises:
        CheckpointError: see `find_tensors`.
    """
    found = find_tensors(directory, config)
    places = traverse_util.flatten_dict(shardings, sep="/")
    wanted: dict[int, set[tuple[Path, int, int]]] = collections.defaultdict(set)
    for entry in table(config):
        split = row_sharding(places[entry.path], entry.hf_shape)
        ranges = {(d.process_index, r) for d, r in _row_ranges(split, entry.hf_shape).items()}
        for name, (process, rows) in itertools.product(entry.names, ranges):
            wanted[process].add((found[name].file, *found[name].rows(*rows)))
    return {process: _joined(ranges) for process, ranges in sorted(wanted.items())}


def _joined(ranges: Iterable[tuple[Path, int, int]]) -> list[tuple[Path, int, int]]:
    out: list[tuple[Path, int, int]] = []
    for file, first, stop in sorted(ranges):
        if out and out[-1][0] == file and out[-1][2] >= first:
            out[-1] = (file, out[-1][1], max(stop, out[-1][2]))
        else:
            out.append((file, first, stop))
    return out


def _ahead(
    jobs: Iterable[tuple[int, Callable[[], T]]], pool: ThreadPoolExecutor, budget: int
) -> Iterator[T]:
    """Results of (bytes, function) jobs in order, worked out ahead as far as the bytes allow."""
    waiting: collections.deque[tuple[int, Future[T]]] = collections.deque()
    held = 0
    try:
        for size, job in jobs:
            while waiting and held + size > budget:
                done, future = waiting.popleft()
                held -= done
                yield future.result()
            waiting.append((size, pool.submit(job)))
            held += size
        while waiting:
            yield waiting.popleft()[1].result()
    finally:
        for _, future in waiting:
            future.cancel()


def _load_to_devices(
    entries: Iterable[Entry],
    found: Mapping[str, Tensor],
    kinds: Mapping[str, np.dtype],
    places: Mapping[str, Sharding],
    pool: ThreadPoolExecutor,
) -> dict[str, jax.Array]:
    """Every parameter as a jax array placed by its sharding."""
    turns = [
        (entry, layer, row_sharding(places[entry.path], entry.hf_shape))
        for entry in entries
        for layer in range(len(entry.names))
    ]

    def job(entry: Entry, layer: int, split: Sharding) -> tuple[int, Callable]:
        tensor = found[entry.names[layer]]
        mine = {
            d: rows
            for d, rows in _row_ranges(split, tensor.shape).items()
            if d.process_index == jax.process_index()
        }

        def read() -> dict[jax.Device, np.ndarray]:
            # Devices that want the same rows share one copy of them.
            parts = {rows: _narrowed(tensor.read_rows(*rows)) for rows in set(mine.values())}
            return {d: parts[rows] for d, rows in mine.items()}

        size = sum(b - a for a, b in (tensor.rows(*rows) for rows in set(mine.values())))
        return size, read

    params: dict[str, jax.Array] = {}
    sent: collections.deque[tuple[int, jax.Array]] = collections.deque()
    jobs = itertools.starmap(job, turns)
    for (entry, layer, split), parts in zip(turns, _ahead(jobs, pool, IN_FLIGHT)):
        arrays = [jax.device_put(part, d) for d, part in parts.items()]
        rows = jax.make_array_from_single_device_arrays(entry.hf_shape, split, arrays)
        kind, place = kinds[entry.path], _spelt(places[entry.path])
        if not entry.stacked:
            params[entry.path] = _placer(entry.inputs, entry.shape, kind, place)(rows)
        else:
            if layer == 0:
                params[entry.path] = jnp.zeros(entry.full_shape, kind, device=place)
            put = _layer_placer(entry.inputs, entry.shape, kind, place)
            params[entry.path] = put(params[entry.path], rows, layer)
        # The host's copy lives until the devices have it: let only so many be on their way.
        sent.append((sum(part.nbytes for part in parts.values()), rows))
        while len(sent) > 1 and sum(n for n, _ in sent) > IN_FLIGHT:
            sent.popleft()[1].block_until_ready()
    return params


def _narrowed(values: np.ndarray) -> np.ndarray:
    """float64, which devices do not take, as float32."""
    return values.astype(np.float32) if values.dtype == np.float64 else values


def _spelt(sharding: Sharding) -> Sharding:
    """A sharding that compares equal to others of the same meaning, to share compiled programs."""
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, sharding.spec)
    (device,) = sharding.device_set
    return SingleDeviceSharding(device)


def _ours(rows: jax.Array, inputs: int, shape: tuple[int, ...], dtype: np.dtype) -> jax.Array:
    """`Entry.from_hf` on a device."""
    values = rows.reshape(-1, inputs).T if inputs else rows
    return values.reshape(shape).astype(dtype)


@functools.cache
def _placer(
    inputs: int, shape: tuple[int, ...], dtype: np.dtype, sharding: Sharding
) -> Callable[[jax.Array], jax.Array]:
    """Turns a tensor as stored into a parameter where it belongs."""
    return jax.jit(lambda rows: _ours(rows, inputs, shape, dtype), out_shardings=sharding)


@functools.cache
def _layer_placer(
    inputs: int, shape: tuple[int, ...], dtype: np.dtype, sharding: Sharding
) -> Callable[[jax.Array, jax.Array, int], jax.Array]:
    """Puts a tensor as stored into its layer of a parameter, which is donated."""

    def place(whole: jax.Array, rows: jax.Array, layer: jax.Array) -> jax.Array:
        values = _ours(rows, inputs, shape, dtype)
        return jax.lax.dynamic_update_index_in_dim(whole, values, layer, 0)

    return jax.jit(place, donate_argnums=0, out_shardings=sharding)
