"""Plans training on a TPU slice: compiles the real training step for it and reads off its costs."""

from __future__ import annotations

import logging
import resource
import time
from dataclasses import dataclass
from typing import Any, ClassVar

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
from livecc_jax.parallel.batch import batch_shardings, check_batch_divides, padded_shape
from livecc_jax.parallel.mesh import AXES, MeshConfig, make_mesh, resolve_mesh
from livecc_jax.planning.chips import GIB, Topology
from livecc_jax.planning.compiled_plan import (
    CompiledPlan,
    bytes_per_device,
    code_bytes,
    compile_for_slice,
    network_traffic,
    temporary_bytes,
)
from livecc_jax.planning.cost import count_flops
from livecc_jax.planning.hlo import read_program
from livecc_jax.train.config import Config
from livecc_jax.train.optimizer import make_optimizer
from livecc_jax.train.state import (
    State,
    abstract_state,
    abstract_training_params,
    check_tensor_axis,
    check_trainable,
    join_params,
    param_shardings,
    split_trainable,
)
from livecc_jax.train.step import jit_step, make_step

log = logging.getLogger(__name__)

VISUAL_SHARE = 0.95  # of the tokens of a streaming row: 384 of the 404 of a second at a budget of 384
TARGET_SHARE = 0.025  # supervised share of those tokens: about ten of the 404
SCHEDULE_STEPS = 1000  # length of the learning rate schedule; it has no influence on the costs


@dataclass(frozen=True)
class TrainingPlan(CompiledPlan):
    """The costs of one training step.

    Attributes:
        remat: Rematerialization policy.
        accumulate: Number of micro-batches.
        tokens: Tokens of a step, with padding.
        flops: FLOPs of all chips counted in the program, by kind.
        model_flops: FLOPs that the model needs without recomputation.
        exchanged: Bytes that one chip sends, by kind of collective.
        seconds: Time of a step if nothing else took time, by resource.
        peak: FLOP/s of all chips.
        host_bytes: Peak memory of this process.
        unknown_loops: Number of loops that were counted once because their length is unknown.
    """

    remat: str
    accumulate: int
    tokens: int
    flops: dict[str, float]
    model_flops: float
    exchanged: dict[str, float]
    seconds: dict[str, float]
    peak: float
    host_bytes: float
    unknown_loops: int

    DERIVED: ClassVar[tuple[str, ...]] = ("used", "fits", "step_seconds", "bound", "mfu", "mfu_serial")

    @property
    def step_seconds(self) -> float:
        """Roofline time: computing, memory and network perfectly overlapped."""
        return max(self.seconds.values())

    @property
    def bound(self) -> str:
        """The resource that takes longest."""
        return max(self.seconds, key=self.seconds.__getitem__)

    @property
    def mfu(self) -> float:
        """Upper bound of the model FLOPs utilisation, with perfect overlap."""
        return self.model_flops / self.peak / self.step_seconds

    @property
    def mfu_serial(self) -> float:
        """Upper bound of the model FLOPs utilisation, with no overlap at all."""
        return self.model_flops / self.peak / sum(self.seconds.values())

    def days(self, tokens: float) -> float:
        """Returns the days that training on so many tokens takes at the roofline."""
        return tokens / self.tokens * self.step_seconds / 86400

    def workload(self) -> str:
        """Returns a clause about the step."""
        return f"remat {self.remat}, {self.tokens:,} tokens a step in {self.accumulate} micro-batches"

    def compilation(self) -> str:
        """Returns a line about the time and host memory of compiling."""
        return f"{super().compilation()}, {self.host_bytes / GIB:.1f} GiB of host memory"

    def cost_lines(self) -> list[str]:
        """Returns the lines about FLOPs, bytes sent, time and MFU."""
        counted = sum(self.flops.values())
        return [
            f"FLOPs a step: {counted:.3g} counted, {self.model_flops:.3g} needed",
            *(f"  {name:28s} {n:9.3g}" for name, n in self.flops.items()),
            "",
            "sent by a chip in a step",
            *(f"  {name:28s} {n / 1e9:9.2f} GB" for name, n in self.exchanged.items()),
            "",
            f"step: at least {self.step_seconds:.2f} s, bound by {self.bound}",
            *(f"  {name:28s} {n:9.2f} s" for name, n in self.seconds.items()),
            f"MFU: at most {self.mfu:.1%} ({self.mfu_serial:.1%} if none of these overlapped)",
        ]


