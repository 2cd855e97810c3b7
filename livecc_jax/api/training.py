"""Trains a model from a config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from livecc_jax.evaluate.in_training import make_evaluators
from livecc_jax.parallel.processes import initialize_processes, is_main_process
from livecc_jax.train.config import Config, load_config
from livecc_jax.train.loop import train
from livecc_jax.train.metrics import Progress
from livecc_jax.train.overrides import replace_fields


def train_model(
    config: Config | str | Path,
    changes: Mapping[str, Any] | None = None,
    report: Callable[[Progress], None] | None = None,
) -> Path:
    """Trains to the end: from the start, or from the newest checkpoint of the run.

    Every process of a run calls it; on TPU slices and under Slurm or MPI they find each other.

    Args:
        config: A config, a Python file that defines `config`, or the name of a shipped config, such as
            "pretrain_7b".
        changes: Values of fields, by names such as "optim.learning_rate".
        report: Called, in the main process, with the metrics of every `log_every`-th step and the last:
            `step`, `steps`, `loss`, `tokens_per_second`, `mfu`, ...

    Returns:
        The run directory, which `open_model` opens.

    Raises:
        ConfigError: The config cannot work, or contradicts the run that it resumes.
        CheckpointError, DataError, TokenizerError: A file that the config names cannot be used.
        Diverged: A step was harmful and the policy is to stop.
        Preempted: The run received SIGTERM and has saved; call again to continue.
        OutputError: The disk is full, or a file of the run cannot be written for another reason.

    Example:
        >>> run = livecc_jax.train_model(
        ...     "demo", {"run": "runs/mine", "data.index": "index", "optim.learning_rate": 1e-4}
        ... )
        >>> model = livecc_jax.open_model(run)
    """
    config = config if isinstance(config, Config) else load_config(config)
    config = replace_fields(config, changes or {})
    initialize_processes()
    return train(config, report if is_main_process() else None, make_evaluators)
