"""What our kernels on GPUs share: whether they serve here, with this jax, and how they are set up."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax

from livecc_jax.model.attention_cudnn import HOPPER
from livecc_jax.model.attention_layout import gpu_capability, layout_in_scope

GROUP = 64  # rows that a group of warps multiplies
PROCESSORS = 132  # of an H100 or H200


def one_gpu() -> bool:
    """Whether it is for one GPU, and no mesh."""
    layout = layout_in_scope(("batch", None))
    return layout.platform == "gpu" and layout.mesh is None


@functools.cache
def triton_of_pallas() -> Any:
    """Pallas for Triton, or None: later versions of jax may leave it out."""
    try:
        from jax.experimental.pallas import triton
    except ImportError:
        return None
    return triton


@functools.cache
def mosaic() -> Any:
    """Pallas for Mosaic GPU, or None where jax lacks it or has it in another form."""
    try:
        from jax.experimental.pallas import mosaic_gpu
    except ImportError:
        return None
    return mosaic_gpu if "out_type" in inspect.signature(mosaic_gpu.kernel).parameters else None


def multiplies() -> bool:
    """Whether kernels of groups of warps that multiply are for the GPU there is, with this jax."""
    hopper = gpu_capability() == HOPPER  # later ones have no `wgmma`
    return hopper and mosaic() is not None and not _miscompiled()


def in_registers(interpret: Any) -> tuple[Callable, Callable]:
    """How a kernel lays an array out, and numbers one along an axis, as products are in registers.

    Interpreted, there are no layouts.
    """
    if interpret:
        return lambda x, layout: x, lax.broadcasted_iota
    gpu = mosaic()
    return gpu.layout_cast, functools.partial(gpu.broadcasted_iota, layout=gpu.Layout.WGMMA)


def tiled(dtype: Any, *shape: int, swizzle: int = 128) -> Any:
    """Shared memory for operands and outcomes of products, of rows of `swizzle` bytes or multiples."""
    gpu = mosaic()
    tiling = gpu.TilingTransform((8, swizzle // jnp.dtype(dtype).itemsize))
    return gpu.SMEM(shape, dtype, transforms=(tiling, gpu.SwizzleTransform(swizzle)))


@functools.cache
def _miscompiled() -> bool:
    """Whether this is a CUDA whose assembler gets masks like ours wrong, as jax's own kernel has it."""
    try:
        from jax._src.lib import cuda_versions
    except ImportError:
        return False
    return cuda_versions is not None and 12080 <= cuda_versions.cuda_runtime_get_version() < 12091
