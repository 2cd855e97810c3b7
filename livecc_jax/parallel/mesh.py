"""Builds the device mesh: `data` between slices, then `fsdp`, `context` and `tensor` within one."""

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
    """Number of devices along each axis; at most one is -1 and takes the remaining devices.

    Attributes:
        data: Data parallel axis, the only one that spans slices.
        fsdp: Axis that batches, parameters and optimizer state are sharded over.
        context: Axis that the tokens of a row are sharded over.
        tensor: Axis that attention heads and MLP features are sharded over.
        devices: Number of devices to use, the first ones of all; 0 uses all of them.
    """

    data: int = 1
    fsdp: int = -1
    context: int = 1
    tensor: int = 1
    devices: int = 0


def parse_mesh(text: str) -> MeshConfig:
    """Parses a mesh such as `data=2,tensor=2`.

    Axes that are not named have size 1. One axis may be -1; otherwise only as many devices are used as
    the sizes multiply to.

    Raises ConfigError for a text of another form, naming `--mesh`.
    """
    sizes = dict.fromkeys(AXES, 1)
    entries = [entry.partition("=") for entry in text.split(",")]
    for axis, _, size in entries:
        if axis not in sizes or not size.removeprefix("-").isdecimal():
            raise ConfigError(f"--mesh {text}: must be like data=2,tensor=2, of {', '.join(AXES)}")
        sizes[axis] = int(size)
    if len({axis for axis, _, _ in entries}) < len(entries):
        raise ConfigError(f"--mesh {text}: names an axis twice")
    if -1 in sizes.values():
        return MeshConfig(**sizes)
    return MeshConfig(**sizes, devices=max(0, math.prod(sizes.values())))


def resolve_mesh(config: MeshConfig, count: int) -> MeshConfig:
    """Returns the mesh over `count` devices with its -1 filled in and `devices` set to the number used.

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
    """Arranges devices (by default all of them) in a mesh.

    Several slices lie along `data`, because only its collectives are small enough for the network
    between slices.

    Raises ConfigError when the axes do not multiply to the number of devices, or when `data` is not a
    multiple of the number of slices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = resolve_mesh(config, len(devices))
    devices = devices[: sizes.devices]
    shape = [getattr(sizes, axis) for axis in AXES]
    slices = len({slice_index(device) for device in devices})
    if shape[0] % slices:
        raise ConfigError(f"mesh.data={shape[0]} is not a multiple of the {slices} slices there are")
    device_array = _arrange_devices(shape, slices, devices)
    return Mesh(device_array, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def slice_index(device: jax.Device) -> int:
    """Returns the index of the TPU slice that a device is in; 0 for any other device."""
    return (getattr(device, "slice_index", None) or 0) if device.platform == "tpu" else 0


def _arrange_devices(shape: Sequence[int], slices: int, devices: Sequence[jax.Device]) -> np.ndarray:
    """Returns the devices in this shape, neighbours of the torus next to each other if possible."""

    def arrange(split_physical_axes: bool) -> np.ndarray:
        if slices == 1:
            return mesh_utils.create_device_mesh(
                shape, devices, allow_split_physical_axes=split_physical_axes
            )
        within = (shape[0] // slices, *shape[1:])
        between = (slices, *(1 for _ in shape[1:]))
        return mesh_utils.create_hybrid_device_mesh(
            within, between, devices, allow_split_physical_axes=split_physical_axes
        )

    try:
        return arrange(False)
    except NotImplementedError:  # an axis is not a product of dimensions of the torus
        return arrange(True)
