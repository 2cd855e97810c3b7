"""What a training step will take on a TPU slice, from the step itself compiled for it, without one."""

from __future__ import annotations

import dataclasses
import logging
import math
import resource
import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh

from livecc_jax.data.rows.packing import RowShape
from livecc_jax.data.rows.row import empty_row
from livecc_jax.errors import ConfigError
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.flops import step_flops
from livecc_jax.model.lora import abstract_adapters
from livecc_jax.model.remat import REMATS
from livecc_jax.parallel.batch import check_rows, padded_shape, row_shardings
from livecc_jax.parallel.mesh import AXES, MeshConfig, make_mesh, resolve, slice_of
from livecc_jax.planning.chips import Topology
from livecc_jax.planning.cost import counted_flops
from livecc_jax.planning.hlo import read_program, wanted_memory
from livecc_jax.train.config import Config
from livecc_jax.train.optimizer import make_optimizer
from livecc_jax.train.state import (
    State,
    abstract_state,
    abstract_state_params,
    check_heads,
    check_learning,
    join,
    param_shardings,
    split,
)
from livecc_jax.train.step import jit_step, make_step

log = logging.getLogger(__name__)

VISUAL_SHARE = 0.95  # of a streaming row's tokens: 384 of the 404 of a second at a budget of 384
TARGET_SHARE = 0.025  # supervised tokens: about ten of those 404


