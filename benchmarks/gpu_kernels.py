"""What a GPU is given to do for a turn: its kernels, one by one, without a GPU.

    pip install "jax[cuda13]"    # its compiler, also where there is no GPU
    python benchmarks/gpu_kernels.py --preset 7b --call turn
    python benchmarks/gpu_kernels.py --preset 7b --call tick --precision fp8 --rows 16 --show 3

Compiles a call of streaming at its real size for an H100 and prints how many kernels each part of the
network takes, and with --show those of one layer. Nothing is run: which of several kernels is fastest
for a product is not tried out, so products stand for whatever is chosen on the device.
"""

import argparse
import collections
import functools
import os
import re
import time

os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_autotune_level=0"

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import AbstractDevice, AbstractMesh, SingleDeviceSharding

from livecc_jax.decoding.compiled import ON_GPU
from livecc_jax.decoding.engine_step import take_turns
from livecc_jax.decoding.generate import StopIds
from livecc_jax.decoding.network import lay_out
from livecc_jax.decoding.session_step import SlotState, look, run_turn
from livecc_jax.model.presets import preset
from livecc_jax.model.qwen2_vl import abstract_params
from livecc_jax.planning.streaming import abstract_context, abstract_turns

KIND = "NVIDIA H100 80GB HBM3"
H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 13 }
gpu_device_info {
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  threads_per_block_limit: 1024
  threads_per_warp: 32
  threads_per_core_limit: 2048
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  l2_cache_size: 52428800
  memory_bandwidth: 3352320000000
  device_memory_size: 84978434048
}
"""
SIZE, PAIR, PROMPT, NEW = (448, 672), 384, 416, 6  # as benchmarks/streaming.py has them
NO_KERNEL = ("parameter", "get-tuple-element", "bitcast", "tuple", "constant")


def traced(args, of):
    """The call, traced; `of` makes an array of a shape and dtype."""
    c, rows = preset(args.preset), args.rows
    params = jax.tree.map(lambda x: of(x.shape, jnp.bfloat16), abstract_params(c))
    weights = jax.eval_shape(functools.partial(lay_out, precision=args.precision), params)
    weights = jax.tree.map(lambda x: of(x.shape, x.dtype), weights)
    if args.call == "look":
        return jax.jit(look.__wrapped__, static_argnames="config").trace(
            c, weights.for_seeing(), (of((2, *SIZE, 3), jnp.uint8),) * rows
        )

    def each(dtype, *shape):
        return of((rows, *shape), dtype)

    turn, controls = abstract_turns(each, PROMPT, each(jnp.bfloat16, PAIR, c.text.width))
    stop = StopIds((0, 1), None)
    static = ("config", "stop", "limit", "sampled")
    token = (c.text.kv_heads, c.text.head_dim)
    if args.call == "turn":
        kept = each(jnp.bfloat16, args.room, *token)
        state = SlotState(each(jnp.int32), each(jnp.bool, c.text.vocab_size))
        call = jax.jit(run_turn.__wrapped__, static_argnames=static, donate_argnames=("cache", "state"))
        cache = [(kept, kept)] * c.text.layers
        return call.trace(
            c, stop, NEW, weights.for_saying(), cache, state, turn, controls, sampled=False
        )
    kept = of((args.pool, *token), jnp.bfloat16)
    context, places = abstract_context(each, args.room, PROMPT, NEW)
    call = jax.jit(take_turns.__wrapped__, static_argnames=static, donate_argnames="pool")
    return call.trace(
        c, stop, NEW, weights.for_saying(), [(kept, kept)] * c.text.layers, context, turn, places,
        controls, each(jnp.int32), sampled=False,
    )  # fmt: skip


def kernels(text):
    """(part of the network, kernel, its outcome) of a compiled program, loops' bodies once."""
    parts, name, entry = {}, None, None
    for line in text.splitlines():
        if begins := re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line):
            name = begins[2]
            entry = name if begins[1] else entry
            parts[name] = []
        elif line.startswith("  "):
            parts[name].append(line.strip())

    def walk(name):
        for line in parts[name]:
            op = re.match(r"(?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\(", line)
            if not op or op[3] in NO_KERNEL:
                continue
            if op[3] in ("while", "call"):
                yield from walk(re.search(r"(?:to_apply|body)=%?([\w.\-]+)", line)[1])
                continue
            where = re.search(r'op_name="([^"]*)"', line)
            yield where[1] if where else "", op[1], op[2]

    return walk(entry)


def part_of(where):
    """`prompt`, `token` (of the loop) or `vision`, and whether in a layer."""
    layer = re.search(r"(layer|block)_(\d+)/", where)
    part = "token" if "while/body" in where else "vision" if "jit(look)" in where else "prompt"
    return part, int(layer[2]) if layer else None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="7b")
    parser.add_argument("--call", choices=("look", "turn", "tick"), default="turn")
    parser.add_argument("--precision", default="weights", help="weights or fp8")
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--room", type=int, help="tokens of a cache, or of a tick's context")
    parser.add_argument("--pool", type=int, default=48 * 9728, help="tokens of a tick's pool")
    parser.add_argument("--show", type=int, help="the kernels of this layer")
    args = parser.parse_args()
    args.room = args.room or (9216 if args.call == "tick" else 32768)
    began = time.perf_counter()
    topology = topologies.get_topology_desc(platform="cuda", target_config=H100, topology="1x1x1")
    place = SingleDeviceSharding(topology.devices[0])
    there = AbstractMesh((), (), abstract_device=AbstractDevice(KIND, None, "gpu"))
    with jax.sharding.use_abstract_mesh(there):
        call = traced(args, lambda shape, dtype: jax.ShapeDtypeStruct(shape, dtype, sharding=place))
        lowered = call.lower(lowering_platforms=("cuda",))
    compiled = lowered.compile(compiler_options=None if args.call == "look" else ON_GPU)
    took = time.perf_counter() - began
    memory = compiled.memory_analysis()
    print(f"{KIND}, jax {jax.__version__}, {args.preset}, {args.precision}, {args.call} of {args.rows}")
    print(
        f"compiled in {took:.0f} s; {memory.argument_size_in_bytes / 1e9:.2f} GB given, "
        f"{memory.temp_size_in_bytes / 1e9:.2f} GB of working memory"
    )
    found = list(kernels(compiled.as_text()))
    counts = collections.Counter()
    for where, _, _ in found:
        loop, layer = part_of(where)
        counts[loop, layer is not None] += 1
    print(f"{len(found)} kernels, a loop's once")
    for (loop, in_layers), count in sorted(counts.items()):
        print(f"  {loop}, {'in layers' if in_layers else 'beside layers'}: {count}")
    for where, name, outcome in found:
        if args.show is not None and part_of(where)[1] == args.show:
            print(f"    {part_of(where)[0]:7} {name[:40]:40} {outcome[:50]:50} {where[-48:]}")


if __name__ == "__main__":
    main()
