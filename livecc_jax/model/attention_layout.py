"""How the arrays of one attention call lie on the mesh in scope, and what device they are for."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import jax
from jax.sharding import AbstractMesh, PartitionSpec

from livecc_jax.errors import ConfigError
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
    mesh = jax.sharding.get_abstract_mesh()
    device = mesh.abstract_device
    platform = device.platform if device is not None else _default_platform()
    if mesh.empty or mesh.size == 1:
        return Layout(None, platform)
    batch, length = (RULES[axis] if axis else () for axis in axes)
    return Layout(mesh, platform, batch, length, RULES["heads"])


# Of GPUs that programs may be compiled for where there are none.
CAPABILITIES = {"A100": 8.0, "L40": 8.9, "H100": 9.0, "H200": 9.0, "B200": 10.0}


def gpu_capability() -> float:
    """Compute capability of the GPU in scope, or of the first one; 0 when it is not CUDA's."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    kind = device.device_kind if device is not None else ""
    known = (CAPABILITIES[word] for word in kind.split() if word in CAPABILITIES)
    return next(known, None) or _local_capability()


@functools.cache
def _local_capability() -> float:
    return float(getattr(jax.local_devices()[0], "compute_capability", 0) or 0)


def _default_platform() -> str:
    device = jax.config.jax_default_device
    if device is None:
        return jax.default_backend()
    return device if isinstance(device, str) else device.platform