@dataclass(frozen=True)
class Plan:
    """Figures of one step; bytes and times are of one chip, FLOPs of all of them."""

    topology: str
    chips: int
    mesh: dict[str, int]
    remat: str
    accumulate: int
    tokens: int  # a step, padding included
    memory: dict[str, float]  # bytes by use
    hbm: float  # bytes a program may use
    flops: dict[str, float]  # counted in the program, by kind
    model_flops: float  # what the arithmetic needs, nothing recomputed
    exchanged: dict[str, float]  # bytes sent, by kind of collective
    seconds: dict[str, float]  # of a step, if nothing but this took time
    peak: float  # FLOP/s of all chips
    compile_seconds: float
    host_bytes: float  # peak of this process
    unknown_loops: int  # loops counted once, their length being unknown

    @property
    def used(self) -> float:
        """Bytes of HBM."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        """Whether a chip holds it."""
        return self.used <= self.hbm

    @property
    def step_seconds(self) -> float:
        """Roofline: computing, memory and network perfectly overlapped."""
        return max(self.seconds.values())

    @property
    def bound(self) -> str:
        """What takes longest."""
        return max(self.seconds, key=self.seconds.__getitem__)

    @property
    def mfu(self) -> float:
        """Most the model FLOPs utilisation can be."""
        return self.model_flops / self.peak / self.step_seconds

    @property
    def mfu_serial(self) -> float:
        """The same if computing, memory and network took turns."""
        return self.model_flops / self.peak / sum(self.seconds.values())

    def days(self, tokens: float) -> float:
        """For so many tokens at the roofline."""
        return tokens / self.tokens * self.step_seconds / 86400

    def to_json(self) -> dict[str, Any]:
        """Every figure by name."""
        derived = ("used", "fits", "step_seconds", "bound", "mfu", "mfu_serial")
        return dataclasses.asdict(self) | {name: getattr(self, name) for name in derived}


class DoesNotFitError(ConfigError):
    """The compiler found that the step needs more memory than a chip has."""


def check_plan(config: Config, model: ModelConfig, topology: Topology) -> MeshConfig:
    """The mesh with its -1 filled in.

    Raises ConfigError, naming the field, for what cannot be split over the slice; compiles nothing.
    """
    sizes = resolve(config.mesh, topology.chips)
    if sizes.data % topology.slices:
        raise ConfigError(
            f"mesh.data={sizes.data} is not a multiple of the {topology.slices} slices there are"
        )
    check_heads(model, sizes.tensor)
    rows, accumulate = config.data.rows_per_step, config.optim.accumulate
    if accumulate < 1 or rows % accumulate:
        raise ConfigError(
            f"data.rows_per_step is {rows}, which does not divide over optim.accumulate = {accumulate}"
        )
    if config.compute.remat not in REMATS:
        raise ConfigError(f"compute.remat {config.compute.remat!r} is not one of {', '.join(REMATS)}")
    mesh = AbstractMesh(tuple(getattr(sizes, axis) for axis in AXES), AXES)
    check_rows(mesh, rows // accumulate)
    check_learning(model, config.compute)
    param_shardings(model, mesh, config.compute.lora)
    return sizes


def make_plan(
    config: Config,
    model: ModelConfig,
    topology: Topology,
    *,
    window: int,
    segments: int = 1,
    stored: str = "bfloat16",
) -> Plan:
    """Compile the training step for the slice and read off what it takes.

    Args:
        config: the experiment; its index need not exist.
        model: the architecture.
        topology: what to compile for.
        window: patches in a vision window (four times the pixel budget).
        segments: examples a row is taken to hold, for counting attention that is of use.
        stored: dtype that frozen parameters are kept in.

    Raises:
        ConfigError: the configuration cannot work, or libtpu is missing.
        DoesNotFitError: the step needs more memory than a chip has.
    """
    sizes = check_plan(config, model, topology)
    mesh = make_mesh(sizes, topology.devices())
    data = config.data
    shape = RowShape(data.tokens, data.windows, window, data.targets)
    optimizer = make_optimizer(config.optim, steps=1000)
    state = abstract_training_state(config, model, mesh, stored)
    batch = _abstract_batch(mesh, shape, data.rows_per_step, config.optim.accumulate)
    began = time.perf_counter()
    step = jit_step(make_step(model, config.compute, optimizer), state)
    with jax.set_mesh(mesh):
        traced = step.trace(state, batch)
        try:
            compiled = traced.lower().compile()
        except jax.errors.JaxRuntimeError as error:
            raise _explained(error, topology, config) from error
    took = time.perf_counter() - began

    program = read_program(compiled.as_text(), mesh.size)
    if program.unknown_loops:
        log.warning("the length of %d loops is unknown: counted once", len(program.unknown_loops))
    flops = counted_flops(traced.jaxpr)
    adapters = sum(x.size for x in jax.tree.leaves(abstract_adapters(model, config.compute.lora)))
    vision_learns = not _is_frozen(config, "vision/blocks")
    counted = step_flops(model, nominal_row(shape, segments), vision_learns, adapters)
    chip = topology.chip
    seconds = {
        "computing": _compute_seconds(flops, topology, sizes.context),
        "memory": program.memory_bytes / chip.hbm_rate,
        "chip network": 0.0,
        "slice network": 0.0,
    }
    exchanged: dict[str, float] = {}
    places = [(tuple(d.coords), slice_of(d)) for d in mesh.devices.flat]
    for c in program.collectives:
        rate, near = topology.rate([places[i] for i in c.group])
        seconds["chip network" if near else "slice network"] += c.sent / rate
        kind = c.kind if near else f"{c.kind} between slices"
        exchanged[kind] = exchanged.get(kind, 0.0) + c.sent
    analysis = compiled.memory_analysis()
    memory = {
        "parameters": bytes_of(state["params"]),
        "optimiser": bytes_of(state["opt_state"]),
        "rows": bytes_of(batch),
        "activations and temporaries": float(
            analysis.temp_size_in_bytes
            + analysis.output_size_in_bytes
            - analysis.alias_size_in_bytes
            + analysis.generated_code_size_in_bytes
        ),
    }
    return Plan(
        topology=str(topology),
        chips=topology.chips,
        mesh={axis: getattr(sizes, axis) for axis in AXES},
        remat=config.compute.remat,
        accumulate=config.optim.accumulate,
        tokens=data.rows_per_step * data.tokens,
        memory=memory,
        hbm=chip.hbm_bytes,
        flops=flops,
        model_flops=counted * data.rows_per_step,
        exchanged=exchanged,
        seconds=seconds,
        peak=chip.flops * topology.chips,
        compile_seconds=took,
        host_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0,
        unknown_loops=len(program.unknown_loops),
    )


def nominal_row(shape: RowShape, segments: int) -> dict[str, np.ndarray]:
    """Which places of a row [1, ...] are taken: all tokens, as many of them visual as in streaming."""
    tokens, targets = np.arange(shape.tokens), np.arange(shape.targets)
    patches = np.zeros((shape.windows, shape.window), np.int32)
    visual = int(VISUAL_SHARE * shape.tokens) * 4
    patches[: min(shape.windows, visual // shape.window)] = 1
    return {
        "segment_ids": (1 + tokens * segments // shape.tokens)[None],
        "patch_pairs": patches[None],
        "target_weights": (targets < TARGET_SHARE * shape.tokens)[None].astype(np.float32),
    }


def _compute_seconds(flops: dict[str, float], topology: Topology, context: int) -> float:
    """At the peak rate. Split over context, the last queries see most: everyone waits for them."""
    slowest = (2 * context - 1) / context
    causal = flops["causal attention"]
    return (sum(flops.values()) + causal * (slowest - 1)) / topology.chips / topology.chip.flops


def abstract_training_state(config: Config, model: ModelConfig, mesh: Mesh, stored: str) -> State:
    """What training would hold: float32 where it learns, what it is stored as where it is frozen."""
    freeze, lora = config.compute.frozen, config.compute.lora
    learning, frozen = split(abstract_state_params(model, lora), freeze)
    placed, _ = split(param_shardings(model, mesh, lora), ())

    def one(path: str, dtype: Any) -> jax.ShapeDtypeStruct:
        shape = (learning | frozen)[path].shape
        return jax.ShapeDtypeStruct(shape, dtype, sharding=placed[path])

    params = join(
        {path: one(path, jnp.float32) for path in learning},
        {path: one(path, jnp.dtype(stored)) for path in frozen},
    )
    return abstract_state(params, make_optimizer(config.optim, steps=1000), freeze, mesh)


def _abstract_batch(
    mesh: Mesh, shape: RowShape, rows: int, accumulate: int
) -> dict[str, jax.ShapeDtypeStruct]:
    """The rows of a step as `place_batch` would give them."""
    shardings = row_shardings(mesh)
    return {
        name: jax.ShapeDtypeStruct(
            (accumulate, *padded_shape(mesh, name, (rows // accumulate, *value.shape))),
            value.dtype,
            sharding=shardings[name],
        )
        for name, value in empty_row(shape).items()
    }


def bytes_of(tree: Any) -> float:
    """Of one device's part of every array."""
    leaves = jax.tree.leaves(tree)
    return float(sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves))


def _is_frozen(config: Config, prefix: str) -> bool:
    return any(prefix == f or prefix.startswith(f + "/") for f in config.compute.freeze)


def _explained(error: Exception, topology: Topology, config: Config) -> Exception:
    """XLA's report of too little memory as one sentence; any other error as it is."""
    wanted = wanted_memory(str(error))
    if wanted is None:
        return error
    return DoesNotFitError(
        f"the step does not fit on {topology}: it needs {wanted[0]} a chip, of {wanted[1]}, with "
        f"compute.remat {config.compute.remat} and optim.accumulate {config.optim.accumulate}"
    )
