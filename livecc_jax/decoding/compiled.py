"""Compiling the calls of a turn as each platform runs them best."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

# CUDA graphs. By default XLA makes graphs of what is within a loop and has the host start each round,
# which for one token at a time is a few percent of a turn; with WHILE the loop is in the graph.
_KINDS = "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,DYNAMIC_SLICE_FUSION,WHILE,CONDITIONAL"
# Rematerialisation takes a donated pool for twice its size, and computes again what there is room for
# (8 of a tick's 112 products of 48 streams of 7B); what does not fit says so without it too.
ON_GPU = {"xla_gpu_enable_command_buffer": _KINDS, "xla_gpu_memory_limit_slop_factor": "200"}


class Compiled:
    """`jax.jit` with compiler options for GPUs, decided at the first use; else like what it returns.

    Args:
        function: what to compile.
        gpu: compiler options where the default backend is a GPU.
        options: of `jax.jit`.
    """

    def __init__(self, function: Callable[..., Any], gpu: dict[str, str], **options: Any) -> None:
        self._function, self._gpu, self._options = function, gpu, options
        functools.update_wrapper(self, function)

    @functools.cached_property
    def _jitted(self) -> Any:
        gpu = self._gpu if jax.default_backend() == "gpu" else None
        return jax.jit(self._function, compiler_options=gpu, **self._options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As of a jitted function."""
        return self._jitted(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_options" not in self.__dict__:
            raise AttributeError(name)  # whoever only looks around starts no backend
        return getattr(self._jitted, name)
