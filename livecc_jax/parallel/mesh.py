"""The device mesh: `data` between slices, then `fsdp`, `context` and `tensor` within one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
from jax.sharding import AxisType, Mesh

from livecc_jax.errors import ConfigError

AXES = ("data", "fsdp", "context", "tensor")


@dataclass(frozen=True)
class MeshConfig:
    """How many devices lie along each axis; at most one is -1 and takes the rest.

    `devices` says how many are used at all: the first so many, or all of them if it is 0.
    """

    data: int = 1
    fsdp: int = -1
    context: int = 1
    tensor: int = 1
    devices: int = 0


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arrange devices (all of them by default).

    Raises ConfigError when the axes do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    if not 0 <= config.devices <= len(devices):
        raise ConfigError(f"mesh.devices is {config.devices}, but there are {len(devices)} devices")
    devices = devices[: config.devices or None]
    shape = [getattr(config, axis) for axis in AXES]
    described = ", ".join(f"mesh.{axis}={size}" for axis, size in zip(AXES, shape))
    if any(size < 1 and size != -1 for size in shape) or shape.count(-1) > 1:
        raise ConfigError(
            f"each mesh axis must be positive, and at most one -1 for the rest: {described}"
        )
    if -1 in shape:
        shape[shape.index(-1)] = max(1, len(devices) // -math.prod(shape))
    if math.prod(shape) != len(devices):
        raise ConfigError(f"{described} does not multiply to the {len(devices)} devices there are")
    return jax.make_mesh(tuple(shape), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)
