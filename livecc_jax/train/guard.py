"""The guard: refuses the update of a harmful step, whose loss or gradient is not finite or whose loss
jumps.

The verdict is computed on the devices as part of the step. With the policy "skip" the step also refuses
the update, which takes memory for the old state. With "stop" the host ends the run when it reads the
verdict, one step later; no checkpoint is saved before the verdicts of its steps are read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from livecc_jax.data.rows.pipeline import RowSource
from livecc_jax.errors import LiveCCError
from livecc_jax.redact import displayable
from livecc_jax.train.config import GuardConfig
from livecc_jax.writing import RecordFile

VERDICTS = ("good", "nan", "spike")

Step = Callable[[dict[str, Any], Any], tuple[dict[str, Any], dict[str, jax.Array]]]


class Diverged(LiveCCError):
    """The loss or gradient of a step is not finite or the loss jumped, and the policy is to stop."""


def init_guard_state(config: GuardConfig, mesh: Mesh, saved: dict[str, Any] | None = None) -> Any:
    """Returns the guard's part of the training state, replicated over the mesh.

    Args:
        config: Its `window` is the number of recent losses in the state.
        mesh: The device mesh of the run.
        saved: The result of `guard_state_to_json` in the checkpoint that the run resumes from.
    """
    recent = np.array((saved or {}).get("losses", []), np.float32)[-config.window :]
    losses = np.full(config.window, np.nan, np.float32)
    losses[config.window - len(recent) :] = recent
    state = {
        "losses": losses,
        "refused": np.array((saved or {}).get("refused", 0), np.int32),
    }
    replicated = NamedSharding(mesh, PartitionSpec())
    return jax.jit(lambda: jax.tree.map(jnp.asarray, state), out_shardings=replicated)()


def guard_state_to_json(guard: Any) -> dict[str, Any]:
    """Returns the guard's state for the meta of a checkpoint."""
    losses = np.asarray(guard["losses"])
    return {"losses": losses[np.isfinite(losses)].tolist(), "refused": int(guard["refused"])}


def guard_step(step: Step, config: GuardConfig) -> Step:
    """Wraps a step so that its update is refused when the policy says so.

    Args:
        step: Function from (state, batch) to (state, metrics), with metrics `loss` and `grad_norm`.
        config: The policies.

    Returns:
        A step whose state has a part `guard` (`init_guard_state`) and whose metrics also have `verdict`
        (an index into VERDICTS), `limit` (the loss above which a step is a spike; infinite until
        `window` losses are known) and `refused` (the number of consecutive refused updates).
    """

    def run(state: dict[str, Any], batch: Any) -> tuple[dict[str, Any], dict[str, jax.Array]]:
        guard = state["guard"]
        old = {k: v for k, v in state.items() if k != "guard"}
        new, metrics = step(old, batch)
        loss = metrics["loss"].astype(jnp.float32)
        not_finite = ~(jnp.isfinite(loss) & jnp.isfinite(metrics["grad_norm"]))
        window_full = jnp.all(jnp.isfinite(guard["losses"]))
        limit = jnp.where(window_full, config.factor * _median(guard["losses"]), jnp.inf)
        spike = ~not_finite & (loss > limit) & (config.spike != "ignore")

        refuse = (not_finite & (config.nan == "skip")) | (spike & (config.spike == "skip"))
        if "skip" in (config.nan, config.spike):
            new = jax.tree.map(lambda n, o: jnp.where(refuse, o, n), new, old)
        shifted = jnp.concatenate([guard["losses"][1:], loss[None]])
        refused = jnp.where(refuse, guard["refused"] + 1, 0)
        new["guard"] = {
            "losses": jnp.where(refuse | not_finite, guard["losses"], shifted),
            "refused": refused,
        }
        verdict = jnp.where(not_finite, 1, jnp.where(spike, 2, 0))
        return new, metrics | {"verdict": verdict, "limit": limit, "refused": refused}

    return run


def _median(x: jax.Array) -> jax.Array:
    """Returns the median of a short vector [N] by counting ranks; a sort takes seconds to compile."""
    index = jnp.arange(len(x))
    before = (x < x[:, None]) | ((x == x[:, None]) & (index < index[:, None]))
    rank = jnp.sum(before, axis=1)

    def value_at(r: int) -> jax.Array:
        return jnp.sum(jnp.where(rank == r, x, 0.0))

    return (value_at((len(x) - 1) // 2) + value_at(len(x) // 2)) / 2


def describe_anomaly(values: dict[str, float]) -> str:
    """Returns a clause about what was wrong with a step, from its metrics on the host."""
    if VERDICTS[int(values["verdict"])] == "spike":
        return f"the loss is {values['loss']:.4g}, more than {values['limit']:.4g}"
    return f"the loss is {values['loss']:.4g} and the gradient's norm {values['grad_norm']:.4g}"


def record_anomaly(
    path: Path, step: int, values: dict[str, float], policy: str, source: RowSource, rows: range
) -> None:
    """Appends a step whose verdict is not "good" to a JSON lines file.

    Args:
        path: The file.
        step: Number of the step.
        values: Metrics of the step on the host.
        policy: What was done about it.
        source: The rows of the run.
        rows: Numbers of the rows of the step.

    Raises:
        OutputError: The file cannot be written.
    """
    numbers = sorted({int(n) for i in rows if i < len(source) for n in source.packing.row(i)})
    examples = []
    for number in numbers:
        file, line = source.mixture.location(number)
        file = displayable(file)
        examples.append({"example": number, "annotations": file, "line": line})

    def json_number(value: float) -> float | str:  # JSON has no NaN
        return value if math.isfinite(value) else str(value)

    entry = {
        "step": step,
        "what": VERDICTS[int(values["verdict"])],
        "policy": policy,
        "loss": json_number(values["loss"]),
        "grad_norm": json_number(values["grad_norm"]),
        "limit": json_number(values["limit"]),
        "rows": [rows.start, rows.stop],
        "examples": examples,
    }
    with RecordFile(path, append=True) as file:
        file.write(json.dumps(entry, ensure_ascii=False) + "\n")
