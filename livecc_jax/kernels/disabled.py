"""The switch that turns kernels off, so that what each saves can be measured, and a broken one avoided.

with kernels.without("fused_norm"):
    tokens = jax.jit(decode)(...)  # plain XLA takes the place of fused_norm
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import jax

# What can be turned off by itself.
NAMES = (
    "flash_decode",
    "flash_prefill",
    "flash_vision",
    "fused_gemm",
    "fused_norm",
    "gemv",
    "merge_partials",
    "rotate_and_write",
)

# A context that JAX's caches of traced and compiled functions know of: a function that was compiled
# outside of `without` is traced again within it.
_DISABLED = jax.make_user_context(default_value=())


def without(*names: str) -> AbstractContextManager[None]:
    """Makes `is_supported` of these kernels say no within the context, so that plain XLA serves.

    Args:
        names: Any of `NAMES`. They replace those of an outer `without`.

    Raises:
        ValueError: A name is none of `NAMES`.
    """
    if unknown := sorted(set(names) - set(NAMES)):
        raise ValueError(f"no kernel is called {', '.join(unknown)}; there are {', '.join(NAMES)}")
    return _DISABLED(tuple(sorted(set(names))))


def enabled(name: str) -> bool:
    """Whether the kernel of this name may serve programs that are traced now."""
    return name not in _DISABLED.value
