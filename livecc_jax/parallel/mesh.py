"""The device mesh: `data` between slices, then `fsdp`, `context` and `tensor` within one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.experimental import mesh_utils
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


def parse_mesh(text: str) -> MeshConfig:
    """`data=2,tensor=2` as a mesh: an axis not named is 1, one may be -1, and the first devices of as
    many as the axes take are used.

    Raises ConfigError for anything else.
    """
    sizes = dict.fromkeys(AXES, 1)
    given = [part.partition("=") for part in text.split(",")]
    for axis, _, size in given:
        if axis not in sizes or not size.removeprefix("-").isdecimal():
            raise ConfigError(f"--mesh {text}: must be like data=2,tensor=2, of {', '.join(AXES)}")
        sizes[axis] = int(size)
    if len({axis for axis, _, _ in given}) < len(given):
        raise ConfigError(f"--mesh {text}: names an axis twice")
    known = -1 not in sizes.values()
    return MeshConfig(**sizes, devices=max(0, math.prod(sizes.values())) if known else 0)


def resolve(config: MeshConfig, count: int) -> MeshConfig:
    """The same mesh over `count` devices, with its -1 filled in and `devices` as many as it uses.

    Raises ConfigError when the axes do not multiply to the number of devices.
    """
    if not 0 <= config.devices <= count:
        raise ConfigError(f"mesh.devices is {config.devices}, but there are {count} devices")
    count = config.devices or count
    shape = [getattr(config, axis) for axis in AXES]
    described = ", ".join(f"mesh.{axis}={size}" for axis, size in zip(AXES, shape))
    if any(size < 1 and size != -1 for size in shape) or shape.count(-1) > 1:
        raise ConfigError(
            f"each mesh axis must be positive, and at most one -1 for the rest: {described}"
        )
    if -1 in shape:
        shape[shape.index(-1)] = max(1, count // -math.prod(shape))
    if math.prod(shape) != count:
        raise ConfigError(f"{described} does not multiply to the {count} devices there are")
    return MeshConfig(*shape, devices=count)


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arrange devices (all of them by default).

    Devices of several slices are split over them along `data`, whose collectives are the only ones that
    can afford the network between slices.

    Raises ConfigError when the axes do not multiply to the number of devices, or `data` not to slices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = resolve(config, len(devices))
    devices = devices[: sizes.devices]
    shape = [getattr(sizes, axis) for axis in AXES]
    slices = len({slice_of(device) for device in devices})
    if shape[0] % slices:
        raise ConfigError(f"mesh.data={shape[0]} is not a multiple of the {slices} slices there are")
    return Mesh(_arranged(shape, slices, devices), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def slice_of(device: jax.Device) -> int:
    """Which TPU slice a device is in; 0 elsewhere."""
    return (getattr(device, "slice_index", None) or 0) if device.platform == "tpu" else 0


def _arranged(shape: Sequence[int], slices: int, devices: Sequence[jax.Device]) -> np.ndarray:
    """Devices in this shape, neighbours in the torus being neighbours along an axis where they can."""

    def arrange(split: bool) -> np.ndarray:
        if slices == 1:
            return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=split)
        within = (shape[0] // slices, *shape[1:])
        between = (slices, *(1 for _ in shape[1:]))
        return mesh_utils.create_hybrid_device_mesh(
            within, between, devices, allow_split_physical_axes=split
        )

    try:
        return arrange(False)
    except NotImplementedError:  # an axis that is no product of the torus's dimensions
        return arrange(True)
