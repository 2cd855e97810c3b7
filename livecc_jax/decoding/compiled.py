"""`jax.jit` for the calls of a turn, with compiler options that suit each platform."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax

# Operations that XLA records into CUDA graphs. By default it records only the body of a loop and the
# host starts each iteration, which for one token at a time costs a few percent of a turn. With WHILE
# the loop itself is in the graph.
_CUDA_GRAPH_OPERATIONS = (
    "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,DYNAMIC_SLICE_FUSION,WHILE,CONDITIONAL"
)
# The slop factor switches rematerialization off: it counts a donated cache twice, and then recomputes
# what there is memory for (8 of the 112 products of an engine step of 48 streams of 7B). A program that
# does not fit is reported without it too.
GPU_COMPILER_OPTIONS = {
    "xla_gpu_enable_command_buffer": _CUDA_GRAPH_OPERATIONS,
    "xla_gpu_memory_limit_slop_factor": "200",
}


class JitWithGpuOptions:
    """`jax.jit` whose compiler options apply only on GPUs, decided at the first use.

    It behaves like the function that `jax.jit` returns. Creating one initializes no backend.

    Args:
        function: The function to compile.
        gpu_options: Compiler options to use where the default backend is a GPU.
        jit_options: Further arguments of `jax.jit`.
    """

    def __init__(
        self, function: Callable[..., Any], gpu_options: dict[str, str], **jit_options: Any
    ) -> None:
        self._function, self._gpu_options, self._jit_options = function, gpu_options, jit_options
        functools.update_wrapper(self, function)

    @functools.cached_property
    def _jitted(self) -> Any:
        options = self._gpu_options if jax.default_backend() == "gpu" else None
        return jax.jit(self._function, compiler_options=options, **self._jit_options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the compiled function."""
        return self._jitted(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        # Tools that inspect objects ask for dunder attributes, which must not initialize a backend.
        if name.startswith("__") or "_jit_options" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self._jitted, name)
