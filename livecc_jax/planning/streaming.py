"""What an engine's tick will take on a TPU slice, from its programs compiled for it, without one."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from livecc_jax.decoding.engine_step import Places, take_turns
from livecc_jax.decoding.generate import Controls, StopIds
from livecc_jax.decoding.network import LAYER_AXES, Weights, lay_out
from livecc_jax.decoding.paged_cache import POOL_AXES, Context
from livecc_jax.decoding.session_step import TurnInput, look
from livecc_jax.errors import ConfigError
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.qwen2_vl import abstract_params, logical_axes
from livecc_jax.parallel.mesh import AXES, MeshConfig, make_mesh, resolve, slice_of
from livecc_jax.parallel.rules import partition_spec, sharding_tree
from livecc_jax.planning.chips import Topology
from livecc_jax.planning.cost import counted_flops
from livecc_jax.planning.hlo import Program, read_program, wanted_memory
from livecc_jax.stream.history import ROLLING
from livecc_jax.stream.prompt import PROMPT_BUCKET
from livecc_jax.stream.rolling import PROMPT_TEXT, rolling_room

END = StopIds((151645, 151643), None)
ASKED = 64  # tokens of the query


@dataclass(frozen=True)
class Load:
    """What is asked of an engine.

    sessions: conversations at once, each with a rolling cache; batch: turns a tick; pair: tokens of a
    frame pair; limit: most new tokens a turn; spoken: those of an ordinary turn.
    """

    sessions: int
    batch: int
    pair: int
    limit: int = 16
    spoken: int = 6

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 1:
                raise ConfigError(f"{field.name} must be at least 1, not {getattr(self, field.name)}")


@dataclass(frozen=True)
class Part:
    """One step of a tick: FLOPs of all chips, bytes and times of one."""

    flops: float
    memory_bytes: float  # read from and written to HBM
    sent_bytes: float  # to other chips
    computing: float  # seconds, if nothing but this took time
    memory: float
    network: float

    @property
    def seconds(self) -> float:
        """Computing, memory and network perfectly overlapped."""
        return max(self.computing, self.memory, self.network)


@dataclass(frozen=True)
class StreamPlan:
    """Figures of a tick of ordinary turns."""

    topology: str
    chips: int
    mesh: dict[str, int]
    load: Load
    context: int  # tokens that a turn may attend to
    memory: dict[str, float]  # bytes a chip, by use
    hbm: float  # bytes a program may use
    hbm_rate: float  # bytes a second
    vision: Part
    prompt: Part
    token: Part  # one of every row
    compile_seconds: float

    @property
    def used(self) -> float:
        """Bytes of HBM."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        """Whether a chip holds it."""
        return self.used <= self.hbm

    @property
    def tick_seconds(self) -> float:
        """For a batch of turns, by the programs' text: an array that is read in part counts whole."""
        said = (self.load.spoken - 1) * self.token.seconds
        return self.vision.seconds + self.prompt.seconds + said

    @property
    def weights_seconds(self) -> float:
        """To read a chip's weights once, which every token does."""
        return self.memory["weights"] / self.hbm_rate

    def to_json(self) -> dict[str, Any]:
        """Every figure by name."""
        derived = ("used", "fits", "tick_seconds", "weights_seconds")
        return dataclasses.asdict(self) | {name: getattr(self, name) for name in derived}


