"""Lists the kernels that a GPU runs for a call of streaming, without a GPU.

    pip install "jax[cuda13]"    # its compiler, also where there is no GPU
    python benchmarks/gpu_kernels.py --preset 7b --call turn
    python benchmarks/gpu_kernels.py --preset 7b --call tick --precision fp8 --rows 16 --show 3

Compiles a call of streaming at its real size for an H100 and prints how many kernels each part of the
network takes, and with --show those of one layer. The calls are the vision tower (`look`), a turn of a
session (`turn`), and an engine step (`tick`). Nothing is run: XLA's autotuning is off, so a product
stands for whichever kernel would be chosen on the device.
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

from livecc_jax.decoding.compiled import GPU_COMPILER_OPTIONS
from livecc_jax.decoding.engine_step import engine_step
from livecc_jax.decoding.generate import StopIds
from livecc_jax.decoding.session_step import SlotState, encode_frames_step, session_step
from livecc_jax.decoding.weights import prepare_weights
from livecc_jax.model.presets import preset
from livecc_jax.model.qwen2_vl import abstract_params
from livecc_jax.planning.abstract_decoding import abstract_cache_context, abstract_turn_inputs

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
# As in benchmarks/streaming.py.
FRAME_SIZE, PAIR_TOKENS, PROMPT_TOKENS, MAX_NEW_TOKENS = (448, 672), 384, 416, 6
NOT_KERNELS = ("parameter", "get-tuple-element", "bitcast", "tuple", "constant")


def traced_call(args, abstract_array):
    """The call, traced; `abstract_array` makes an array of a shape and dtype."""
    c, rows = preset(args.preset), args.rows
    params = jax.tree.map(lambda x: abstract_array(x.shape, jnp.bfloat16), abstract_params(c))
    weights = jax.eval_shape(functools.partial(prepare_weights, precision=args.precision), params)
    weights = jax.tree.map(lambda x: abstract_array(x.shape, x.dtype), weights)
    if args.call == "look":
        frames = (abstract_array((2, *FRAME_SIZE, 3), jnp.uint8),) * rows
        call = jax.jit(encode_frames_step.__wrapped__, static_argnames="config")
        return call.trace(c, weights.for_vision(), frames)

    def per_row(dtype, *shape):
        return abstract_array((rows, *shape), dtype)

    embeddings = per_row(jnp.bfloat16, PAIR_TOKENS, c.text.width)
    turn, controls = abstract_turn_inputs(per_row, PROMPT_TOKENS, embeddings)
    stop = StopIds((0, 1), None)
    static = ("config", "stop", "max_tokens", "is_sampled")
    token_shape = (c.text.kv_heads, c.text.head_dim)
    if args.call == "turn":
        keys = per_row(jnp.bfloat16, args.room, *token_shape)
        cache = [(keys, keys)] * c.text.layers
        state = SlotState(per_row(jnp.int32), per_row(jnp.bool, c.text.vocab_size))
        call = jax.jit(
            session_step.__wrapped__, static_argnames=static, donate_argnames=("cache", "state")
        )
        return call.trace(
            c, stop, MAX_NEW_TOKENS, weights.for_text(), cache, state, turn, controls, is_sampled=False
        )
    keys = abstract_array((args.pool, *token_shape), jnp.bfloat16)
    cache = [(keys, keys)] * c.text.layers
    context, slots = abstract_cache_context(per_row, args.room, PROMPT_TOKENS, MAX_NEW_TOKENS)
    call = jax.jit(engine_step.__wrapped__, static_argnames=static, donate_argnames="cache")
    return call.trace(
        c, stop, MAX_NEW_TOKENS, weights.for_text(), cache, context, turn, slots, controls,
        per_row(jnp.int32), is_sampled=False,
    )  # fmt: skip


def kernels(text):
    """(op name, kernel, result) of each kernel of a compiled program, bodies of loops once."""
    computations, name, entry = {}, None, None
    for line in text.splitlines():
        if begins := re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line):
            name = begins[2]
            entry = name if begins[1] else entry
            computations[name] = []
        elif line.startswith("  "):
            computations[name].append(line.strip())

    def walk(name):
        for line in computations[name]:
            op = re.match(r"(?:ROOT )?%([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\(", line)
            if not op or op[3] in NOT_KERNELS:
                continue
            if op[3] in ("while", "call"):
                yield from walk(re.search(r"(?:to_apply|body)=%?([\w.\-]+)", line)[1])
                continue
            op_name = re.search(r'op_name="([^"]*)"', line)
            yield op_name[1] if op_name else "", op[1], op[2]

    return walk(entry)


def part_of(op_name):
    """`prompt`, `token` (in the loop) or `vision`; and the number of the layer, or None."""
    layer = re.search(r"(layer|block)_(\d+)/", op_name)
    is_vision = "jit(encode_frames_step)" in op_name
    part = "token" if "while/body" in op_name else "vision" if is_vision else "prompt"
    return part, int(layer[2]) if layer else None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="7b")
    parser.add_argument("--call", choices=("look", "turn", "tick"), default="turn")
    parser.add_argument("--precision", default="weights", help="weights or fp8")
    parser.add_argument("--rows", type=int, default=1, help="streams")
    parser.add_argument("--room", type=int, help="capacity of a cache, or of an engine step's context")
    parser.add_argument("--pool", type=int, default=48 * 9728, help="slots of the engine's paged cache")
    parser.add_argument("--show", type=int, help="list the kernels of this layer")
    args = parser.parse_args()
    args.room = args.room or (9216 if args.call == "tick" else 32768)
    began = time.perf_counter()
    topology = topologies.get_topology_desc(platform="cuda", target_config=H100, topology="1x1x1")
    sharding = SingleDeviceSharding(topology.devices[0])
    mesh = AbstractMesh((), (), abstract_device=AbstractDevice(KIND, None, "gpu"))
    with jax.sharding.use_abstract_mesh(mesh):
        call = traced_call(args, functools.partial(jax.ShapeDtypeStruct, sharding=sharding))
        lowered = call.lower(lowering_platforms=("cuda",))
    compiled = lowered.compile(compiler_options=None if args.call == "look" else GPU_COMPILER_OPTIONS)
    seconds = time.perf_counter() - began
    memory = compiled.memory_analysis()
    print(f"{KIND}, jax {jax.__version__}, {args.preset}, {args.precision}, {args.call} of {args.rows}")
    print(
        f"compiled in {seconds:.0f} s; {memory.argument_size_in_bytes / 1e9:.2f} GB of arguments, "
        f"{memory.temp_size_in_bytes / 1e9:.2f} GB of temporary memory"
    )
    all_kernels = list(kernels(compiled.as_text()))
    counts = collections.Counter()
    for op_name, _, _ in all_kernels:
        part, layer = part_of(op_name)
        counts[part, layer is not None] += 1
    print(f"{len(all_kernels)} kernels, those of a loop once")
    for (part, in_layers), count in sorted(counts.items()):
        print(f"  {part}, {'in layers' if in_layers else 'outside of layers'}: {count}")
    for op_name, kernel, result in all_kernels:
        if args.show is not None and part_of(op_name)[1] == args.show:
            print(f"    {part_of(op_name)[0]:7} {kernel[:40]:40} {result[:50]:50} {op_name[-48:]}")


if __name__ == "__main__":
    main()
