"""The hooks of the training loop: the points at which they act, and what they share with the loop.

The loop calls every method on all hooks of one list, so the order of the list is the order of effects.
`train.operations` has the hooks of every run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax

from livecc_jax.data.rows.pipeline import Batch
from livecc_jax.model.qwen2_vl import Params
from livecc_jax.train.config import Config
from livecc_jax.train.state import State

# Maps (parameters, poll) to metrics by name, or to None when `poll` returned true: stop now.
Evaluator = Callable[[Params, Callable[[], bool]], dict[str, float] | None]


class Hook:
    """The points of the loop at which a hook can act; each method does nothing by default."""

    def before_batch(self, step: int) -> None:
        """Called before the loop waits for the rows of a step."""

    def after_batch(self, step: int, batch: Batch) -> None:
        """Called when the rows of a step are there, as NumPy arrays of this process."""

    def before_step(self, step: int) -> None:
        """Called before the rows are sharded and the step is dispatched."""

    def after_dispatch(self, step: int, batch: Batch) -> None:
        """Called when a step was dispatched to the devices, while they work on it."""

    def after_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Called when a step is done and its metrics are on the host.

        Usually this is after the next step was dispatched.
        """

    def after_step(self, step: int) -> None:
        """Called at the end of the loop's body."""

    def after_run(self) -> None:
        """Called after the last step."""


class HookList(Hook):
    """Calls every hook of a list, in its order."""

    def __init__(self, hooks: Sequence[Hook]) -> None:
        self._hooks = hooks

    def before_batch(self, step: int) -> None:
        for hook in self._hooks:
            hook.before_batch(step)

    def after_batch(self, step: int, batch: Batch) -> None:
        for hook in self._hooks:
            hook.after_batch(step, batch)

    def before_step(self, step: int) -> None:
        for hook in self._hooks:
            hook.before_step(step)

    def after_dispatch(self, step: int, batch: Batch) -> None:
        for hook in self._hooks:
            hook.after_dispatch(step, batch)

    def after_metrics(self, step: int, metrics: dict[str, float]) -> None:
        for hook in self._hooks:
            hook.after_metrics(step, metrics)

    def after_step(self, step: int) -> None:
        for hook in self._hooks:
            hook.after_step(step)

    def after_run(self) -> None:
        for hook in self._hooks:
            hook.after_run()


@dataclass
class LoopState:
    """What the loop and its hooks share.

    Attributes:
        state: Parameters, optimizer state and guard state after `step`.
        step: The last step that was dispatched.
        steps: Number of steps of the run.
        pending: (step, metrics on the devices) of the step whose metrics have not been read.
        stop: Whether the run is to save and stop after this step.
    """

    state: State
    step: int
    steps: int
    pending: tuple[int, dict[str, jax.Array]] | None = None
    stop: bool = False

    def devices_idle(self) -> bool:
        """Returns whether the devices have finished every step that was dispatched."""
        return self.pending is None or self.pending[1]["loss"].is_ready()

    def saves(self, config: Config, step: int) -> bool:
        """Returns whether a checkpoint is due after this step."""
        every = config.checkpoint.every
        return step == self.steps or bool(every and step % every == 0)

    def evaluates(self, config: Config, step: int) -> bool:
        """Returns whether an evaluation is due after this step."""
        every = config.evaluate.every
        if not every:
            return self.saves(config, step)
        return step == self.steps or step % every == 0
