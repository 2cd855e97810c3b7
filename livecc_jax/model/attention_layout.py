"""How the arrays of one attention call lie on the mesh in scope, and what device they are for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
from jax.sharding import AbstractMesh, PartitionSpec

from livecc_jax.errors import ConfigError
from livecc_jax.kernels.devices import platform_in_scope
from livecc_jax.parallel.rules import RULES

Names = tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """Mesh axes of queries' batch, length and heads; keys and values are split alike."""

    mesh: AbstractMesh | None  # None: no mesh in scope, or one device
    platform: str  # cpu, gpu or tpu
    batch: Names = ()
    length: Names = ()
    heads: Names = ()

    def parts(self, names: Names) -> int:
        """Devices along these mesh axes."""
        return math.prod(self.mesh.shape[n] for n in names) if self.mesh else 1

    @property
    def qkv(self) -> PartitionSpec:
        """Of [B, T, H or K, D]."""
        return PartitionSpec(self.batch or None, self.length or None, self.heads or None, None)

    @property
    def ids(self) -> PartitionSpec:
        """Of [B, T]."""
        return PartitionSpec(self.batch or None, self.length or None)

    def check(self, q: tuple[int, ...], k: tuple[int, ...]) -> None:
        """Raise ConfigError when arrays of these shapes do not divide over the mesh."""
        for what, size, names in (
            ("rows", q[0], self.batch),
            ("query heads", q[2], self.heads),
            ("key heads", k[2], self.heads),
        ):
            if size % self.parts(names):
                raise ConfigError(
                    f"attention over {size} {what} does not divide over "
                    f"{' x '.join(f'mesh.{n}' for n in names)} = {self.parts(names)}"
                )


def layout_in_scope(axes: tuple[str, str | None]) -> Layout:
    """The layout for logical axes of (batch, length), given the mesh of `jax.set_mesh`.

    The platform is that of the mesh's devices, so that a step compiled ahead of time for devices that
    are not here is right too; without a mesh it is where jax would run.
    """
    mesh, platform = jax.sharding.get_abstract_mesh(), platform_in_scope()
    if mesh.empty or mesh.size == 1:
        return Layout(None, platform)
    batch, length = (RULES[axis] if axis else () for axis in axes)
    return Layout(mesh, platform, batch, length, RULES["heads"])
