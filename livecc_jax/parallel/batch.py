"""Placing a host's rows on the mesh."""

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


def parts(mesh: Mesh | AbstractMesh, axis: str | None) -> int:
    """Over how many devices a logical axis is split."""
    return math.prod(mesh.shape[name] for name in RULES[axis]) if axis else 1


def check_rows(mesh: Mesh | AbstractMesh, rows: int) -> None:
    """Raise ConfigError when micro-batches of `rows` rows do not divide over the mesh."""
    if rows % parts(mesh, "batch"):
        raise ConfigError(
            f"data.rows_per_step / optim.accumulate is {rows}, which does not divide over "
            f"{' x '.join(f'mesh.{name}' for name in RULES['batch'])} = {parts(mesh, 'batch')}"
        )


def row_shardings(mesh: Mesh) -> dict[str, NamedSharding]:
    """Sharding of each field of a batch shaped [accumulate, rows, ...]."""
    return {
        k: NamedSharding(mesh, PartitionSpec(None, *partition_spec(a))) for k, a in ROW_AXES.items()
    }


def padded_shape(mesh: Mesh | AbstractMesh, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape [B, ...] of a field once its tokens and windows divide over the mesh."""
    return tuple(
        size if axis == "batch" else -(-size // parts(mesh, axis)) * parts(mesh, axis)
        for size, axis in zip(shape, ROW_AXES[name])
    )


def place_batch(mesh: Mesh, rows: dict[str, np.ndarray], accumulate: int) -> dict[str, jax.Array]:
    """Rows of this process [B, ...] to global arrays [accumulate, B / accumulate, ...] on the mesh.

    Tokens or windows that do not divide over the mesh are filled up with padding.
    """
    shardings = row_shardings(mesh)
    placed = {}
    for name in ROW_AXES:
        value = rows[name]
        more = [(0, n - m) for n, m in zip(padded_shape(mesh, name, value.shape), value.shape)]
        if any(extra for _, extra in more):
            value = np.pad(value, more, constant_values=PADDING.get(name, 0))
        placed[name] = jax.make_array_from_process_local_data(
            shardings[name], value.reshape(accumulate, -1, *value.shape[1:])
        )
    return placed
