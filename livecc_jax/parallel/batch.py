"""Shards the packed rows that a host has built over the mesh."""

from __future__ import annotations

import math

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from livecc_jax.errors import ConfigError
from livecc_jax.parallel.rules import RULES, partition_spec

# Logical axes of a packed row's fields, after the accumulation axis (docs/formats.md).
ROW_AXES: dict[str, tuple[str | None, ...]] = {
    "tokens": ("batch", "length"),
    "segment_ids": ("batch", "length"),
    "positions": ("batch", None, "length"),
    "patches": ("batch", "windows", None, None),
    "patch_pairs": ("batch", "windows", None),
    "patch_rows": ("batch", "windows", None),
    "patch_cols": ("batch", "windows", None),
    "vision_index": ("batch", "length"),
    "target_slots": ("batch", None),
    "target_weights": ("batch", None),
}
PADDING = {"vision_index": -1}  # 0 in all other fields


def shard_count(mesh: Mesh | AbstractMesh, axis: str | None) -> int:
    """Returns the number of devices that a logical axis is split over; 1 for None."""
    return math.prod(mesh.shape[name] for name in RULES[axis]) if axis else 1


def check_batch_divides(mesh: Mesh | AbstractMesh, rows: int) -> None:
    """Raises ConfigError when micro-batches of `rows` packed rows do not divide over the mesh."""
    if rows % shard_count(mesh, "batch"):
        raise ConfigError(
            f"data.rows_per_step / optim.accumulate is {rows}, which does not divide over "
            f"{' x '.join(f'mesh.{name}' for name in RULES['batch'])} = {shard_count(mesh, 'batch')}"
        )


def batch_shardings(mesh: Mesh) -> dict[str, NamedSharding]:
    """Returns the sharding of each field of a batch shaped [accumulate, rows, ...]."""
    return {
        k: NamedSharding(mesh, PartitionSpec(None, *partition_spec(a))) for k, a in ROW_AXES.items()
    }


def padded_shape(mesh: Mesh | AbstractMesh, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape [B, ...] of a field, padded so that tokens and windows divide over the mesh."""
    return tuple(
        size if axis == "batch" else -(-size // shard_count(mesh, axis)) * shard_count(mesh, axis)
        for size, axis in zip(shape, ROW_AXES[name])
    )


def shard_batch(mesh: Mesh, rows: dict[str, np.ndarray], accumulate: int) -> dict[str, jax.Array]:
    """Turns the rows of this process into global arrays on the mesh.

    Tokens and windows that do not divide over the mesh are padded.

    Args:
        mesh: The device mesh.
        rows: Fields of the packed rows that this process has built, each [B, ...].
        accumulate: Number of micro-batches of a step.

    Returns:
        Each field as a global array [accumulate, B / accumulate, ...], B over all processes.
    """
    shardings = batch_shardings(mesh)
    global_arrays = {}
    for name in ROW_AXES:
        value = rows[name]
        padding = [(0, n - m) for n, m in zip(padded_shape(mesh, name, value.shape), value.shape)]
        if any(after for _, after in padding):
            value = np.pad(value, padding, constant_values=PADDING.get(name, 0))
        global_arrays[name] = jax.make_array_from_process_local_data(
            shardings[name], value.reshape(accumulate, -1, *value.shape[1:])
        )
    return global_arrays
