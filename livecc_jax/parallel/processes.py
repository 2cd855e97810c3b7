"""Runs several processes as one: initializes `jax.distributed` and exchanges small host values."""

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

COORDINATOR = "JAX_COORDINATOR_ADDRESS"
PROCESS_COUNT, PROCESS_INDEX = "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
HEARTBEAT_TIMEOUT_SECONDS = 100  # after so long without a heartbeat a process is lost, and all end
BARRIER_TIMEOUT_SECONDS = 30 * 24 * 3600  # processes that are alive are waited for


def initialize_processes(heartbeat_timeout_seconds: int = HEARTBEAT_TIMEOUT_SECONDS) -> None:
    """Connects this process to the other processes of its run, if there are any.

    Must be called before anything else uses JAX. On TPU slices and under Slurm or MPI, JAX finds the
    other processes itself. Elsewhere, on CPUs and GPUs, JAX_COORDINATOR_ADDRESS (host:port of process
    0), JAX_NUM_PROCESSES and JAX_PROCESS_ID describe them. Without either, the process runs alone.

    Args:
        heartbeat_timeout_seconds: Time without a heartbeat after which a process counts as lost and
            all other processes end.

    Raises:
        ConfigError: Some of the variables are missing or wrong, or the others cannot be reached.
    """
    if jax.distributed.is_initialized():
        return
    environment = {v: os.environ.get(v) for v in (COORDINATOR, PROCESS_COUNT, PROCESS_INDEX)}
    configured = any(environment[v] is not None for v in (PROCESS_COUNT, PROCESS_INDEX))
    if not configured and os.environ.get("JAX_PLATFORMS") == "cpu":
        return  # there is no cluster to detect, and detection may use the network
    try:
        if configured:
            jax.distributed.initialize(
                *_parse_environment(environment),
                cluster_detection_method="deactivate",
                heartbeat_timeout_seconds=heartbeat_timeout_seconds,
            )
        else:
            jax.distributed.initialize(heartbeat_timeout_seconds=heartbeat_timeout_seconds)
    except ValueError as error:
        if configured:
            raise ConfigError(f"{COORDINATOR}, {PROCESS_COUNT}, {PROCESS_INDEX}: {error}") from error
        return  # JAX has detected no cluster
    except RuntimeError as error:
        if not configured and "before any JAX" in str(error):
            return  # a single process that has used JAX already
        reason = str(error).strip().split("\n")[0][:300]
        raise ConfigError(f"the run's processes cannot find each other: {reason}") from error
    log.info("process %d of %d", jax.process_index(), jax.process_count())


def _parse_environment(environment: dict[str, str | None]) -> tuple[str, int, int]:
    """Returns (coordinator address, number of processes, index of this process).

    Raises ConfigError naming the variable that is missing or wrong.
    """
    missing = [name for name, value in environment.items() if not value]
    if missing:
        raise ConfigError(
            f"the environment sets no {', '.join(missing)}, but some of {COORDINATOR}, "
            f"{PROCESS_COUNT} and {PROCESS_INDEX}"
        )
    count_text, index_text = environment[PROCESS_COUNT], environment[PROCESS_INDEX]
    try:
        count, index = int(count_text or ""), int(index_text or "")
    except ValueError:
        raise ConfigError(
            f"{PROCESS_COUNT} and {PROCESS_INDEX} must be numbers, "
            f"not {count_text!r} and {index_text!r}"
        ) from None
    if not 0 <= index < count:
        raise ConfigError(f"{PROCESS_INDEX} is {index}, but {PROCESS_COUNT} is {count}")
    return environment[COORDINATOR] or "", count, index


def is_main_process() -> bool:
    """Returns whether this is the process that writes files and prints for the whole run."""
    return jax.process_index() == 0


def other_process_count() -> int:
    """Returns the number of processes besides this one."""
    return jax.process_count() - 1


def all_processes_agree(condition: bool) -> bool:
    """Returns whether the condition is true in every process. Every process must call this."""
    if jax.process_count() == 1:
        return condition
    return bool(np.all(multihost_utils.process_allgather(np.array(condition))))


def gather_json(value: Any) -> list[Any]:
    """Returns the JSON values of all processes, in their order. Every process must call this."""
    if jax.process_count() == 1:
        return [value]
    encoded = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.array(len(encoded)))).ravel()
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: len(encoded)] = encoded
    texts = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(sizes), -1)
    return [json.loads(bytes(text[:size])) for text, size in zip(texts, sizes)]


def broadcast_from_main(value: Any) -> Any:
    """Returns the JSON value of the main process in every process. Every process must call this."""
    return gather_json(value)[0]


def wait_for_all_processes(barrier: str) -> None:
    """Waits until every process has reached the barrier, however late the slowest one is.

    A collective would wait too, but it times out when a process is minutes late. If a process dies
    meanwhile, all of them end.

    Args:
        barrier: Name of the barrier. Each name can be used once.
    """
    if jax.process_count() == 1:
        return
    from jax._src.distributed import global_state  # as orbax does: there is no public API

    global_state.client.wait_at_barrier(barrier, timeout_in_ms=BARRIER_TIMEOUT_SECONDS * 1000)


def exit_immediately(code: int) -> NoReturn:
    """Ends this process at once because of an error.

    An ordinary exit would wait for the other processes while they wait for this one in a collective.
    They notice the missing heartbeats instead, and end too.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
