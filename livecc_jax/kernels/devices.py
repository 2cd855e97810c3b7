"""Facts about the device that a program is compiled for: its platform, and what a GPU can do."""

from __future__ import annotations

import functools

import jax

# Compute capabilities of GPUs that programs may be compiled for on a machine that has none.
CAPABILITIES = {"A100": 8.0, "L40": 8.9, "H100": 9.0, "H200": 9.0, "B200": 10.0}
HOPPER = 9.0  # compute capability of the H100 and H200
FP8_CONVERSION = 8.9  # compute capability from which on a GPU converts e4m3 floats
MULTIPROCESSORS = 132  # streaming multiprocessors of an H100 or H200


def platform_in_scope() -> str:
    """`cpu`, `gpu` or `tpu`: the platform of the devices of `jax.set_mesh`, else where jax would run.

    With a mesh in scope, a step compiled ahead of time for devices that are not here is right too.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device is not None else _default_platform()


def mesh_in_scope() -> bool:
    """Whether a mesh of several devices is in scope."""
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and mesh.size > 1


def single_gpu() -> bool:
    """Whether the program in scope is compiled for one GPU and no mesh."""
    return platform_in_scope() == "gpu" and not mesh_in_scope()


def gpu_capability() -> float:
    """Compute capability of the GPU in scope, or of the first local one; 0 when it is not NVIDIA's."""
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
