"""How the arrays of one attention call are split over the mesh in scope, and their platform."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
from jax.sharding import AbstractMesh, PartitionSpec

from livecc_jax.errors import ConfigError
from livecc_jax.kernels.devices import platform_in_scope
from livecc_jax.parallel.rules import RULES

MeshAxes = tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """Mesh axes of the queries' batch, length and heads; keys and values are split in the same way."""

    mesh: AbstractMesh | None  # None: no mesh is in scope, or it has one device
    platform: str  # cpu, gpu or tpu
    batch: MeshAxes = ()
    length: MeshAxes = ()
    heads: MeshAxes = ()

    def num_shards(self, axes: MeshAxes) -> int:
        """Returns the number of devices along mesh axes."""
        return math.prod(self.mesh.shape[axis] for axis in axes) if self.mesh else 1

    @property
    def qkv(self) -> PartitionSpec:
        """The partition of arrays [B, T, H or K, D]."""
        return PartitionSpec(self.batch or None, self.length or None, self.heads or None, None)

    @property
    def ids(self) -> PartitionSpec:
        """The partition of arrays [B, T]."""
        return PartitionSpec(self.batch or None, self.length or None)

    def check(self, q: tuple[int, ...], k: tuple[int, ...]) -> None:
        """Raises ConfigError when arrays of these shapes do not divide over the mesh."""
        for name, size, axes in (
            ("rows", q[0], self.batch),
            ("query heads", q[2], self.heads),
            ("key heads", k[2], self.heads),
        ):
            if size % self.num_shards(axes):
                raise ConfigError(
                    f"attention over {size} {name} does not divide over "
                    f"{' x '.join(f'mesh.{axis}' for axis in axes)} = {self.num_shards(axes)}"
                )


def layout_in_scope(axes: tuple[str, str | None]) -> Layout:
    """Returns the layout for logical axes of (batch, length), given the mesh of `jax.set_mesh`.

    The platform is that of the mesh's devices, so that it is right also for a step that is compiled
    ahead of time for devices that are not attached. Without a mesh it is JAX's default.
    """
    mesh, platform = jax.sharding.get_abstract_mesh(), platform_in_scope()
    if mesh.empty or mesh.size == 1:
        return Layout(None, platform)
    batch, length = (RULES[axis] if axis else () for axis in axes)
    return Layout(mesh, platform, batch, length, RULES["heads"])
