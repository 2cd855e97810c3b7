"""What our kernels on GPUs share: whether they serve here, with this jax, and how they are set up."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from livecc_jax.kernels.devices import HOPPER, gpu_capability

GROUP = 64  # rows that a group of warps multiplies


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


def scored(
    queries: Any, keys: Any, slot: Any, interpret: Any, begun: Callable[[], None] = lambda: None
) -> jax.Array:
    """Within a kernel, products of queries with the keys of a slot: float32 [GROUP, N].

    Args:
        queries: [GROUP, D] in shared memory.
        keys: [slots, N, D] there.
        slot: which of them.
        interpret: as of the kernel.
        begun: what is to be done once they are under way.
    """
    from jax.experimental import pallas as pl

    if interpret:
        products = jnp.dot(queries[...], keys[slot].T, preferred_element_type=jnp.float32)
        begun()
        return products

    def multiply(acc_ref: Any) -> jax.Array:
        mosaic().wgmma(acc_ref, queries, keys.at[slot].transpose((1, 0)))
        begun()
        return acc_ref[...]

    return pl.run_scoped(multiply, mosaic().ACC((GROUP, keys.shape[1]), jnp.float32))


def mixed(
    acc: jax.Array,
    weights: jax.Array,
    values: Any,
    slot: Any,
    interpret: Any,
    begun: Callable[[], None] = lambda: None,
) -> jax.Array:
    """Within a kernel, acc + a slot's values as the weights have it: float32 [GROUP, D].

    Args:
        acc: [GROUP, D].
        weights: [GROUP, N], in the dtype of values.
        values: [slots, N, D] in shared memory.
        slot: which of them.
        interpret: as of the kernel.
        begun: what is to be done once the products are under way.
    """
    from jax.experimental import pallas as pl

    if interpret:
        acc += jnp.dot(weights, values[slot], preferred_element_type=jnp.float32)
        begun()
        return acc

    def multiply(acc_ref: Any) -> None:
        mosaic().wgmma(acc_ref, weights, values.at[slot])
        begun()

    return pl.run_state(multiply)(mosaic().ACC.init(acc))


@functools.cache
def _miscompiled() -> bool:
    """Whether this is a CUDA whose assembler gets masks like ours wrong, as jax's own kernel has it."""
    try:
        from jax._src.lib import cuda_versions
    except ImportError:
        return False
    return cuda_versions is not None and 12080 <= cuda_versions.cuda_runtime_get_version() < 12091
