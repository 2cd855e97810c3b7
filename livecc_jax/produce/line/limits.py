"""What one unit may take before its worker is ended."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Limits:
    """Limits of a worker, so that one video cannot stop or fill a machine.

    Attributes:
        seconds: Seconds that a unit without a model may take.
        model_seconds: Seconds that a unit may take in a stage that runs a model: the first one
            includes loading and compiling it.
        memory_gb: Memory of a worker in GB beyond which it is ended; 0 for no limit.
        model_memory_gb: The same in a phase that runs a model, which a worker may have to hold itself.
        attempts: How often a unit may end its worker, by a signal that is not ours, before it is
            rejected: the system may have chosen the worker when memory was short.
    """

    seconds: float = 300.0
    model_seconds: float = 3600.0
    memory_gb: float = 8.0
    model_memory_gb: float = 0.0
    attempts: int = 2

    def seconds_for(self, stage: str) -> float:
        """Returns the seconds that a unit may spend in a stage."""
        return self.model_seconds if stage in MODEL_STAGES else self.seconds

    def memory_for(self, stages: Iterable[str]) -> float:
        """Returns the GB of memory that a worker may take in a phase of these stages."""
        models = any(stage in MODEL_STAGES for stage in stages)
        return self.model_memory_gb if models else self.memory_gb


MODEL_STAGES = ("text", "faces", "prompts", "speech")
ADDRESS_SPACE_FACTOR = 4  # programs reserve far more addresses than they use: jax, FFmpeg's threads


def limit_address_space(memory_gb: float) -> None:
    """Makes allocations fail that are far beyond the limit, which would come faster than a watcher.

    Args:
        memory_gb: The limit of the memory in use; 0 takes an earlier limit back.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = int(memory_gb * 1e9) * ADDRESS_SPACE_FACTOR if memory_gb else hard
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    if memory_gb and 2 * address_bytes(os.getpid()) > limit:
        return  # a model that this process holds, on a GPU, has mapped more than that already
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def address_bytes(pid: int) -> int:
    """Returns the size of a process's address space; 0 when it cannot be told."""
    return _statm(pid, 0)


def resident_bytes(pid: int) -> int:
    """Returns the memory that a process has in use; 0 when it cannot be told."""
    return _statm(pid, 1)


def _statm(pid: int, field: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[field]) * PAGE
    except (OSError, ValueError, IndexError):
        return 0
