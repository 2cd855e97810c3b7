"""The switch under which kernels run in Pallas interpret mode on any device, for tests.

    with kernels.interpreted():
        tokens = jax.jit(decode)(...)  # kernels serve wherever shapes allow it, also on a CPU

Interpret mode is slow: use small shapes.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import jax

# A context that JAX's caches of traced and compiled functions know of: a function that was compiled
# outside of `interpreted` is traced again within it.
_INTERPRETED = jax.make_user_context(default_value=False)


def interpreted() -> AbstractContextManager[None]:
    """Makes kernels run in Pallas interpret mode within the context, on any device.

    There, `is_supported` of each kernel says yes for every shape that the kernel can compute, whatever
    the device is and whether or not the kernel would pay on a GPU, and float32 is accepted wherever
    half precision is. The interpreted GPU has two multiprocessors. On a mesh only Triton kernels are
    interpreted; the interpreter of Mosaic simulates one GPU at a time.
    """
    return _INTERPRETED(True)


def interpreting() -> bool:
    """Whether kernels that are traced now run in Pallas interpret mode."""
    return _INTERPRETED.value
