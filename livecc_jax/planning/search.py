"""Trying mesh shapes and remat policies: estimate all by arithmetic, compile the most promising."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from livecc_jax.errors import ConfigError
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.remat import REMATS
from livecc_jax.planning.chips import Topology
from livecc_jax.planning.training import Plan, check_plan, make_plan
from livecc_jax.train.config import Config
from livecc_jax.train.state import abstract_state_params, split

log = logging.getLogger(__name__)

CONTEXTS = (1, 2, 4, 8)
TENSORS = (1, 2, 4)
REPLICAS = (1, 2, 4)  # of the parameters, in a slice
ROOM = 0.9  # share of HBM that an estimate may fill


@dataclass(frozen=True)
class Candidate:
    """A configuration that can be split over the slice, and what arithmetic alone says of it."""

    config: Config
    bytes: float
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """A candidate that was compiled: its plan, or why there is none."""

    config: Config
    plan: Plan | None
    reason: str = ""


def candidates(config: Config, model: ModelConfig, topology: Topology) -> Iterator[Candidate]:
    """Every mesh and remat policy that passes `check_plan`, one row a batch shard at a time."""
    rows = config.data.rows_per_step
    for replicas, context, tensor in itertools.product(REPLICAS, CONTEXTS, TENSORS):
        data = replicas * topology.slices
        fsdp, rest = divmod(topology.chips, data * context * tensor)
        shards = data * fsdp
        if rest or not shards or rows % shards:
            continue
        mesh = dataclasses.replace(
            config.mesh, data=data, fsdp=fsdp, context=context, tensor=tensor, devices=0
        )
        for remat in REMATS:
            one = dataclasses.replace(
                config,
                mesh=mesh,
                compute=dataclasses.replace(config.compute, remat=remat),
                optim=dataclasses.replace(config.optim, accumulate=rows // shards),
            )
            try:
                check_plan(one, model, topology)
            except ConfigError as error:
                log.info("left out: %s", error)
                continue
            yield estimate(one, model, topology)


def estimate(config: Config, model: ModelConfig, topology: Topology) -> Candidate:
    """Memory and time of a step by rules of thumb: to choose what to compile, not to believe."""
    t, mesh, chip = model.text, config.mesh, topology.chip
    params = abstract_state_params(model, config.compute.lora)
    learning, frozen = split(params, config.compute.frozen)
    numbers, still = (sum(x.size for x in part.values()) for part in (learning, frozen))
    decoder = sum(x.size for k, x in (learning | frozen).items() if not k.startswith("vision/"))
    shards = mesh.fsdp * mesh.tensor
    tokens = config.data.tokens / mesh.context  # of one chip, at a time
    heads, keys = t.heads * t.head_dim, t.kv_heads * t.head_dim
    products = (2 * heads + 2 * keys + 2 * t.mlp) / mesh.tensor + 2 * t.width
    stored = {
        "none": 2.5 * products,
        "dots": products + t.width,
        "attention": t.width + 1.2 * heads / mesh.tensor,
        "full": t.width,
        "offload": 0.0,
    }[config.compute.remat]
    state = (12 + 4 + 4 * (config.optim.accumulate > 1)) * numbers + 2 * still
    working = 2 * 3 * t.vocab_size * t.width / mesh.tensor + 12 * tokens * products / 4
    size = state / shards + 2 * t.layers * tokens * stored + working

    dense = 2 * decoder * tokens
    attention = t.layers * 2 * heads * tokens * config.data.tokens
    again = {"none": 0.0, "dots": 0.1, "attention": 1.0}.get(config.compute.remat, 1.0)
    attention_again = 1.0 if config.compute.remat in ("full", "offload", "dots") else 0.0
    slowest = (2 * mesh.context - 1) / mesh.context
    backward = 1 if config.compute.lora.rank else 2
    flops = (1 + backward + again) * dense + (3.5 + attention_again) * attention * slowest
    computing = flops / mesh.tensor / chip.flops
    gathered = 2 * decoder / mesh.tensor * (4 if again else 3)
    summed = 4 * t.layers * 2 * tokens * t.width * 2 * (mesh.tensor > 1)
    network = (gathered + summed) / (4 * chip.link_rate)
    between = 4 * numbers / shards / chip.dcn_rate if topology.slices > 1 else 0.0
    seconds = config.optim.accumulate * (max(computing, network) + 0.2 * min(computing, network))
    return Candidate(config, size, seconds + between)


def search(
    config: Config,
    model: ModelConfig,
    topology: Topology,
    *,
    window: int,
    compile_most: int = 4,
    segments: int = 1,
    on_outcome: Callable[[Outcome], None] = lambda _: None,
) -> list[Outcome]:
    """Compile the candidates that look fastest among those that look as if they fit.

    Args:
        config: its mesh, remat policy and accumulation are what is searched over.
        model: the architecture.
        topology: what to compile for.
        window: patches in a vision window.
        compile_most: how many to compile.
        segments: examples a row is taken to hold.
        on_outcome: told of each as it is compiled.

    Returns:
        Those that fit, fastest first by their compiled roofline (of equals the one that needs least
        memory), then those that do not.

    Raises ConfigError when nothing can be split over the slice.
    """
    every = list(candidates(config, model, topology))
    if not every:
        raise ConfigError(
            f"no mesh splits data.rows_per_step = {config.data.rows_per_step} rows over {topology}"
        )
    limit = ROOM * topology.chip.hbm_bytes
    fitting = sorted((c for c in every if c.bytes <= limit), key=lambda c: (c.seconds, c.bytes))
    chosen = fitting or sorted(every, key=lambda c: c.bytes)
    outcomes = []
    for candidate in chosen[:compile_most]:
        try:
            plan = make_plan(candidate.config, model, topology, window=window, segments=segments)
            outcome = Outcome(candidate.config, plan)
        except ConfigError as error:
            outcome = Outcome(candidate.config, None, str(error))
        outcomes.append(outcome)
        on_outcome(outcome)
    return sorted(outcomes, key=_order)


def _order(outcome: Outcome) -> tuple[bool, float, float]:
    plan = outcome.plan
    if plan is None or not plan.fits:
        return True, 0.0, plan.used if plan else 0.0
    return False, plan.step_seconds, plan.used