def default_mesh(config: ModelConfig, chips: int) -> MeshConfig:
    """As many chips a model as its heads allow, and as many models as that leaves."""
    tensor = math.gcd(chips, config.text.kv_heads, config.vision.heads)
    return MeshConfig(chips // tensor, 1, 1, tensor)


def plan_stream(
    config: ModelConfig, topology: Topology, sizes: MeshConfig, load: Load, dtype: str = "bfloat16"
) -> StreamPlan:
    """Compile a tick of ordinary turns for the slice and read off what it takes.

    Args:
        config: the architecture.
        topology: what to compile for.
        sizes: of the mesh.
        load: what the engine is to do.
        dtype: of weights and cache.

    Raises:
        ConfigError: the model does not divide over the mesh, the batch does not, libtpu is missing, or
            the programs need more memory than a chip has.
    """
    sizes = resolve(dataclasses.replace(sizes, devices=0), topology.chips)
    groups = sizes.data * sizes.fsdp
    if sizes.context > 1:
        raise ConfigError("mesh.context splits rows of training; here it must be 1")
    if load.batch % groups:
        raise ConfigError(
            f"a batch of {load.batch} turns does not divide over the {groups} groups of chips along "
            "mesh.data and mesh.fsdp"
        )
    mesh = make_mesh(sizes, topology.devices())
    room, pool_tokens = rolling_room(ROLLING, load.pair, ASKED, load.limit)
    pool_tokens *= -(-load.sessions // groups) * groups
    began = time.perf_counter()
    weights = abstract_weights(config, mesh, jnp.dtype(dtype))
    place = NamedSharding(mesh, partition_spec(POOL_AXES))
    shape = (pool_tokens, config.text.kv_heads, config.text.head_dim)
    keys = jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=place)
    pool = [(keys, keys)] * config.text.layers

    def rows(kind: Any, *more: int) -> jax.ShapeDtypeStruct:
        spec = NamedSharding(mesh, partition_spec(("batch",)))
        return jax.ShapeDtypeStruct((load.batch, *more), kind, sharding=spec)

    q, m, ints = -(-(load.pair + PROMPT_TEXT) // PROMPT_BUCKET) * PROMPT_BUCKET, load.limit, jnp.int32
    turn, controls = abstract_turns(rows, q, rows(jnp.dtype(dtype), load.pair, config.text.width))
    context, places = abstract_context(rows, room, q, m)
    side = next(n for n in range(math.isqrt(load.pair), 0, -1) if load.pair % n == 0)
    frames = rows(jnp.uint8, 2, 28 * side, 28 * load.pair // side, 3)
    with jax.set_mesh(mesh):
        looking = look.trace(config, weights.for_seeing(), frames)
        taking = take_turns.trace(
            config, END, m, weights.for_saying(), pool, context, turn, places, controls, rows(ints),
            False,
        )  # fmt: skip
        try:
            compiled = [traced.lower().compile() for traced in (looking, taking)]
        except jax.errors.JaxRuntimeError as error:
            raise _explained(error, topology) from error
    took = time.perf_counter() - began

    vision, tick = (x.as_text() for x in compiled)
    # The loop of the answer, whose length nobody knows: what it does once is what a second time adds.
    without, once = (read_program(tick, mesh.size, trips) for trips in (0.0, 1.0))
    body = sum(_answering(taking.jaxpr).values())
    figure = functools.partial(_part, topology, mesh)
    temporary = max(
        a.temp_size_in_bytes + a.output_size_in_bytes - a.alias_size_in_bytes
        for a in (x.memory_analysis() for x in compiled)
    )
    return StreamPlan(
        topology=str(topology),
        chips=topology.chips,
        mesh={axis: getattr(sizes, axis) for axis in AXES},
        load=load,
        context=room,
        memory={
            "weights": _bytes(weights),
            "keys and values": _bytes(pool),
            "working memory": float(temporary),
            "programs": float(sum(x.memory_analysis().generated_code_size_in_bytes for x in compiled)),
        },
        hbm=topology.chip.hbm_bytes,
        hbm_rate=topology.chip.hbm_rate,
        vision=figure(sum(counted_flops(looking.jaxpr).values()), read_program(vision, mesh.size)),
        prompt=figure(sum(counted_flops(taking.jaxpr).values()) - body, without),
        token=figure(body, once, without),
        compile_seconds=took,
    )


def abstract_turns(
    rows: Callable[..., jax.ShapeDtypeStruct], prompt: int, pictures: jax.ShapeDtypeStruct
) -> tuple[TurnInput, Controls]:
    """Turns of so many tokens' prompts; rows(dtype, *shape) is an array [B, *shape]."""
    numbers = functools.partial(rows, jnp.int32)
    turn = TurnInput(
        numbers(prompt), numbers(), numbers(3, prompt), numbers(), numbers(prompt), pictures
    )
    return turn, Controls(*[rows(jnp.float32)] * 4, rows(jnp.uint32, 2))


def abstract_context(
    rows: Callable[..., jax.ShapeDtypeStruct], room: int, prompt: int, limit: int
) -> tuple[Context, Places]:
    """What turns of a tick attend to, and where they and their answers go."""
    numbers = functools.partial(rows, jnp.int32)
    context = Context(numbers(room), numbers(room), numbers(3, room), numbers())
    return context, Places(numbers(prompt), numbers(limit))


def abstract_weights(config: ModelConfig, mesh: Mesh, dtype: Any) -> Weights:
    """What `lay_out(..., spread=(config, mesh))` gives, as shapes with their shardings."""
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), abstract_params(config))
    shapes: Weights = jax.eval_shape(lay_out, params)
    axes = logical_axes(config)
    stacked = axes["vision"]["blocks"]
    of_block = jax.tree.map(lambda a: a[1:], stacked, is_leaf=lambda a: isinstance(a, tuple))
    of_rest = {k: {name: axes[k][name] for name in v} for k, v in shapes.rest.items()}

    def placed(tree: Any, axes: Any) -> Any:
        return jax.tree.map(
            lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
            tree,
            sharding_tree(mesh, axes, tree),
        )

    return Weights(
        placed(shapes.rest, of_rest),
        [placed(layer, LAYER_AXES) for layer in shapes.layers],
        [placed(block, {k: of_block[k] for k in block}) for block in shapes.blocks],
        placed(shapes.norms, {k: stacked[k] for k in shapes.norms}),
        {},
    )


def _answering(jaxpr: Any) -> dict[str, float]:
    """FLOPs of one round of the loop that decodes."""
    loops = [e.params["body_jaxpr"] for e in jaxpr.jaxpr.eqns if e.primitive.name == "while"]
    return max(map(counted_flops, loops), key=lambda kinds: sum(kinds.values()))


def _part(
    topology: Topology, mesh: Mesh, flops: float, program: Program, before: Program | None = None
) -> Part:
    """Figures of a program, less those of the part before."""
    places = [(tuple(d.coords), slice_of(d)) for d in mesh.devices.flat]

    def network(program: Program) -> tuple[float, float]:
        sent = seconds = 0.0
        for c in program.collectives:
            rate, _ = topology.rate([places[i] for i in c.group])
            sent, seconds = sent + c.sent, seconds + c.sent / rate
        return sent, seconds

    sent, seconds = network(program)
    memory = program.memory_bytes
    if before is not None:
        earlier = network(before)
        sent, seconds = sent - earlier[0], seconds - earlier[1]
        memory -= before.memory_bytes
    return Part(
        flops=flops,
        memory_bytes=memory,
        sent_bytes=sent,
        computing=flops / topology.chips / topology.chip.flops,
        memory=memory / topology.chip.hbm_rate,
        network=seconds,
    )


def _bytes(tree: Any) -> float:
    """Of one device's part of every array."""
    leaves = jax.tree.leaves(tree)
    return float(sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves))


def _explained(error: Exception, topology: Topology) -> Exception:
    """XLA's report of too little memory as one sentence; any other error as it is."""
    wanted = wanted_memory(str(error))
    if wanted is None:
        return error
    return ConfigError(
        f"the engine does not fit on {topology}: it needs {wanted[0]} a chip, of {wanted[1]}; "
        "take fewer --sessions, a smaller --batch or a larger slice"
    )
