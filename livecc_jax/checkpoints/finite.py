"""Finds weights that are not numbers, and numbers that another dtype cannot hold, and names them.

Such weights make every answer rubbish, so a checkpoint that has them is refused when it is loaded or
converted. The largest magnitude of an array is found among its bits, as integers: NaN is above
infinity, which is above every number.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from livecc_jax.checkpoints.hf_tensors import group_layers
from livecc_jax.errors import CheckpointError

CHUNK = 1 << 20  # values looked at together, so that they stay in the processor's cache
MAX_NAMED = 5  # tensors, or groups of layers, that a message names
# Dtypes of a wider range, which a message suggests in this order.
WIDER = ("bfloat16", "float32")


def cast(values: np.ndarray, dtype: np.dtype, name: str, where: Path | str) -> np.ndarray:
    """Returns values in another dtype.

    Args:
        values: A weight, of any float dtype.
        dtype: The dtype to cast to.
        name: Name of the tensor.
        where: The checkpoint, for error messages.

    Raises:
        CheckpointError: The tensor holds NaN or infinity, or a number that the dtype cannot hold.
    """
    check = ValueCheck(where)
    check.see(name, values, dtype)
    check.raise_problems()
    return quiet_cast(values, dtype)


def quiet_cast(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Returns values in another dtype, without numpy's warning about those that overflow."""
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(dtype, copy=False)


class ValueCheck:
    """Collects which tensors cannot be used while threads read them.

    Args:
        where: The checkpoint, for error messages.
    """

    def __init__(self, where: Path | str) -> None:
        self._where = where
        self._lock = threading.Lock()
        self._problems: dict[str, tuple[float, np.dtype]] = {}  # name: (largest magnitude, dtype)

    def see(self, name: str, values: np.ndarray, dtype: np.dtype) -> None:
        """Look at values of a tensor, or at some of its rows, that will be cast to a dtype."""
        largest = largest_magnitude(values)
        if math.isfinite(largest) and _fits(largest, values.dtype, dtype):
            return
        with self._lock:
            before = self._problems.get(name, (0.0, dtype))[0]
            self._problems[name] = (_larger(before, largest), dtype)

    def raise_problems(self) -> None:
        """Raises CheckpointError, naming the tensors, if some cannot be used."""
        if not self._problems:
            return
        phrases = group_layers(_phrase(name, *problem) for name, problem in self._problems.items())
        more = f" and {len(phrases) - MAX_NAMED} more" if len(phrases) > MAX_NAMED else ""
        advice = ""
        too_large = [largest for largest, _ in self._problems.values() if math.isfinite(largest)]
        if too_large:
            double = np.dtype(np.float64)
            wider = [w for w in WIDER if _fits(max(too_large), double, jnp.dtype(w))]
            advice = f"; {wider[0]} holds it" if wider else ""
        raise CheckpointError(f"{self._where}: {', '.join(phrases[:MAX_NAMED])}{more}{advice}")


def largest_magnitude(values: np.ndarray) -> float:
    """Returns the largest absolute value of a float array: NaN if it holds NaN, 0 if it is empty."""
    bits = f"uint{8 * values.dtype.itemsize}"
    flat = np.ascontiguousarray(values).reshape(-1).view(bits)
    magnitude = np.array(np.iinfo(bits).max >> 1, bits)  # all bits but the sign
    peak = max(
        (int((flat[i : i + CHUNK] & magnitude).max()) for i in range(0, flat.size, CHUNK)), default=0
    )
    return float(np.array(peak, bits).view(values.dtype))


def not_finite(arrays: Mapping[str, Any]) -> list[str]:
    """Returns the names of those arrays that hold NaN or infinity.

    Args:
        arrays: numpy arrays, or jax arrays; of arrays on several processes' CPUs each process looks at
            its own part, on other devices all processes see the same.
    """
    on_host = {name: parts for name, x in arrays.items() if (parts := _host_parts(x)) is not None}
    bad = {
        name
        for name, parts in on_host.items()
        if not all(math.isfinite(largest_magnitude(part)) for part in parts)
    }
    rest = {name: x for name, x in arrays.items() if name not in on_host}
    if rest:
        flags = _finite_flags(rest)
        bad |= {name for name, finite in flags.items() if not bool(finite)}
    return [name for name in arrays if name in bad]


@jax.jit
def _finite_flags(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {name: jnp.isfinite(x).all() for name, x in arrays.items()}


def _host_parts(x: Any) -> list[np.ndarray] | None:
    """Returns the parts of an array that lie in this process's memory; None if on an accelerator."""
    if isinstance(x, np.ndarray):
        return [x]
    if any(device.platform != "cpu" for device in x.sharding.device_set):
        return None
    return [np.asarray(shard.data) for shard in x.addressable_shards if shard.replica_id == 0]


def _fits(largest: float, stored: np.dtype, dtype: np.dtype) -> bool:
    if np.dtype(stored) == np.dtype(dtype):
        return True
    # Rounding keeps the order of numbers, so the largest one decides for all.
    return bool(np.isfinite(quiet_cast(np.array(largest, stored), dtype).astype(np.float64)))


def _larger(a: float, b: float) -> float:
    return math.nan if math.isnan(a) or math.isnan(b) else max(a, b)


def _phrase(name: str, largest: float, dtype: np.dtype) -> str:
    if math.isnan(largest):
        return f"{name} holds NaN"
    if math.isinf(largest):
        return f"{name} holds infinity"
    limit = float(jnp.finfo(dtype).max)
    return f"the largest value of {name} is {largest:.6g}, more than {dtype} holds ({limit:.6g})"
