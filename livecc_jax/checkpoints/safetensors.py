"""Reads and writes safetensors files without torch.

A file is 8 bytes of header length (little-endian), a JSON header (name -> dtype, shape, offsets into
the data), then the tensors' bytes, without gaps. Every claim of the header is checked against the
file before any tensor is read; tensors are memory-mapped views, so opening a file costs no memory.

Ours, not the safetensors package: ranges of rows are read in every dtype without torch, and what a
damaged header claims is told in one sentence.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from livecc_jax.bounded_json import JsonError, parse_json, read_json_file
from livecc_jax.checkpoints.files import check_link
from livecc_jax.errors import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_SHARD_BYTES = 5_000_000_000
MAX_HEADER_BYTES = 32 << 20  # the format allows 100 MB; the largest model here takes 0.2 MB
MAX_TENSORS = 100_000  # of a checkpoint, over all its files; the largest model here has 1,400
MAX_DIMENSIONS = 8
MAX_NAME_BYTES = 255  # of a file, as file systems have it
READ_BYTES = 1 << 30  # a system call reads at most 2 GiB

DTYPES: dict[str, np.dtype] = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "BOOL": np.dtype(np.bool_),
    **{f"I{n}": np.dtype(f"int{n}") for n in (8, 16, 32, 64)},
    **{f"U{n}": np.dtype(f"uint{n}") for n in (8, 16, 32, 64)},
}
_SPELLINGS = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor is stored.

    Attributes:
        file: The file that holds it.
        dtype: Its dtype.
        shape: Its shape.
        start: Its first byte in the file.
        stop: The byte after its last one.
    """

    file: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int
    stop: int

    def row_bytes(self, first: int, stop: int) -> tuple[int, int]:
        """Returns the bytes of the file, as (first, stop), that hold these rows of the first axis."""
        size = math.prod(self.shape[1:]) * self.dtype.itemsize
        return self.start + first * size, self.start + stop * size

    def read_rows(self, first: int, stop: int) -> np.ndarray:
        """Returns a copy of some rows; no other bytes are read, and none stay mapped.

        Raises:
            CheckpointError: The file became shorter, or can no longer be read.
        """
        out = np.empty((stop - first, *self.shape[1:]), self.dtype)
        buffer = memoryview(out.reshape(-1).view(np.uint8))
        at, end = self.row_bytes(first, stop)
        try:
            with self.file.open("rb", buffering=0) as f:
                while at < end:
                    f.seek(at)
                    count = f.readinto(buffer[len(buffer) - (end - at) :][:READ_BYTES])
                    if not count:
                        raise CheckpointError(f"{self.file}: became shorter while it was read")
                    at += count
        except OSError as e:
            raise CheckpointError(f"{self.file}: cannot be read ({e.strerror})") from e
        return out

    def read(self) -> np.ndarray:
        """Returns the tensor as a read-only memory-mapped view."""
        if self.start == self.stop:
            return np.empty(self.shape, self.dtype)
        raw = np.memmap(self.file, np.uint8, "r", self.start, (self.stop - self.start,))
        return np.asarray(raw).view(self.dtype).reshape(self.shape)


def _check_entry(file: Path, name: str, entry: Any, data_start: int, data_size: int) -> TensorInfo:
    """Check one entry of a header. Raises CheckpointError when it does not fit the file."""
    try:
        spelling, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
        is_shape = isinstance(shape, list) and len(shape) <= MAX_DIMENSIONS
        valid = is_shape and all(type(n) is int and 0 <= n < 1 << 62 for n in (*shape, start, stop))
        valid = valid and isinstance(spelling, str)
    except (KeyError, TypeError, ValueError):
        valid = False
    name = f"{name:.200}"
    if not valid:
        raise CheckpointError(f"{file}: the header's entry for {name} is malformed")
    if spelling not in DTYPES:
        raise CheckpointError(f"{file}: {name} has dtype {spelling:.40}, which is not supported")
    dtype = DTYPES[spelling]
    if not start <= stop <= data_size:
        raise CheckpointError(
            f"{file}: is truncated: {name} should end at byte {data_start + stop} of "
            f"{data_start + data_size}"
        )
    if stop - start != math.prod(shape) * dtype.itemsize:
        raise CheckpointError(
            f"{file}: {name} holds {stop - start} bytes, but its shape {tuple(shape)} of {spelling} "
            f"takes {math.prod(shape) * dtype.itemsize}"
        )
    return TensorInfo(file, dtype, tuple(shape), data_start + start, data_start + stop)


