"""The one layer through which kernels use Pallas for Triton and for Mosaic GPU.

It knows what differs between versions of JAX. Where a version lacks what the kernels use, `has_triton`
or `has_mosaic` says no after one logged warning, the kernels' `is_supported` say no with it, and plain
XLA serves in their place.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from livecc_jax.kernels.devices import cuda_assembler_breaks_masks, has_wgmma, mesh_in_scope
from livecc_jax.kernels.interpret import interpreting

log = logging.getLogger(__name__)

GROUP = 64  # rows of a product that one warp group computes
MIN_SCORE = -1e30  # a score of no weight that, unlike -inf, can be subtracted from itself

_TRITON_NAMES = ("CompilerParams", "dot", "load", "store")
_MOSAIC_NAMES = (
    "ACC", "Barrier", "ClusterBarrier", "CompilerParams", "Layout", "SMEM", "SwizzleTransform",
    "TilingTransform", "barrier_arrive", "barrier_wait", "broadcasted_iota", "commit_smem",
    "copy_gmem_to_smem", "copy_smem_to_gmem", "kernel", "layout_cast", "load", "set_max_registers",
    "wait_smem_to_gmem", "wgmma", "wgmma_wait",
)  # fmt: skip


def has_triton() -> bool:
    """Whether this JAX has the form of Pallas for Triton that the kernels use."""
    return _backend("triton", _TRITON_NAMES) is not None


def has_mosaic() -> bool:
    """Whether the GPU in scope has `wgmma` and this JAX the form of Mosaic GPU that the kernels use."""
    if not has_wgmma():
        return False
    if interpreting():
        if mesh_in_scope():
            return False  # the interpreter simulates one GPU at a time
    elif cuda_assembler_breaks_masks():
        return False
    gpu = _backend("mosaic_gpu", _MOSAIC_NAMES)
    if gpu is not None and "out_type" not in inspect.signature(gpu.kernel).parameters:
        _warn_once("jax.experimental.pallas.mosaic_gpu.kernel", "out_type")
        return False
    return gpu is not None


def triton() -> Any:
    """The module of Pallas for Triton."""
    return importlib.import_module("jax.experimental.pallas.triton")


def mosaic() -> Any:
    """The module of Pallas for Mosaic GPU."""
    return importlib.import_module("jax.experimental.pallas.mosaic_gpu")


def _backend(name: str, needed: tuple[str, ...]) -> Any:
    """A backend of Pallas, or None where JAX lacks it or one of the needed names in it."""
    name = f"jax.experimental.pallas.{name}"
    try:
        module = importlib.import_module(name)
    except ImportError:
        _warn_once("jax", name)
        return None
    missing = [each for each in needed if not hasattr(module, each)]
    if missing:
        _warn_once(name, ", ".join(missing))
        return None
    return module


@functools.cache
def _warn_once(where: str, missing: str) -> None:
    log.warning("%s of jax %s lacks %s; plain XLA is used instead", where, jax.__version__, missing)


def triton_call(kernel: Callable, *, warps: int, stages: int = 1, **arguments: Any) -> Callable:
    """`pl.pallas_call` by Triton, or in interpret mode.

    Args:
        kernel: Body of the kernel.
        warps: Number of warps of a block.
        stages: Number of loads that a loop has in flight.
        arguments: Further arguments of `pl.pallas_call`.
    """
    from jax.experimental import pallas as pl

    params = triton().CompilerParams(num_warps=warps, num_stages=stages)
    return pl.pallas_call(kernel, compiler_params=params, interpret=interpreting(), **arguments)


def mosaic_call(
    kernel: Callable,
    *,
    grid: dict[str, int],
    warp_groups: int,
    cluster: int | None = None,
    **arguments: Any,
) -> Callable:
    """`mosaic_gpu.kernel`, or the same in interpret mode.

    Args:
        kernel: Body of the kernel; its warp groups are numbered along the axis "warp_group".
        grid: Size of each grid axis, by its name.
        warp_groups: Number of warp groups of a block.
        cluster: Number of blocks of a cluster, along the axis "cluster"; None for no clusters.
        arguments: Further arguments of `mosaic_gpu.kernel`.
    """
    if cluster is not None:
        arguments |= {"cluster": (cluster,), "cluster_names": ("cluster",)}
    return mosaic().kernel(
        kernel,
        grid=tuple(grid.values()),
        grid_names=tuple(grid),
        num_threads=warp_groups,
        thread_name="warp_group",
        compiler_params=mosaic().CompilerParams(approx_math=True),
        interpret=_mosaic_interpreter() if interpreting() else None,
        **arguments,
    )


def _mosaic_interpreter() -> Any:
    if hasattr(mosaic(), "InterpretGPUParams"):  # public since jax 0.11
        return mosaic().InterpretGPUParams()
    from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams

    return InterpretGPUParams()


def register_layout() -> tuple[Callable, Callable]:
    """How a Mosaic kernel makes arrays that lie in registers as the results of products do.

    Returns:
        `layout_cast(x, layout)` and `broadcasted_iota(dtype, shape, dimension)`. In interpret mode
        there are no layouts.
    """
    if interpreting():
        return lambda x, layout: x, lax.broadcasted_iota
    gpu = mosaic()
    return gpu.layout_cast, functools.partial(gpu.broadcasted_iota, layout=gpu.Layout.WGMMA)


def load_columns(ref: Any) -> jax.Array:
    """Within a Mosaic kernel, loads a vector, laid out in registers as the columns of a product are."""
    if interpreting():
        return ref[...]
    gpu = mosaic()
    # Until jax 0.10, `load` took an index after the reference.
    index = inspect.signature(gpu.load).parameters.get("idx")
    indices = ((),) if index is not None and index.default is inspect.Parameter.empty else ()
    return gpu.load(ref, *indices, layout=gpu.Layout.WGMMA.reduce(0), optimized=False)


def tiled_smem(dtype: Any, *shape: int, swizzle: int = 128) -> Any:
    """Shared memory for operands and results of products.

    Args:
        dtype: Data type.
        shape: Shape; its last axis is a multiple of `swizzle` bytes.
        swizzle: Bytes of a row within which 16-byte units are swizzled: 32, 64 or 128.
    """
    gpu = mosaic()
    tiling = gpu.TilingTransform((8, swizzle // jnp.dtype(dtype).itemsize))
    return gpu.SMEM(shape, dtype, transforms=(tiling, gpu.SwizzleTransform(swizzle)))


def wgmma_scores(
    queries: Any, keys: Any, slot: Any, after_issue: Callable[[], None] = lambda: None
) -> jax.Array:
    """Within a Mosaic kernel, products of queries with the keys of a slot, float32 [GROUP, N].

    Args:
        queries: [GROUP, D] in shared memory.
        keys: [slots, N, D] in shared memory.
        slot: Which of the slots.
        after_issue: Called once the products are issued, before they are awaited.
    """
    from jax.experimental import pallas as pl

    if interpreting():
        scores = jnp.dot(queries[...], keys[slot].T, preferred_element_type=jnp.float32)
        after_issue()
        return scores

    def multiply(acc_ref: Any) -> jax.Array:
        mosaic().wgmma(acc_ref, queries, keys.at[slot].transpose((1, 0)))
        after_issue()
        return acc_ref[...]

    return pl.run_scoped(multiply, mosaic().ACC((GROUP, keys.shape[1]), jnp.float32))


def wgmma_accumulate(
    acc: jax.Array,
    weights: jax.Array,
    values: Any,
    slot: Any,
    after_issue: Callable[[], None] = lambda: None,
) -> jax.Array:
    """Within a Mosaic kernel, acc + weights @ values of a slot, float32 [GROUP, D].

    Args:
        acc: float32 [GROUP, D].
        weights: [GROUP, N], in the dtype of `values`.
        values: [slots, N, D] in shared memory.
        slot: Which of the slots.
        after_issue: Called once the products are issued, before they are awaited.
    """
    from jax.experimental import pallas as pl

    if interpreting():
        acc += jnp.dot(weights, values[slot], preferred_element_type=jnp.float32)
        after_issue()
        return acc

    def multiply(acc_ref: Any) -> None:
        mosaic().wgmma(acc_ref, weights, values.at[slot])
        after_issue()

    return pl.run_state(multiply)(mosaic().ACC.init(acc))