def resolve_training_mesh(config: Config, model: ModelConfig, topology: Topology) -> MeshConfig:
    """Returns the mesh of a config over a slice, with its -1 filled in. Compiles nothing.

    Raises ConfigError, naming the field, when rows, heads or parameters do not divide over the mesh, or
    the mesh does not match the slice.
    """
    sizes = resolve_mesh(config.mesh, topology.chips)
    if sizes.data % topology.slices:
        raise ConfigError(
            f"mesh.data={sizes.data} is not a multiple of the {topology.slices} slices there are"
        )
    check_tensor_axis(model, sizes.tensor)
    config.check_micro_batches()
    config.compute.check_remat()
    mesh = AbstractMesh(tuple(getattr(sizes, axis) for axis in AXES), AXES)
    check_batch_divides(mesh, config.data.rows_per_step // config.optim.accumulate)
    check_trainable(model, config.compute)
    param_shardings(model, mesh, config.compute.lora)
    return sizes


def plan_training(
    config: Config,
    model: ModelConfig,
    topology: Topology,
    *,
    window: int,
    segments: int = 1,
    frozen_dtype: str = "bfloat16",
) -> TrainingPlan:
    """Compiles the training step for a slice and reads off its costs.

    Args:
        config: The config of the run; its index need not exist.
        model: The architecture.
        topology: The slice.
        window: Patches of a vision window (four times the pixel budget).
        segments: Assumed number of examples of a row, for the attention FLOPs that the model needs.
        frozen_dtype: Dtype of frozen parameters.

    Raises:
        ConfigError: The config cannot work, or libtpu is missing.
        DoesNotFitError: The step needs more memory than a chip has.
    """
    sizes = resolve_training_mesh(config, model, topology)
    mesh = make_mesh(sizes, topology.devices())
    data = config.data
    patch = model.vision.patch_size
    shape = RowShape(data.tokens, data.windows, window, data.targets, patch)
    optimizer = make_optimizer(config.optim, SCHEDULE_STEPS)
    state = abstract_training_state(config, model, mesh, frozen_dtype)
    batch = _abstract_batch(mesh, shape, data.rows_per_step, config.optim.accumulate)
    start = time.perf_counter()
    step = jit_step(make_step(model, config.compute, optimizer), state)
    with jax.set_mesh(mesh):
        traced = step.trace(state, batch)
        compiled = compile_for_slice(
            traced, topology, "the step",
            f", with compute.remat {config.compute.remat} and "
            f"optim.accumulate {config.optim.accumulate}",
        )  # fmt: skip
    compile_seconds = time.perf_counter() - start

    program = read_program(compiled.as_text(), mesh.size)
    if program.unknown_loops:
        log.warning("the length of %d loops is unknown: counted once", len(program.unknown_loops))
    flops = count_flops(traced.jaxpr)
    adapters = sum(x.size for x in jax.tree.leaves(abstract_adapters(model, config.compute.lora)))
    vision_trainable = not _is_frozen(config, "vision/blocks")
    row_flops = step_flops(model, nominal_row(shape, segments), vision_trainable, adapters)
    traffic = network_traffic(program, topology, mesh)
    chip = topology.chip
    return TrainingPlan(
        topology=str(topology),
        chips=topology.chips,
        mesh={axis: getattr(sizes, axis) for axis in AXES},
        memory={
            "parameters": bytes_per_device(state["params"]),
            "optimiser": bytes_per_device(state["opt_state"]),
            "rows": bytes_per_device(batch),
            "activations and temporaries": temporary_bytes(compiled) + code_bytes(compiled),
        },
        hbm=chip.hbm_bytes,
        compile_seconds=compile_seconds,
        remat=config.compute.remat,
        accumulate=config.optim.accumulate,
        tokens=data.rows_per_step * data.tokens,
        flops=flops,
        model_flops=row_flops * data.rows_per_step,
        exchanged=traffic.sent,
        seconds={
            "computing": _compute_seconds(flops, topology, sizes.context),
            "memory": program.memory_bytes / chip.hbm_rate,
            "chip network": traffic.chip_seconds,
            "slice network": traffic.slice_seconds,
        },
        peak=chip.flops * topology.chips,
        host_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0,
        unknown_loops=len(program.unknown_loops),
    )


def nominal_row(shape: RowShape, segments: int) -> dict[str, np.ndarray]:
    """Returns the fields [1, ...] of a full row from which its model FLOPs are counted.

    As many of its tokens are visual and supervised as in a streaming row.
    """
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
    """Returns the time at the peak rate.

    Sharded over context, the chip with the last queries has most causal attention to compute, and all
    other chips wait for it.
    """
    imbalance = (2 * context - 1) / context
    causal = flops["causal attention"]
    return (sum(flops.values()) + causal * (imbalance - 1)) / topology.chips / topology.chip.flops


def abstract_training_state(config: Config, model: ModelConfig, mesh: Mesh, frozen_dtype: str) -> State:
    """Returns shapes, dtypes and shardings of the state that training would hold on a mesh.

    Trainable parameters are float32, frozen ones have `frozen_dtype`.
    """
    freeze, lora = config.compute.frozen, config.compute.lora
    trainable, frozen = split_trainable(abstract_training_params(model, lora), freeze)
    shardings, _ = split_trainable(param_shardings(model, mesh, lora), ())

    def abstract(path: str, dtype: Any) -> jax.ShapeDtypeStruct:
        shape = (trainable | frozen)[path].shape
        return jax.ShapeDtypeStruct(shape, dtype, sharding=shardings[path])

    params = join_params(
        {path: abstract(path, jnp.float32) for path in trainable},
        {path: abstract(path, jnp.dtype(frozen_dtype)) for path in frozen},
    )
    return abstract_state(params, make_optimizer(config.optim, SCHEDULE_STEPS), freeze, mesh)


def _abstract_batch(
    mesh: Mesh, shape: RowShape, rows: int, accumulate: int
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shapes, dtypes and shardings of what `shard_batch` returns for the rows of a step."""
    shardings = batch_shardings(mesh)
    return {
        name: jax.ShapeDtypeStruct(
            (accumulate, *padded_shape(mesh, name, (rows // accumulate, *value.shape))),
            value.dtype,
            sharding=shardings[name],
        )
        for name, value in empty_row(shape).items()
    }


def _is_frozen(config: Config, prefix: str) -> bool:
    return any(prefix == f or prefix.startswith(f + "/") for f in config.compute.freeze)