def read_header(file: str | Path) -> dict[str, TensorInfo]:
    """Returns every tensor of one file, by name.

    Raises:
        CheckpointError: The file is missing, empty, truncated, or its header is broken.
    """
    file = Path(file)
    try:
        with file.open("rb") as f:
            size = f.seek(0, 2)
            f.seek(0)
            length = int.from_bytes(f.read(8), "little")
            if size < 8:
                raise CheckpointError(f"{file}: is empty or cut short ({size} bytes)")
            if length > MAX_HEADER_BYTES:
                raise CheckpointError(f"{file}: is not a safetensors file (its header is too long)")
            if length > size - 8:
                raise CheckpointError(f"{file}: is truncated inside its header")
            text = f.read(length)
            if len(text) < length:
                raise CheckpointError(f"{file}: became shorter while it was read")
    except OSError as e:
        raise CheckpointError(f"{file}: cannot be read ({e.strerror})") from e
    if (count := text.count(b'"data_offsets"')) > MAX_TENSORS:
        raise CheckpointError(
            f"{file}: holds {count} tensors, more than the {MAX_TENSORS} of a checkpoint"
        )
    try:
        header = parse_json(text, max_bytes=MAX_HEADER_BYTES, unique_keys=True)
    except JsonError as e:
        raise CheckpointError(f"{file}: its header is not valid JSON ({e})") from e
    if not isinstance(header, dict):
        raise CheckpointError(f"{file}: its header is not valid JSON (not an object)")
    header.pop("__metadata__", None)
    data = 8 + length
    tensors = {name: _check_entry(file, name, e, data, size - data) for name, e in header.items()}
    end = data
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
        if tensor.start != end:
            raise CheckpointError(f"{file}: {name} overlaps another tensor or leaves a gap before it")
        end = tensor.stop
    if end != size:
        raise CheckpointError(f"{file}: has {size - end} bytes after its last tensor")
    return tensors


def _read_weight_map(file: Path) -> dict[str, str]:
    """Returns the shard of each tensor that an index names. Raises CheckpointError."""
    try:
        index = read_json_file(file, max_bytes=MAX_HEADER_BYTES, unique_keys=True)
    except JsonError as e:
        raise CheckpointError(f"{file}: is not a valid index of safetensors files ({e})") from e
    except OSError as e:
        raise CheckpointError(f"{file}: cannot be read ({e.strerror})") from e
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{file}: is not a valid index of safetensors files (no weight_map)")
    if len(weight_map) > MAX_TENSORS:
        raise CheckpointError(
            f"{file}: names {len(weight_map)} tensors, more than the {MAX_TENSORS} of a checkpoint"
        )
    for shard in weight_map.values():
        is_name = isinstance(shard, str) and Path(shard).name == shard and "\0" not in shard
        if not is_name or not 0 < len(shard.encode()) <= MAX_NAME_BYTES:
            raise CheckpointError(f"{file}: its weight_map must map tensors to files beside it")
    return weight_map


def read_index(file: Path) -> list[str]:
    """Returns the shards that an index names, each once, in order.

    Raises:
        CheckpointError: The index is not valid, or a shard is missing.
    """
    shards = list(dict.fromkeys(_read_weight_map(file).values()))
    if not shards:
        raise CheckpointError(f"{file}: its weight_map must map tensors to files beside it")
    missing = [s for s in shards if not (file.parent / s).is_file()]
    if missing:
        raise CheckpointError(f"{file.parent}: shard {', '.join(missing[:10])} is missing")
    return shards


