"""Where a run begins: random weights, a checkpoint's, or its own newest step."""

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
from livecc_jax.checkpoints.run import DAMAGED, RunDirectory, steps_of
from livecc_jax.data.rows.pipeline import RowSource
from livecc_jax.data.rows.row import WEIGHTINGS
from livecc_jax.errors import CheckpointError, ConfigError
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.lora import LORA, check_lora, init_adapters
from livecc_jax.model.presets import preset
from livecc_jax.model.qwen2_vl import Params, init_params
from livecc_jax.model.remat import REMATS
from livecc_jax.model.vocabulary import fit_vocabulary
from livecc_jax.parallel.processes import all_agree, from_first
from livecc_jax.timeline.modes import MODES
from livecc_jax.train.config import Config, check_resume, flatten
from livecc_jax.train.guard import POLICIES
from livecc_jax.train.optimizer import make_optimizer
from livecc_jax.train.state import (
    State,
    abstract_state,
    abstract_state_params,
    check_learning,
    init_opt_state,
    master_dtypes,
    param_shardings,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """The architecture and the state to go on from: step 0, or a checkpoint's with its meta."""

    model: ModelConfig
    state: State
    step: int = 0
    meta: dict[str, Any] = dataclasses.field(default_factory=dict)


def check_config(config: Config) -> None:
    """Raise ConfigError for values that no run can have."""
    needed = {"run": config.run, "data.index": config.data.index}
    for name, value in needed.items():
        if not value:
            raise ConfigError(f"the config sets no {name}")
    if Path(config.run).exists() and not Path(config.run).is_dir():
        raise ConfigError(f"{config.run}: the run must be a directory")
    if bool(config.init) == bool(config.preset):
        raise ConfigError("the config must set one of init (a checkpoint) and preset (random weights)")
    if config.preset and not config.tokenizer:
        raise ConfigError("a preset needs a tokenizer: the config sets no tokenizer")
    for name, value, choices in (
        ("positions", config.positions, MODES),
        ("data.weighting", config.data.weighting, WEIGHTINGS),
        ("compute.remat", config.compute.remat, REMATS),
        ("compute.dtype", config.compute.dtype, ("float32", "bfloat16")),
        ("guard.nan", config.guard.nan, POLICIES),
        ("guard.spike", config.guard.spike, POLICIES),
    ):
        if value not in choices:
            raise ConfigError(f"{name} {value!r} is not one of {', '.join(choices)}")
    check_lora(config.compute.lora)
    counts = {
        "data.tokens": config.data.tokens,
        "data.windows": config.data.windows,
        "data.targets": config.data.targets,
        "data.rows_per_step": config.data.rows_per_step,
        "data.epochs": config.data.epochs,
        "optim.accumulate": config.optim.accumulate,
        "log_every": config.log_every,
        "checkpoint.keep": config.checkpoint.keep,
        "compute.head_chunk": config.compute.head_chunk,
        "guard.window": config.guard.window,
        "evaluate.rows": config.evaluate.rows,
        "evaluate.questions": config.evaluate.questions,
        "evaluate.clips": config.evaluate.clips,
        "evaluate.max_frames": config.evaluate.max_frames,
    }
    for name, value in counts.items():
        if value < 1:
            raise ConfigError(f"{name} must be at least 1, not {value}")
    rows, accumulate = config.data.rows_per_step, config.optim.accumulate
    if rows % accumulate:
        raise ConfigError(
            f"data.rows_per_step is {rows}, which does not divide over optim.accumulate = {accumulate}"
        )
    amounts = {
        "seed": config.seed,
        "max_steps": config.max_steps,
        "checkpoint.every": config.checkpoint.every,
        "checkpoint.keep_every": config.checkpoint.keep_every,
        "guard.factor": config.guard.factor,
        "guard.most": config.guard.most,
        "evaluate.every": config.evaluate.every,
        "watch.late": config.watch.late,
        "watch.give_up": config.watch.give_up,
        "data.workers": config.data.workers,
        "data.max_quarantined": config.data.max_quarantined,
        "optim.learning_rate": config.optim.learning_rate,
        "optim.warmup_ratio": config.optim.warmup_ratio,
    }
    for name, value in amounts.items():
        if not 0 <= value < math.inf:  # which NaN is not, either
            raise ConfigError(f"{name} must not be negative, not {value}")


def begin(
    config: Config,
    run: RunDirectory,
    source: RowSource,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
) -> Start:
    """Start a new run and write its directory's config and tokenizer.

    Raises CheckpointError or ConfigError when the starting weights cannot be used.
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
    check_learning(model, config.compute)
    shardings = param_shardings(model, mesh, lora)
    adapters = shardings.pop(LORA, None)
    if checkpoint:
        stored = checkpoint.abstract_params()
        params = checkpoint.load_params(dtype=master_dtypes(stored, freeze), shardings=shardings)
        base_dtype = str(stored["text"]["embed"].dtype)
    else:
        make = jax.jit(init_params, static_argnums=(0, 1), out_shardings=shardings)
        params = make(model, config.seed)
        base_dtype = "float32"
    if adapters:
        make = jax.jit(init_adapters, static_argnums=(0, 1, 2), out_shardings=adapters)
        params |= {LORA: make(model, lora, config.seed)}
    abstract = abstract_state(_described(params), optimizer, freeze, mesh)
    opt_state = init_opt_state(optimizer, abstract, freeze)(params)
    block = LiveCCBlock(
        positions=config.positions, pixel_budget=str(source.opened.budget), dtype=base_dtype
    )
    run.create(model, block, tokenizer, flatten(config))
    return Start(model, {"params": params, "opt_state": opt_state})


def resume(config: Config, run: RunDirectory, mesh: Mesh) -> Start | None:
    """The run as it was at its newest step that can be read, on this mesh; None when it has no step.

    A step that some process cannot read is set aside with a warning, and the one before it is taken.

    Raises:
        CheckpointError: no step can be read; the error is the newest one's.
        ConfigError: the config contradicts the run's.
    """
    steps: list[int] = from_first(steps_of(run.path))
    damaged: list[int] = []
    first: CheckpointError | None = None
    for step in reversed(steps):
        found, error = None, None
        try:
            found = _at(config, run, step, mesh)
        except CheckpointError as e:
            error = e
        if all_agree(found is not None):
            for bad in damaged:
                run.set_aside(bad)
                log.warning("%s: step %d is now %d%s", run.path, bad, bad, DAMAGED)
            log.info("%s: resuming from step %d", run.path, step)
            return found
        log.warning("going back before step %d: %s", step, error or "another process cannot read it")
        damaged.append(step)
        first = first or error
    if damaged:
        raise first or CheckpointError(f"{run.path}: no step can be read by all processes")
    return None


def _at(config: Config, run: RunDirectory, step: int, mesh: Mesh) -> Start:
    """The run at a step. Raises CheckpointError when a part of it cannot be read."""
    meta = run.restore_meta(step)
    missing = {"config", "index", "quarantine"} - meta.keys()
    if missing:
        raise CheckpointError(f"{run.path / str(step)}: its meta lacks {', '.join(sorted(missing))}")
    changes = check_resume(meta["config"], config, config.run)
    checkpoint = open_checkpoint(run.path / str(step))
    model, freeze, lora = checkpoint.config, config.compute.frozen, config.compute.lora
    stored = abstract_state_params(model, lora) | checkpoint.abstract_params()
    params = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        stored,
        param_shardings(model, mesh, lora),
    )
    optimizer = make_optimizer(config.optim, 1)  # for its state's shape alone
    abstract = abstract_state(params, optimizer, freeze, mesh)
    params, opt_state, _ = run.restore(step, abstract["params"], abstract["opt_state"])
    for change in changes:
        log.warning("%s: resuming with a changed config: %s", config.run, change)
    return Start(model, {"params": params, "opt_state": opt_state}, step, meta)


def _described(params: Params) -> Params:
    """Arrays as `jax.ShapeDtypeStruct`s with their shardings."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), params)
