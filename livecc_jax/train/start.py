"""The starting point of a run: random weights, those of a checkpoint, or the newest step of the run."""

from __future__ import annotations

import dataclasses
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from livecc_jax.checkpoints.hf_config import LiveCCBlock
from livecc_jax.checkpoints.open import open_checkpoint
from livecc_jax.checkpoints.run import DAMAGED, RunDirectory, list_steps
from livecc_jax.data.rows.pipeline import RowSource
from livecc_jax.errors import CheckpointError, ConfigError
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.lora import LORA, init_adapters
from livecc_jax.model.presets import fit_vocabulary, preset
from livecc_jax.model.qwen2_vl import Params, init_params
from livecc_jax.parallel.processes import all_processes_agree, broadcast_from_main
from livecc_jax.timeline.positions import check_positions
from livecc_jax.train.config import Config, check_resume, flatten
from livecc_jax.train.optimizer import make_optimizer
from livecc_jax.train.state import (
    State,
    abstract_state,
    abstract_training_params,
    check_trainable,
    init_opt_state,
    master_dtypes,
    param_shardings,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StartingPoint:
    """The architecture and the state that a run starts or resumes from.

    Attributes:
        model: The architecture.
        state: Parameters and optimizer state.
        step: The last step that is done; 0 for a new run.
        meta: The meta of the checkpoint; empty for a new run.
    """

    model: ModelConfig
    state: State
    step: int = 0
    meta: dict[str, Any] = dataclasses.field(default_factory=dict)


def initial_model(config: Config) -> ModelConfig:
    """Returns the architecture that a new run starts with, before its vocabulary is known.

    Raises CheckpointError or ConfigError when the initial weights or the preset cannot be used.
    """
    return open_checkpoint(config.init).config if config.init else preset(config.preset)


def check_rows_fit(model: ModelConfig, source: RowSource, positions: str) -> None:
    """Raises ConfigError when rows were indexed for another family than the model's."""
    check_positions(positions, model.family)
    family = source.mixture.family
    if family is not model.family:
        raise ConfigError(
            f"{source.index}: was indexed for {family.name}, but the model is {model.family.name}; "
            "index again with --model or --family"
        )


def start_run(
    config: Config,
    run: RunDirectory,
    source: RowSource,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
) -> StartingPoint:
    """Starts a new run, and writes the config and the tokenizer into its directory.

    Args:
        config: The config of the run.
        run: The run directory.
        source: The rows of the run, for the tokenizer and the pixel budget.
        optimizer: The optimizer.
        mesh: The device mesh.

    Raises CheckpointError or ConfigError when the initial weights cannot be used.
    """
    tokenizer = source.tokenizer
    if config.init:
        checkpoint = open_checkpoint(config.init)
        model = checkpoint.config
        if checkpoint.livecc.positions != config.positions:
            log.warning(
                "%s was trained with positions %s, this run trains with %s",
                config.init, checkpoint.livecc.positions, config.positions,
            )  # fmt: skip
    else:
        checkpoint = None
        model = fit_vocabulary(preset(config.preset), tokenizer)
    if tokenizer.vocab_size > model.text.vocab_size:
        raise ConfigError(
            f"{source.tokenizer_path}: has {tokenizer.vocab_size} ids, more than the model's "
            f"{model.text.vocab_size}"
        )
    freeze, lora = config.compute.frozen, config.compute.lora
    check_trainable(model, config.compute)
    shardings = param_shardings(model, mesh, lora)
    adapters = shardings.pop(LORA, None)
    if checkpoint:
        stored = checkpoint.abstract_params()
        params = checkpoint.load_params(dtype=master_dtypes(stored, freeze), shardings=shardings)
        base_dtype = str(stored["text"]["embed"].dtype)
    else:
        init = jax.jit(init_params, static_argnums=(0, 1), out_shardings=shardings)
        params = init(model, config.seed)
        base_dtype = "float32"
    if adapters:
        init = jax.jit(init_adapters, static_argnums=(0, 1, 2), out_shardings=adapters)
        params |= {LORA: init(model, lora, config.seed)}
    abstract = abstract_state(_abstract(params), optimizer, freeze, mesh)
    opt_state = init_opt_state(optimizer, abstract, freeze)(params)
    block = LiveCCBlock(
        positions=config.positions, pixel_budget=str(source.mixture.budget), dtype=base_dtype
    )
    run.create(model, block, tokenizer, flatten(config))
    return StartingPoint(model, {"params": params, "opt_state": opt_state})


def resume_run(config: Config, run: RunDirectory, mesh: Mesh) -> StartingPoint | None:
    """Restores the newest step of a run that can be read, on this mesh.

    A step that some process cannot read is set aside with a warning, and the one before it is tried.

    Returns:
        The starting point, or None when the run has no step.

    Raises:
        CheckpointError: No step can be read; the error is that of the newest step.
        ConfigError: The config contradicts that of the run.
    """
    steps: list[int] = broadcast_from_main(list_steps(run.path))
    damaged: list[int] = []
    newest_error: CheckpointError | None = None
    for step in reversed(steps):
        restored, error = None, None
        try:
            restored = _restore_step(config, run, step, mesh)
        except CheckpointError as e:
            error = e
        if all_processes_agree(restored is not None):
            for other in damaged:
                run.set_aside(other)
                log.warning("%s: step %d is now %d%s", run.path, other, other, DAMAGED)
            log.info("%s: resuming from step %d", run.path, step)
            return restored
        log.warning("going back before step %d: %s", step, error or "another process cannot read it")
        damaged.append(step)
        newest_error = newest_error or error
    if damaged:
        raise newest_error or CheckpointError(f"{run.path}: no step can be read by all processes")
    return None


def _restore_step(config: Config, run: RunDirectory, step: int, mesh: Mesh) -> StartingPoint:
    """Restores a step of a run. Raises CheckpointError when a part of it cannot be read."""
    meta = run.restore_meta(step)
    _check_meta(meta, run.path / str(step))
    changes = check_resume(meta["config"], config, config.run)
    checkpoint = open_checkpoint(run.path / str(step))
    model, freeze, lora = checkpoint.config, config.compute.frozen, config.compute.lora
    stored = abstract_training_params(model, lora) | checkpoint.abstract_params()
    params = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        stored,
        param_shardings(model, mesh, lora),
    )
    optimizer = make_optimizer(config.optim, 1)  # only for the shapes of its state
    abstract = abstract_state(params, optimizer, freeze, mesh)
    params, opt_state, _ = run.restore(step, abstract["params"], abstract["opt_state"])
    for change in changes:
        log.warning("%s: resuming with a changed config: %s", config.run, change)
    return StartingPoint(model, {"params": params, "opt_state": opt_state}, step, meta)


