"""Where every array lives: one table from logical axes to mesh axes.

Parameters declare logical axes where they are made (`model.layers.weight`), activations at the few
places that matter (`constrain`); this table is the only one that knows the mesh.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from livecc_jax.errors import ConfigError

RULES: Mapping[str, tuple[str, ...]] = {
    # parameters
    "layers": (),
    "vocab": ("tensor",),
    "embed": ("fsdp",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "head_dim": (),
    "mlp": ("tensor",),
    "norm": (),  # a few kilobytes, wanted everywhere
    "rank": (),  # of adapters
    "adapted": ("tensor", "fsdp"),  # an adapter's side that is not the residual stream's: heads, mlp
    # activations
    "batch": ("data", "fsdp"),
    "length": ("context",),
    "windows": ("context",),
    "flat_windows": ("data", "fsdp", "context"),  # batch and windows as one axis, in the vision tower
}


def partition_spec(axes: tuple[str | None, ...]) -> PartitionSpec:
    """Mesh axes of an array whose dimensions have these logical axes.

    Raises ConfigError when two dimensions would be split over one mesh axis, or a name is unknown.
    """
    used: list[str] = []
    entries: list[tuple[str, ...] | None] = []
    for axis in axes:
        if axis is not None and axis not in RULES:
            raise ConfigError(f"logical axis {axis!r} is not in the sharding rules")
        mesh_axes = RULES[axis] if axis is not None else ()
        for name in mesh_axes:
            if name in used:
                raise ConfigError(f"logical axes {axes} use mesh axis {name!r} twice")
            used.append(name)
        entries.append(mesh_axes or None)
    return PartitionSpec(*entries)


def sharding_tree(mesh: Mesh, axes_tree: Any, shapes: Any) -> Any:
    """A NamedSharding for every leaf.

    Args:
        mesh: the device mesh.
        axes_tree: nested dict whose leaves are tuples of logical axes.
        shapes: the same tree with arrays or `jax.ShapeDtypeStruct`s.

    Raises ConfigError naming the parameter whose dimension does not divide over its mesh axes.
    """

    def one(path: tuple, axes: tuple[str | None, ...], leaf: Any) -> NamedSharding:
        spec = partition_spec(axes)
        for size, axis in zip(leaf.shape, axes):
            names = RULES[axis] if axis else ()
            parts = math.prod(mesh.shape[name] for name in names)
            if size % parts:
                where = "/".join(str(k.key) for k in path)
                raise ConfigError(
                    f"{where} has a dimension of {size}, which does not divide over "
                    f"mesh axes {names} of {parts} devices"
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(
        one, axes_tree, shapes, is_leaf=lambda x: isinstance(x, tuple)
    )


def on_own_part(
    act: Callable[..., jax.Array],
    given: tuple[tuple[str | None, ...], ...],
    made: tuple[str | None, ...],
) -> Callable[..., jax.Array]:
    """`act`, done by each device of the mesh in scope with its own part of every array; without a mesh,
    `act` itself.

    Args:
        act: what is done.
        given: logical axes of its arguments.
        made: logical axes of its result.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return act
    specs = tuple(map(partition_spec, given))
    return jax.shard_map(act, in_specs=specs, out_specs=partition_spec(made), check_vma=False)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Pin an activation to the mesh in scope (`jax.set_mesh`); without one, nothing happens."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, partition_spec(axes))
