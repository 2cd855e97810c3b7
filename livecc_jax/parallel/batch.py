"""Placing a host's rows on the mesh."""

from __future__ import annotations

import math

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

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


def check_rows(mesh: Mesh, rows: int, tokens: int, windows: int) -> None:
    """Raise ConfigError when micro-batches of `rows` rows of this shape do not divide over the mesh."""
    sizes = {
        ("batch", "data.rows_per_step / optim.accumulate"): rows,
        ("length", "data.tokens"): tokens,
        ("windows", "data.windows"): windows,
    }
    for (axis, field), size in sizes.items():
        names = RULES[axis]
        parts = math.prod(mesh.shape[name] for name in names)
        if size % parts:
            raise ConfigError(
                f"{field} is {size}, which does not divide over "
                f"{' x '.join(f'mesh.{name}' for name in names)} = {parts}"
            )


def row_shardings(mesh: Mesh) -> dict[str, NamedSharding]:
    """Sharding of each field of a batch shaped [accumulate, rows, ...]."""
    return {
        k: NamedSharding(mesh, PartitionSpec(None, *partition_spec(a))) for k, a in ROW_AXES.items()
    }


def place_batch(mesh: Mesh, rows: dict[str, np.ndarray], accumulate: int) -> dict[str, jax.Array]:
    """Rows of this process [B, ...] to global arrays [accumulate, B / accumulate, ...] on the mesh."""
    shardings = row_shardings(mesh)
    return {
        name: jax.make_array_from_process_local_data(
            shardings[name], rows[name].reshape(accumulate, -1, *rows[name].shape[1:])
        )
        for name in ROW_AXES
    }
