"""Facts about the device that a program is compiled for: its platform, and what a GPU can do.

What only kernels ask (`single_gpu`, `has_wgmma`, ...) is true in interpret mode as well, which stands
for a GPU that can do everything.
"""

from __future__ import annotations

import functools
import re

import jax

from livecc_jax.kernels.interpret import interpreting

# Compute capabilities of GPUs that programs may be compiled for on a machine that has none.
CAPABILITIES = {
    "A100": 8.0, "L4": 8.9, "L40": 8.9, "L40S": 8.9,
    "H100": 9.0, "H200": 9.0, "GH200": 9.0, "B200": 10.0,
}  # fmt: skip
HOPPER = 9.0  # compute capability of the H100 and H200
E4M3_CONVERSION = 8.9  # compute capability from which on a GPU converts e4m3 floats
HOPPER_MULTIPROCESSORS = 132  # streaming multiprocessors of an H100 or H200
INTERPRETED_MULTIPROCESSORS = 2  # few, so that small shapes have more tiles than multiprocessors


def platform_in_scope() -> str:
    """`cpu`, `gpu` or `tpu`: the platform of the devices of `jax.set_mesh`, else where jax would run.

    With a mesh in scope, this also holds for a step that is compiled for devices of another machine.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device is not None else _default_platform()


def mesh_in_scope() -> bool:
    """Whether a mesh of several devices is in scope."""
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and mesh.size > 1


def single_gpu() -> bool:
    """Whether the program in scope is compiled for one GPU and no mesh."""
    return not mesh_in_scope() and (interpreting() or platform_in_scope() == "gpu")


def hopper_or_newer() -> bool:
    """Whether the program in scope is compiled for GPUs of Hopper's generation or a later one."""
    return interpreting() or (platform_in_scope() == "gpu" and gpu_capability() >= HOPPER)


def has_wgmma() -> bool:
    """Whether the GPU in scope has `wgmma`, the products of warp groups, which only Hopper has."""
    return interpreting() or gpu_capability() == HOPPER


def multiprocessors() -> int:
    """The number of streaming multiprocessors that kernels for Hopper share their work among."""
    return INTERPRETED_MULTIPROCESSORS if interpreting() else HOPPER_MULTIPROCESSORS


def converts_e4m3() -> bool:
    """Whether the GPU in scope converts 8-bit floats (e4m3)."""
    return interpreting() or gpu_capability() >= E4M3_CONVERSION


def gpu_capability() -> float:
    """Compute capability of the GPU in scope, or of the first local one; 0 when it is not NVIDIA's."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    kind = device.device_kind if device is not None else ""
    words = re.split(r"[\s-]+", kind)  # "NVIDIA A100-SXM4-80GB"
    listed = (CAPABILITIES[word] for word in words if word in CAPABILITIES)
    return next(listed, None) or _local_capability()


def cuda_assembler_breaks_masks() -> bool:
    """Whether this is CUDA 12.8 or 12.9.0, whose assembler miscompiles masked attention kernels.

    JAX's own Mosaic attention kernel (`jax.experimental.pallas.ops.gpu.attention_mgpu`) avoids the same
    versions.
    """
    try:
        from jax._src.lib import cuda_versions
    except ImportError:
        return False
    return cuda_versions is not None and 12080 <= cuda_versions.cuda_runtime_get_version() < 12091


@functools.cache
def _local_capability() -> float:
    return float(getattr(jax.local_devices()[0], "compute_capability", 0) or 0)


def _default_platform() -> str:
    device = jax.config.jax_default_device
    if device is None:
        return jax.default_backend()
    return device if isinstance(device, str) else device.platform
