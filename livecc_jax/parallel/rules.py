"""Sharding rules: one table from logical axes to mesh axes, and what applies it to arrays.

Parameters declare their logical axes where they are created (`model.layers.weight`), activations at the
few points that matter (`constrain`). No other module knows which mesh axis shards what.
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
    "norm": (),  # a few kilobytes, replicated
    "rank": (),  # of adapters
    "adapted": ("tensor", "fsdp"),  # the side of an adapter that is not the residual stream: heads, mlp
    # activations
    "batch": ("data", "fsdp"),
    "length": ("context",),
    "windows": ("context",),
    "flat_windows": ("data", "fsdp", "context"),  # batch and windows as one axis, in the vision tower
}


def partition_spec(axes: tuple[str | None, ...]) -> PartitionSpec:
    """Returns the partition spec of an array whose dimensions have these logical axes.

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
    """Returns a NamedSharding for every leaf.

    Args:
        mesh: The device mesh.
        axes_tree: Nested dict whose leaves are tuples of logical axes.
        shapes: The same tree with arrays or `jax.ShapeDtypeStruct`s as leaves.

    Raises ConfigError naming the parameter whose dimension does not divide over its mesh axes.
    """

    def leaf_sharding(path: tuple, axes: tuple[str | None, ...], leaf: Any) -> NamedSharding:
        spec = partition_spec(axes)
        for size, axis in zip(leaf.shape, axes):
            names = RULES[axis] if axis else ()
            shards = math.prod(mesh.shape[name] for name in names)
            if size % shards:
                where = "/".join(str(k.key) for k in path)
                raise ConfigError(
                    f"{where} has a dimension of {size}, which does not divide over "
                    f"mesh axes {names} of {shards} devices"
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(
        leaf_sharding, axes_tree, shapes, is_leaf=lambda x: isinstance(x, tuple)
    )


def logical_shard_map(
    function: Callable[..., jax.Array],
    in_axes: tuple[tuple[str | None, ...], ...],
    out_axes: tuple[str | None, ...],
) -> Callable[..., jax.Array]:
    """`jax.shard_map` over the mesh in scope (`jax.set_mesh`), with specs given as logical axes.

    Args:
        function: The function that each device runs on its own shard of every argument.
        in_axes: Logical axes of each argument.
        out_axes: Logical axes of the result.

    Returns:
        The sharded function; `function` itself when no mesh is in scope.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return function
    in_specs = tuple(map(partition_spec, in_axes))
    out_specs = partition_spec(out_axes)
    return jax.shard_map(function, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Constrains the sharding of an activation on the mesh in scope (`jax.set_mesh`).

    Without a mesh in scope the activation is returned as it is.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, partition_spec(axes))
