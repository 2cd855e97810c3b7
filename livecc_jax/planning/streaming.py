"""Plans streaming on a TPU slice: compiles the steps of an engine for it and reads off their costs."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from livecc_jax.decoding.engine_step import engine_step
from livecc_jax.decoding.generate import StopIds
from livecc_jax.decoding.session_step import encode_frames_step
from livecc_jax.decoding.weights import DecodingWeights
from livecc_jax.errors import ConfigError
from livecc_jax.model.config import ModelConfig
from livecc_jax.parallel.mesh import AXES, MeshConfig, make_mesh, resolve_mesh
from livecc_jax.parallel.rules import partition_spec
from livecc_jax.planning.abstract_decoding import (
    abstract_cache,
    abstract_cache_context,
    abstract_turn_inputs,
    abstract_weights,
)
from livecc_jax.planning.chips import Topology
from livecc_jax.planning.compiled_plan import (
    CompiledPlan,
    bytes_per_device,
    code_bytes,
    compile_for_slice,
    network_traffic,
    temporary_bytes,
)
from livecc_jax.planning.cost import count_flops
from livecc_jax.planning.hlo import Program, read_program
from livecc_jax.stream.capacity import PROMPT_TEXT_TOKENS, rolling_capacity
from livecc_jax.stream.history import ROLLING
from livecc_jax.stream.prompt import PROMPT_BUCKET

STOP_IDS = StopIds((151645, 151643), None)
QUERY_TOKENS = 64  # assumed length of the query


@dataclass(frozen=True)
class StreamingLoad:
    """The load of an engine.

    Attributes:
        sessions: Number of concurrent conversations, each with a rolling cache.
        batch: Number of turns of an engine step.
        pair_tokens: Tokens of a frame pair.
        max_new_tokens: Maximum number of new tokens of a turn.
        turn_tokens: New tokens of an ordinary turn.

    Raises:
        ConfigError: A value is less than 1.
    """

    sessions: int
    batch: int
    pair_tokens: int
    max_new_tokens: int = 16
    turn_tokens: int = 6

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 1:
                raise ConfigError(f"{field.name} must be at least 1, not {getattr(self, field.name)}")

    def to_json(self) -> dict[str, int]:
        """Returns every value by its name in the JSON output."""
        return {
            "sessions": self.sessions,
            "batch": self.batch,
            "pair": self.pair_tokens,
            "limit": self.max_new_tokens,
            "spoken": self.turn_tokens,
        }


@dataclass(frozen=True)
class ProgramCost:
    """The cost of one program or of a part of it.

    Attributes:
        flops: FLOPs of all chips.
        memory_bytes: Bytes that one chip reads from and writes to HBM.
        sent_bytes: Bytes that one chip sends to other chips.
        computing: Seconds, if nothing but arithmetic took time.
        memory: Seconds, if nothing but HBM traffic took time.
        network: Seconds, if nothing but the network took time.
    """

    flops: float
    memory_bytes: float
    sent_bytes: float
    computing: float
    memory: float
    network: float

    @property
    def seconds(self) -> float:
        """Roofline time: computing, memory and network perfectly overlapped."""
        return max(self.computing, self.memory, self.network)


@dataclass(frozen=True)
class StreamingPlan(CompiledPlan):
    """The costs of an engine step of ordinary turns.

    Attributes:
        load: The load of the engine.
        context: Maximum number of tokens that a turn attends to.
        hbm_rate: Memory bandwidth of a chip in bytes/s.
        vision: Cost of encoding the frames of all turns.
        prompt: Cost of the prefill, and of the first new token, of all turns.
        token: Cost of one more new token of every turn.
    """

    load: StreamingLoad
    context: int
    hbm_rate: float
    vision: ProgramCost
    prompt: ProgramCost
    token: ProgramCost

    @property
    def step_seconds(self) -> float:
        """Roofline time of an engine step; an array that is read in part counts in full."""
        decoding = (self.load.turn_tokens - 1) * self.token.seconds
        return self.vision.seconds + self.prompt.seconds + decoding

    @property
    def weights_seconds(self) -> float:
        """Time to read the weights of a chip once, as every new token does."""
        return self.memory["weights"] / self.hbm_rate

    DERIVED: ClassVar[tuple[str, ...]] = ("used", "fits", "weights_seconds")

    def to_json(self) -> dict[str, Any]:
        """Returns every value by its name in the JSON output."""
        return super().to_json() | {"load": self.load.to_json(), "tick_seconds": self.step_seconds}

    def workload(self) -> str:
        """Returns a clause about the sessions."""
        return (
            f"{self.load.sessions} sessions of up to {self.context:,} tokens, "
            f"{self.load.batch} turns a step"
        )

    def cost_lines(self) -> list[str]:
        """Returns a table of the parts of an engine step, and the time of all of them."""
        lines = [
            f"{'':12s} {'FLOPs':>9s} {'GB moved':>9s} {'GB sent':>8s} {'computing':>10s} "
            f"{'memory':>9s} {'network':>9s}   (FLOPs of all chips, the rest of one; ms)"
        ]
        parts = (("vision", self.vision), ("prompt", self.prompt), ("a token", self.token))
        for name, cost in parts:
            lines.append(
                f"  {name:10s} {cost.flops:9.3g} {cost.memory_bytes / 1e9:9.2f} "
                f"{cost.sent_bytes / 1e9:8.3f} "
                f"{1e3 * cost.computing:10.2f} {1e3 * cost.memory:9.2f} {1e3 * cost.network:9.2f}"
            )
        return [
            *lines,
            "",
            f"an engine step of {self.load.turn_tokens} tokens: {1e3 * self.step_seconds:.0f} ms, "
            "where an array that is read in part counts in full;",
            f"reading the weights alone takes {1e3 * self.weights_seconds:.1f} ms a token",
        ]


def default_mesh(config: ModelConfig, chips: int) -> MeshConfig:
    """Returns a mesh with as many chips along `tensor` as heads allow, and the rest along `data`."""
    tensor = math.gcd(chips, config.text.kv_heads, config.vision.heads)
    return MeshConfig(chips // tensor, 1, 1, tensor)


def plan_streaming(
    config: ModelConfig,
    topology: Topology,
    sizes: MeshConfig,
    load: StreamingLoad,
    dtype: str = "bfloat16",
) -> StreamingPlan:
    """Compiles an engine step of ordinary turns for a slice and reads off its costs.

    Args:
        config: The architecture.
        topology: The slice.
        sizes: Sizes of the mesh axes.
        load: The load of the engine.
        dtype: Dtype of weights and cache.

    Raises:
        ConfigError: The model or the batch does not divide over the mesh, or libtpu is missing.
        DoesNotFitError: The programs need more memory than a chip has.
    """
    sizes = resolve_mesh(dataclasses.replace(sizes, devices=0), topology.chips)
    groups = sizes.data * sizes.fsdp
    if sizes.context > 1:
        raise ConfigError("mesh.context splits rows of training; here it must be 1")
    if load.batch % groups:
        raise ConfigError(
            f"a batch of {load.batch} turns does not divide over the {groups} groups of chips along "
            "mesh.data and mesh.fsdp"
        )
    mesh = make_mesh(sizes, topology.devices())
    context_tokens, cache_tokens = rolling_capacity(
        ROLLING, load.pair_tokens, QUERY_TOKENS, load.max_new_tokens
    )
    cache_tokens *= -(-load.sessions // groups) * groups
    start = time.perf_counter()
    weights = abstract_weights(config, mesh, jnp.dtype(dtype))
    cache = abstract_cache(config, mesh, cache_tokens, jnp.dtype(dtype))
    encode, step = _trace_steps(config, mesh, weights, cache, context_tokens, load, jnp.dtype(dtype))
    advice = "; take fewer --sessions, a smaller --batch or a larger slice"
    with jax.set_mesh(mesh):
        compiled = [compile_for_slice(x, topology, "the engine", advice) for x in (encode, step)]
    compile_seconds = time.perf_counter() - start

    encode_text, step_text = (x.as_text() for x in compiled)
    # The length of the decoding loop is unknown: one iteration costs what a second reading with one
    # iteration adds to a reading with none.
    without, with_one = (read_program(step_text, mesh.size, trips) for trips in (0.0, 1.0))
    iteration_flops = sum(_decoding_loop_flops(step.jaxpr).values())
    cost = functools.partial(_program_cost, topology, mesh)
    return StreamingPlan(
        topology=str(topology),
        chips=topology.chips,
        mesh={axis: getattr(sizes, axis) for axis in AXES},
        memory={
            "weights": bytes_per_device(weights),
            "keys and values": bytes_per_device(cache),
            "working memory": max(map(temporary_bytes, compiled)),
            "programs": sum(map(code_bytes, compiled)),
        },
        hbm=topology.chip.hbm_bytes,
        compile_seconds=compile_seconds,
        load=load,
        context=context_tokens,
        hbm_rate=topology.chip.hbm_rate,
        vision=cost(sum(count_flops(encode.jaxpr).values()), read_program(encode_text, mesh.size)),
        prompt=cost(sum(count_flops(step.jaxpr).values()) - iteration_flops, without),
        token=cost(iteration_flops, with_one, without),
    )


def _trace_steps(
    config: ModelConfig,
    mesh: Mesh,
    weights: DecodingWeights,
    cache: list[tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]],
    context_tokens: int,
    load: StreamingLoad,
    dtype: Any,
) -> tuple[Any, Any]:
    """Traces the encoding of frames and the engine step, for a batch of turns of one frame pair."""
    batch_sharding = NamedSharding(mesh, partition_spec(("batch",)))

    def batch_array(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((load.batch, *shape), dtype, sharding=batch_sharding)

    pair, limit = load.pair_tokens, load.max_new_tokens
    prompt = -(-(pair + PROMPT_TEXT_TOKENS) // PROMPT_BUCKET) * PROMPT_BUCKET
    features = batch_array(dtype, pair, (1 + len(config.vision.deepstack)) * config.text.width)
    turn, sampling = abstract_turn_inputs(batch_array, prompt, features)
    context, slots = abstract_cache_context(batch_array, context_tokens, prompt, limit)
    # Frames of as many tokens as a pair has, as square as possible; a token is 28 x 28 pixels.
    side = next(n for n in range(math.isqrt(pair), 0, -1) if pair % n == 0)
    frames = batch_array(jnp.uint8, 2, 28 * side, 28 * pair // side, 3)
    with jax.set_mesh(mesh):
        encode = encode_frames_step.trace(config, weights.for_vision(), frames)
        step = engine_step.trace(
            config, STOP_IDS, limit, weights.for_text(), cache, context, turn, slots, sampling,
            batch_array(jnp.int32), False,
        )  # fmt: skip
    return encode, step


def _decoding_loop_flops(jaxpr: Any) -> dict[str, float]:
    """Returns the FLOPs of one iteration of the loop that generates tokens."""
    loops = [e.params["body_jaxpr"] for e in jaxpr.jaxpr.eqns if e.primitive.name == "while"]
    return max(map(count_flops, loops), key=lambda kinds: sum(kinds.values()))


def _program_cost(
    topology: Topology, mesh: Mesh, flops: float, program: Program, without: Program | None = None
) -> ProgramCost:
    """Returns the cost of a program, less the traffic of `without`."""
    traffic = network_traffic(program, topology, mesh)
    sent = sum(traffic.sent.values())
    seconds = traffic.chip_seconds + traffic.slice_seconds
    memory = program.memory_bytes
    if without is not None:
        less = network_traffic(without, topology, mesh)
        sent -= sum(less.sent.values())
        seconds -= less.chip_seconds + less.slice_seconds
        memory -= without.memory_bytes
    return ProgramCost(
        flops=flops,
        memory_bytes=memory,
        sent_bytes=sent,
        computing=flops / topology.chips / topology.chip.flops,
        memory=memory / topology.chip.hbm_rate,
        network=seconds,
    )
