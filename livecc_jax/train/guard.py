"""Steps that would harm the run: a loss or gradient that is no number, or a loss that jumps.

The step itself judges, on the devices. With the policy "skip" it also refuses the update, which never
touches the parameters then; that takes memory, so with "stop" the host ends the run when it reads the
verdict, a step later, and nothing is saved before a verdict is read.
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
from livecc_jax.train.config import GuardConfig

POLICIES = ("ignore", "skip", "stop")
VERDICTS = ("good", "nan", "spike")

Step = Callable[[dict[str, Any], Any], tuple[dict[str, Any], dict[str, jax.Array]]]


class Diverged(LiveCCError):
    """A step's loss or gradient is no number or jumped, and the run is to stop for it."""


def begin_guard(config: GuardConfig, mesh: Mesh, saved: dict[str, Any] | None = None) -> Any:
    """The guard's part of the state, replicated: the last good losses and what was refused lately.

    Args:
        config: its window is how many losses are kept.
        mesh: of the run.
        saved: `guard_json` of the checkpoint that the run goes on from.
    """
    losses = np.array((saved or {}).get("losses", []), np.float32)[-config.window :]
    ring = np.full(config.window, np.nan, np.float32)
    ring[config.window - len(losses) :] = losses
    made = {
        "losses": ring,
        "refused": np.array((saved or {}).get("refused", 0), np.int32),
    }
    place = NamedSharding(mesh, PartitionSpec())
    return jax.jit(lambda: jax.tree.map(jnp.asarray, made), out_shardings=place)()


def guard_json(guard: Any) -> dict[str, Any]:
    """The guard's state for a checkpoint."""
    losses = np.asarray(guard["losses"])
    return {"losses": losses[np.isfinite(losses)].tolist(), "refused": int(guard["refused"])}


def guarded(step: Step, config: GuardConfig) -> Step:
    """A step whose update is refused when the policy says so.

    Args:
        step: (state, batch) -> (state, metrics with `loss` and `grad_norm`).
        config: policies.

    Returns:
        The same, with `guard` in its state (`begin_guard`) and in its metrics `verdict` (an index into
        VERDICTS), `limit` (the loss that would have been a spike; infinite while few losses are known)
        and `refused` (how many updates in a row were).
    """

    def run(state: dict[str, Any], batch: Any) -> tuple[dict[str, Any], dict[str, jax.Array]]:
        guard = state["guard"]
        old = {k: v for k, v in state.items() if k != "guard"}
        new, metrics = step(old, batch)
        loss = metrics["loss"].astype(jnp.float32)
        wrong = ~(jnp.isfinite(loss) & jnp.isfinite(metrics["grad_norm"]))
        known = jnp.all(jnp.isfinite(guard["losses"]))
        limit = jnp.where(known, config.factor * _median(guard["losses"]), jnp.inf)
        spike = ~wrong & (loss > limit) & (config.spike != "ignore")

        refuse = (wrong & (config.nan == "skip")) | (spike & (config.spike == "skip"))
        if "skip" in (config.nan, config.spike):
            new = jax.tree.map(lambda n, o: jnp.where(refuse, o, n), new, old)
        later = jnp.concatenate([guard["losses"][1:], loss[None]])
        refused = jnp.where(refuse, guard["refused"] + 1, 0)
        new["guard"] = {
            "losses": jnp.where(refuse | wrong, guard["losses"], later),
            "refused": refused,
        }
        verdict = jnp.where(wrong, 1, jnp.where(spike, 2, 0))
        return new, metrics | {"verdict": verdict, "limit": limit, "refused": refused}

    return run


def _median(x: jax.Array) -> jax.Array:
    """Of a few numbers, by counting: sorting takes seconds to compile."""
    place = jnp.arange(len(x))
    before = (x < x[:, None]) | ((x == x[:, None]) & (place < place[:, None]))
    rank = jnp.sum(before, axis=1)

    def at(r: int) -> jax.Array:
        return jnp.sum(jnp.where(rank == r, x, 0.0))

    return (at((len(x) - 1) // 2) + at(len(x) // 2)) / 2


def record(
    path: Path, step: int, values: dict[str, float], policy: str, source: RowSource, rows: range
) -> str:
    """Append a step that the guard did not find good to a JSON lines file.

    Args:
        path: the file.
        step: its number.
        values: its metrics on the host.
        policy: what was done.
        source: of the rows.
        rows: their numbers.

    Returns:
        What was wrong, as a clause.
    """
    what = VERDICTS[int(values["verdict"])]
    numbers = sorted({int(n) for i in rows if i < len(source) for n in source.plan.row(i)})
    examples = []
    for number in numbers:
        file, line = source.opened.where(number)
        examples.append({"example": number, "annotations": file, "line": line})

    def plain(value: float) -> float | str:  # JSON has no NaN
        return value if math.isfinite(value) else str(value)

    entry = {
        "step": step,
        "what": what,
        "policy": policy,
        "loss": plain(values["loss"]),
        "grad_norm": plain(values["grad_norm"]),
        "limit": plain(values["limit"]),
        "rows": [rows.start, rows.stop],
        "examples": examples,
    }
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry, ensure_ascii=False) + "\n")
    if what == "spike":
        return f"the loss is {values['loss']:.4g}, more than {values['limit']:.4g}"
    return f"the loss is {values['loss']:.4g} and the gradient's norm {values['grad_norm']:.4g}"
