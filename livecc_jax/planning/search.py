"""Searches mesh shapes and remat policies: estimates all by arithmetic, compiles the most promising."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from livecc_jax.errors import ConfigError
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.remat import REMAT_POLICIES
from livecc_jax.planning.chips import Topology
from livecc_jax.planning.training import TrainingPlan, plan_training, resolve_training_mesh
from livecc_jax.train.config import Config
from livecc_jax.train.state import abstract_training_params, split_trainable

log = logging.getLogger(__name__)

CONTEXT_SIZES = (1, 2, 4, 8)
TENSOR_SIZES = (1, 2, 4)
REPLICAS = (1, 2, 4)  # copies of the parameters in a slice
MEMORY_SHARE = 0.9  # of HBM, that an estimate may fill


@dataclass(frozen=True)
class Candidate:
    """A config that can be sharded over the slice, with estimates from arithmetic alone.

    Attributes:
        config: The config, with its mesh, remat policy and accumulation.
        bytes: Estimated memory of a chip.
        seconds: Estimated time of a step.
    """

    config: Config
    bytes: float
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """A candidate that was compiled: its plan, or the reason why there is none."""

    config: Config
    plan: TrainingPlan | None
    reason: str = ""


def mesh_candidates(config: Config, model: ModelConfig, topology: Topology) -> Iterator[Candidate]:
    """Yields every mesh and remat policy that `resolve_training_mesh` accepts.

    Each shard of the batch has one row of a micro-batch.
    """
    rows = config.data.rows_per_step
    for replicas, context, tensor in itertools.product(REPLICAS, CONTEXT_SIZES, TENSOR_SIZES):
        data = replicas * topology.slices
        fsdp, remainder = divmod(topology.chips, data * context * tensor)
        shards = data * fsdp
        if remainder or not shards or rows % shards:
            continue
        mesh = dataclasses.replace(
            config.mesh, data=data, fsdp=fsdp, context=context, tensor=tensor, devices=0
        )
        for remat in REMAT_POLICIES:
            candidate = dataclasses.replace(
                config,
                mesh=mesh,
                compute=dataclasses.replace(config.compute, remat=remat),
                optim=dataclasses.replace(config.optim, accumulate=rows // shards),
            )
            try:
                resolve_training_mesh(candidate, model, topology)
            except ConfigError as error:
                log.info("skipped: %s", error)
                continue
            yield estimate_candidate(candidate, model, topology)


def estimate_candidate(config: Config, model: ModelConfig, topology: Topology) -> Candidate:
    """Estimates memory and time of a step by rules of thumb, only to choose what to compile."""
    t, mesh, chip = model.text, config.mesh, topology.chip
    params = abstract_training_params(model, config.compute.lora)
    trainable, frozen = split_trainable(params, config.compute.frozen)
    trainable_size, frozen_size = (sum(x.size for x in p.values()) for p in (trainable, frozen))
    decoder = sum(x.size for k, x in (trainable | frozen).items() if not k.startswith("vision/"))
    shards = mesh.fsdp * mesh.tensor
    tokens = config.data.tokens / mesh.context  # of one chip and micro-batch
    heads, keys = t.heads * t.head_dim, t.kv_heads * t.head_dim
    products = (2 * heads + 2 * keys + 2 * t.mlp) / mesh.tensor + 2 * t.width
    stored_activations = {  # of a token and layer
        "none": 2.5 * products,
        "dots": products + t.width,
        "attention": t.width + 1.2 * heads / mesh.tensor,
        "full": t.width,
        "offload": 0.0,
    }[config.compute.remat]
    accumulates = config.optim.accumulate > 1
    state = (12 + 4 + 4 * accumulates) * trainable_size + 2 * frozen_size
    working = 2 * 3 * t.vocab_size * t.width / mesh.tensor + 12 * tokens * products / 4
    size = state / shards + 2 * t.layers * tokens * stored_activations + working

    dense = 2 * decoder * tokens
    attention = t.layers * 2 * heads * tokens * config.data.tokens
    recomputed = {"none": 0.0, "dots": 0.1, "attention": 1.0}.get(config.compute.remat, 1.0)
    attention_recomputed = 1.0 if config.compute.remat in ("full", "offload", "dots") else 0.0
    imbalance = (2 * mesh.context - 1) / mesh.context
    backward = 1 if config.compute.lora.rank else 2
    flops = (1 + backward + recomputed) * dense
    flops += (3.5 + attention_recomputed) * attention * imbalance
    computing = flops / mesh.tensor / chip.flops
    gathered = 2 * decoder / mesh.tensor * (4 if recomputed else 3)
    summed = 4 * t.layers * 2 * tokens * t.width * 2 * (mesh.tensor > 1)
    network = (gathered + summed) / (4 * chip.link_rate)
    slice_network = 0.0
    if topology.slices > 1:
        slice_network = 4 * trainable_size / shards / chip.dcn_rate
    seconds = config.optim.accumulate * (max(computing, network) + 0.2 * min(computing, network))
    return Candidate(config, size, seconds + slice_network)


def search(
    config: Config,
    model: ModelConfig,
    topology: Topology,
    *,
    window: int,
    max_compiled: int = 4,
    segments: int = 1,
    on_outcome: Callable[[Outcome], None] = lambda _: None,
) -> list[Outcome]:
    """Compiles the candidates with the shortest estimated time among those estimated to fit.

    Args:
        config: The config; mesh, remat policy and accumulation are searched over.
        model: The architecture.
        topology: The slice.
        window: Patches of a vision window.
        max_compiled: Maximum number of candidates to compile.
        segments: Assumed number of examples of a row.
        on_outcome: Function that is called with each outcome once it is compiled.

    Returns:
        The outcomes that fit, fastest first by their compiled roofline and then by memory; then those
        that do not fit.

    Raises ConfigError when no mesh can split the rows over the slice.
    """
    candidates = list(mesh_candidates(config, model, topology))
    if not candidates:
        raise ConfigError(
            f"no mesh splits data.rows_per_step = {config.data.rows_per_step} rows over {topology}"
        )
    limit = MEMORY_SHARE * topology.chip.hbm_bytes
    fitting = sorted((c for c in candidates if c.bytes <= limit), key=lambda c: (c.seconds, c.bytes))
    ranked = fitting or sorted(candidates, key=lambda c: c.bytes)
    outcomes = []
    for candidate in ranked[:max_compiled]:
        try:
            plan = plan_training(candidate.config, model, topology, window=window, segments=segments)
            outcome = Outcome(candidate.config, plan)
        except ConfigError as error:
            outcome = Outcome(candidate.config, None, str(error))
        outcomes.append(outcome)
        on_outcome(outcome)
    return sorted(outcomes, key=_sort_key)


def _sort_key(outcome: Outcome) -> tuple[bool, float, float]:
    """Sorts plans that fit first, by time and then memory."""
    plan = outcome.plan
    if plan is None or not plan.fits:
        return True, 0.0, plan.used if plan else 0.0
    return False, plan.step_seconds, plan.used