def _check_meta(meta: dict[str, Any], step: Path) -> None:
    """Raises CheckpointError when the meta of a step lacks a value or holds one of a wrong type."""
    kinds = {"config": dict, "index": str, "quarantine": list, "guard": dict, "clock": dict}
    missing = {"config", "index", "quarantine"} - meta.keys()
    if missing:
        raise CheckpointError(f"{step}: its meta lacks {', '.join(sorted(missing))}")
    for name, kind in kinds.items():
        if meta.get(name) is not None and not isinstance(meta[name], kind):
            raise CheckpointError(f"{step}: the {name} of its meta is not a {kind.__name__}")
    guard, clock = meta.get("guard") or {}, meta.get("clock") or {"seconds": {}, "at": 0.0}
    losses, seconds = guard.get("losses", []), clock.get("seconds")
    is_guard = isinstance(losses, list) and type(guard.get("refused", 0)) is int
    if not is_guard or not all(map(_is_number, losses)) or abs(guard.get("refused", 0)) >= 1 << 31:
        raise CheckpointError(f"{step}: the guard of its meta is damaged")
    is_clock = isinstance(seconds, dict) and _is_number(clock.get("at"))
    if not is_clock or not all(map(_is_number, seconds.values())):
        raise CheckpointError(f"{step}: the clock of its meta is damaged")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _abstract(params: Params) -> Params:
    """Returns arrays as `jax.ShapeDtypeStruct`s with their shardings."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), params)