def weight_files(directory: str | Path) -> list[Path]:
    """Returns the safetensors files of a directory: `model.safetensors`, or those its index names.

    Raises:
        CheckpointError: There are none, a shard is missing, or one is a link out of the directory.
    """
    directory = Path(directory)
    if (directory / SINGLE).is_file():
        return [check_link(directory / SINGLE)]
    if (directory / INDEX).is_file():
        return [check_link(directory / s) for s in read_index(check_link(directory / INDEX))]
    if any(directory.glob("*.bin")):
        raise CheckpointError(
            f"{directory}: has only .bin weights, which are pickles and can run code, so they are not "
            "read; write safetensors with transformers' save_pretrained"
        )
    raise CheckpointError(f"{directory}: has neither {SINGLE} nor {INDEX}")


def read_directory(directory: str | Path) -> Iterator[tuple[str, TensorInfo]]:
    """Yields each (name, tensor) of a directory; a name that two shards hold comes twice.

    Raises:
        CheckpointError: See `weight_files` and `read_header`; or the index names a tensor that its
            shard does not hold.
    """
    headers: dict[Path, dict[str, TensorInfo]] = {}
    for file in weight_files(directory):
        headers[file] = read_header(file)
        if (count := sum(map(len, headers.values()))) > MAX_TENSORS:
            raise CheckpointError(
                f"{directory}: holds {count} tensors, more than the {MAX_TENSORS} of a checkpoint"
            )
    index = Path(directory) / INDEX
    if not (Path(directory) / SINGLE).is_file():
        for name, shard in _read_weight_map(index).items():
            if name not in headers[index.parent / shard]:
                raise CheckpointError(f"{index}: says that {shard} holds {name}, but it does not")
    for tensors in headers.values():
        yield from tensors.items()


@dataclass(frozen=True)
class TensorToWrite:
    """A tensor to be written; `read` is called for its values when they are written."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]

    @property
    def size(self) -> int:
        """Number of bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def write_file(file: str | Path, tensors: Sequence[TensorToWrite]) -> None:
    """Write one file, with one tensor in memory at a time.

    Raises:
        CheckpointError: A dtype has no safetensors name, or the file cannot be written.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for t in tensors:
        if np.dtype(t.dtype) not in _SPELLINGS:
            raise CheckpointError(f"{file}: safetensors has no dtype {t.dtype} ({t.name})")
        header[t.name] = {
            "dtype": _SPELLINGS[np.dtype(t.dtype)],
            "shape": list(t.shape),
            "data_offsets": [at, at + t.size],
        }
        at += t.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that every tensor starts aligned
    try:
        with Path(file).open("wb") as f:
            f.write(len(text).to_bytes(8, "little"))
            f.write(text)
            for t in tensors:
                values = np.ascontiguousarray(t.read())
                if values.shape != t.shape or values.dtype != t.dtype:
                    raise ValueError(f"{t.name}: {values.shape} {values.dtype} is not as declared")
                f.write(values.reshape(-1).view(np.uint8).data)
    except OSError as e:
        raise CheckpointError(f"{file}: cannot be written ({e.strerror})") from e


def write_directory(
    directory: str | Path, tensors: Sequence[TensorToWrite], max_shard_bytes: int = MAX_SHARD_BYTES
) -> int:
    """Write `model.safetensors`, or shards with an index when they would exceed the limit.

    Returns:
        Number of bytes of all tensors.
    """
    directory = Path(directory)
    shards: list[list[TensorToWrite]] = [[]]
    for t in tensors:
        if shards[-1] and sum(x.size for x in shards[-1]) + t.size > max_shard_bytes:
            shards.append([])
        shards[-1].append(t)
    total = sum(t.size for t in tensors)
    if len(shards) == 1:
        write_file(directory / SINGLE, shards[0])
        return total
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_file(directory / name, shard)
        weight_map |= {t.name: name for t in shard}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    return total
