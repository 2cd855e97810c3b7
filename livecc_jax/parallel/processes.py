"""Several processes as one run: starting them, and what they tell each other."""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from livecc_jax.errors import ConfigError

log = logging.getLogger(__name__)

COORDINATOR, COUNT, NUMBER = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
HEARTBEAT = 100  # seconds without a sign of life after which a process counts as lost, and all end
PATIENCE = 30 * 24 * 3600  # seconds to wait for processes that are alive


def start_processes() -> None:
    """Join the run's other processes, if there are any; before anything else of jax.

    On TPU slices (and under Slurm or MPI) jax finds the others itself. Elsewhere, on CPUs and GPUs,
    JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID say who
    they are. Without either, the process is alone.

    Raises:
        ConfigError: some of the variables are missing or wrong, or the others cannot be reached.
    """
    if jax.distributed.is_initialized():
        return
    given = {name: os.environ.get(name) for name in (COORDINATOR, COUNT, NUMBER)}
    named = any(v is not None for v in (given[COUNT], given[NUMBER]))
    if not named and os.environ.get("JAX_PLATFORMS") == "cpu":
        return  # there is nothing to find, and looking can mean asking the network
    try:
        if named:
            jax.distributed.initialize(
                *_told(given),
                cluster_detection_method="deactivate",
                heartbeat_timeout_seconds=HEARTBEAT,
            )
        else:
            jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT)
    except ValueError as error:
        if named:
            raise ConfigError(f"{COORDINATOR}, {COUNT}, {NUMBER}: {error}") from error
        return  # jax has found no cluster
    except RuntimeError as error:
        if not named and "before any JAX" in str(error):
            return  # a program that has used jax already, alone
        reason = str(error).strip().split("\n")[0][:300]
        raise ConfigError(f"the run's processes cannot find each other: {reason}") from error
    log.info("process %d of %d", jax.process_index(), jax.process_count())


def _told(given: dict[str, str | None]) -> tuple[str, int, int]:
    """(coordinator, number of processes, this one). Raises ConfigError naming the variable."""
    missing = [name for name, value in given.items() if not value]
    if missing:
        raise ConfigError(f"the environment sets no {', '.join(missing)}, but the other of these three")
    try:
        count, number = int(given[COUNT] or ""), int(given[NUMBER] or "")
    except ValueError:
        raise ConfigError(
            f"{COUNT} and {NUMBER} must be numbers, not {given[COUNT]!r} and {given[NUMBER]!r}"
        ) from None
    if not 0 <= number < count:
        raise ConfigError(f"{NUMBER} is {number}, but {COUNT} is {count}")
    return given[COORDINATOR] or "", count, number


def is_first() -> bool:
    """Whether this is the process that writes what one process writes."""
    return jax.process_index() == 0


def others() -> int:
    """How many processes there are besides this one."""
    return jax.process_count() - 1


def all_agree(good: bool) -> bool:
    """Whether it is true in every process. Every process must call it."""
    if jax.process_count() == 1:
        return good
    return bool(np.all(multihost_utils.process_allgather(np.array(good))))


def gather(value: Any) -> list[Any]:
    """Every process's JSON value, in the order of the processes. Every process must call it."""
    if jax.process_count() == 1:
        return [value]
    mine = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.array(len(mine)))).ravel()
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: len(mine)] = mine
    texts = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(sizes), -1)
    return [json.loads(bytes(text[:size])) for text, size in zip(texts, sizes)]


def from_first(value: Any) -> Any:
    """The first process's JSON value, in all of them. Every process must call it."""
    return gather(value)[0]


def wait_for_all(what: str) -> None:
    """Wait until every process is here, however long the slowest takes; each `what` once.

    A collective would do it too, but those lose patience with a process that is minutes late. Who dies
    meanwhile ends all of them.
    """
    if jax.process_count() == 1:
        return
    from jax._src.distributed import global_state  # as orbax does: there is no public way to it

    global_state.client.wait_at_barrier(what, timeout_in_ms=PATIENCE * 1000)


def leave(code: int) -> NoReturn:
    """End this process at once, because of an error.

    An ordinary exit would wait for the other processes, and they for this one's part of the step; so
    they learn of it by its silence, and end too.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
