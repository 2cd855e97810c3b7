"""What the tower's attention takes, and what stands between two products: by our kernels, and without.

    python benchmarks/row_kernels.py --presets 7b,2b --rows 1,16
    python benchmarks/row_kernels.py --presets 2b --rows 1,16 --whole

On a GPU of Hopper's generation. Of so many streams that take a turn at once: the tower's attention
against cuDNN; the rotation before it; a layer's context out of the pool; products with gate or GELU
behind them; residual and norm; and in eight bits residual, norm, gate or GELU with scale and rounding;
each against plain XLA's and beside its floor: the bytes it has to move at the measured rate of reading,
or its FLOPs at that of products. Stops if a kernel is wrong. With --whole the tower from pixels to
pictures instead, with all kernels and then without one at a time.
"""

import argparse
import functools
import itertools
import time
from contextlib import nullcontext
from unittest import mock

import jax
import jax.numpy as jnp
from random_weights import random_params
from streaming import machine, seconds

from livecc_jax.decoding.compiled import ON_GPU
from livecc_jax.decoding.network import lay_out, rotated, see
from livecc_jax.decoding.paged_cache import gather_plainly, working_room
from livecc_jax.decoding.quantize import narrow_plainly
from livecc_jax.kernels import (
    flash_vision,
    fused_gemm,
    fused_norm,
    rope,
)
from livecc_jax.kernels.activations import quick_gelu
from livecc_jax.kernels.fused_norm import Narrow, Raw, Sum, add_and_norm, narrow_rows
from livecc_jax.kernels.kv_quantize import narrow
from livecc_jax.kernels.norms import LayerNorm, RmsNorm
from livecc_jax.kernels.paged_gather import gather_context
from livecc_jax.model.presets import preset

SIZE = (448, 672)
PATCHES = 1536  # of a frame pair of this size: whole blocks of the kernel
PROMPT = 416  # tokens, with it
CONTEXT = 8246  # tokens that a stream remembers
ROUNDS, UNROLLED = 20, 5
CLOSE = 0.02  # of the standard deviation; of eight bits, some round the other way


def made(seed, *shape, dtype=jnp.bfloat16):
    return jax.random.normal(jax.random.key(seed, impl="rbg"), shape, dtype)


def each(step, *given):
    """Seconds of `step(*given)`, and of copying the first array given, which ties call to call."""

    @functools.partial(jax.jit, compiler_options=ON_GPU)
    def run(given):
        def some(_, carry):
            for _ in range(UNROLLED):
                (first, *others), nothing = carry
                first = first.at[(0,) * first.ndim].add(nothing.astype(first.dtype))
                # Made whole, though one number of each is looked at.
                out = jax.lax.optimization_barrier(step(first, *others))
                looked_at = sum(x.reshape(-1)[0].astype(jnp.float32) for x in jax.tree.leaves(out))
                carry = (first, *others), looked_at * 0
            return carry

        return jax.lax.fori_loop(0, ROUNDS, some, (given, jnp.float32(0)))[1]

    return seconds(lambda: run(given), 3) / (ROUNDS * UNROLLED)


def wide(x):
    return x.values.astype(jnp.float32) * x.scale if isinstance(x, Narrow) else x.astype(jnp.float32)


def compare(name, floor, ours, plain, *given, counts=lambda x: x):
    """Check one against the other, and print what both take beside a floor in seconds.

    All that they do has to depend on the first array given, or it is not done each time. `counts` is
    what of an outcome has a meaning.
    """

    def outcome(step):
        out = jax.tree.map(counts, jax.jit(step)(*given))
        return jax.tree.map(wide, out, is_leaf=lambda x: isinstance(x, Narrow))

    pairs = zip(*(jax.tree.leaves(outcome(step)) for step in (ours, plain)), strict=True)
    off = max(float(jnp.std(a - b) / jnp.std(b)) for a, b in pairs)
    one, other = each(ours, *given), each(plain, *given)
    print(
        f"  {name}: {1e6 * one:.1f} us, without {1e6 * other:.1f} us, floor {1e6 * floor:.1f} us; "
        f"{off:.1e} of std apart", flush=True,
    )  # fmt: skip
    if not off < CLOSE:
        raise SystemExit("the kernel does not compute what it means")


def tower(sizes, rows, flops, bandwidth):
    """Rotation, attention and the first map of the MLP."""
    qkv = made(0, rows, PATCHES, 3, sizes.heads, sizes.head_dim)
    angles = jax.random.uniform(jax.random.key(1), (1, PATCHES, sizes.head_dim // 2), maxval=6.0)
    moved = 2 * qkv.nbytes * 2 // 3  # queries and keys, read and written

    def plainly(qkv, angles):
        return jnp.stack(rotated(qkv, angles), axis=2)

    ours = rope.rotated_windows
    compare("rotation, and a copy for it", moved / bandwidth, ours, plainly, qkv, angles)

    def cudnn(qkv):
        q, k, v = (qkv[:, :, i] for i in range(3))
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")

    multiplied = 4 * rows * PATCHES**2 * sizes.width
    compare("attention", multiplied / flops, flash_vision.attend, cudnn, plainly(qkv, angles))
    x, kernel = made(2, rows * PATCHES, sizes.width), made(3, sizes.width, sizes.mlp)
    kernel, bias = kernel * sizes.width**-0.5, made(4, sizes.mlp)
    compare(
        "a product and GELU", 2 * rows * PATCHES * kernel.size / flops,
        functools.partial(fused_gemm.times, between="gelu"),
        lambda x, kernel, bias: quick_gelu(x @ kernel + bias), x, kernel, bias,
    )  # fmt: skip


def gate_and_up(rows, width, outputs, flops):
    """As one product with a gate behind it."""
    x, weights = made(2, rows, width), made(3, 2, outputs, width) * width**-0.5

    def plain(x, weights):
        y = jax.lax.dot_general(x, weights, (((1,), (2,)), ((), ())))
        return jax.nn.silu(y[:, 0]) * y[:, 1]

    ours = functools.partial(fused_gemm.times, between="gate")
    compare("a product and its gate", 2 * rows * weights.size / flops, ours, plain, x, weights)


def context(sizes, rows, bandwidth, eight):
    """A layer's keys and values of contexts as full as the rolling cache has them by default."""
    layer = tuple(made(i, rows * CONTEXT, sizes.kv_heads, sizes.head_dim) for i in (2, 3))
    layer = tuple(map(narrow, layer)) if eight else layer
    room = working_room(CONTEXT + PROMPT)
    places = jax.random.permutation(jax.random.key(4), rows * CONTEXT).reshape(rows, -1)
    places = jnp.pad(places, ((0, 0), (0, room - CONTEXT)))
    angles = jax.random.uniform(jax.random.key(5), (rows, room, sizes.head_dim // 2), maxval=6.0)
    length = jnp.full(rows, CONTEXT)
    written = 2 * rows * room * sizes.kv_heads * sizes.head_dim * 2
    moved = written + sum(x.nbytes for x in jax.tree.leaves(layer))
    leaves, shape = jax.tree.flatten(layer)

    def of_rows(x):
        return x[:, :CONTEXT]

    def gathered_by(gather):
        def run(*given):
            places, *kept = given
            return gather(jax.tree.unflatten(shape, kept), places, angles, length, jnp.bfloat16)

        return run

    ours, plain = gathered_by(gather_context), gathered_by(gather_plainly)
    name = "a layer's context" + (", in int8" if eight else "")
    compare(name, moved / bandwidth, ours, plain, places, *leaves, counts=of_rows)


def between(name, rows, size, bandwidth, norm=None, kind=None, eight=True):
    """What stands before a product."""
    outputs = (2, size) if kind == "gate" else (size,)
    bias = None if kind == "gate" or isinstance(norm, RmsNorm) else made(4, *outputs)
    x, sums = made(2, rows, size), made(3, rows, *outputs)
    scale = 0.1 + jnp.abs(made(5, *outputs, dtype=jnp.float32))
    of_sum = norm is not None
    moved = sums.nbytes + rows * size * (1 if eight else 2) + (2 * x.nbytes if of_sum else 0)

    def given(sums, x):
        y = Raw(sums, jnp.ones((rows, 1)), scale, bias) if eight else sums
        return Sum(x, y) if of_sum else y

    def ours(*of):
        rows = given(*of)
        return add_and_norm(rows, norm, eight) if of_sum else narrow_rows(rows, None, kind)

    def plain(*of):
        rows = given(*of)
        if not of_sum:
            return narrow_plainly(rows, None, kind)
        total = rows.added()
        return total, narrow_plainly(total, norm) if eight else norm(total)

    compare(name, moved / bandwidth, ours, plain, sums, x)


def whole_tower(name, rows):
    """Milliseconds of the tower, and what they are without one kind of kernel."""
    config = preset(name)
    weights = lay_out(random_params(config)).for_seeing()
    frames = jax.random.randint(jax.random.key(0), (rows, 2, *SIZE, 3), 0, 256).astype(jnp.uint8)
    kinds = {
        "": None,
        " without residual and norm in one": fused_norm,
        " without GELU in a product": fused_gemm,
        " without attention of its own": flash_vision,
    }
    for what, kernels in kinds.items():
        with mock.patch.object(kernels, "usable", return_value=False) if kernels else nullcontext():
            run = jax.jit(functools.partial(see, config), compiler_options=ON_GPU)
            took = seconds(functools.partial(run, weights, frames), 20)
        print(f"{name}, {rows} frame pairs{what}: {1e3 * took:.2f} ms", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", default="7b,2b")
    parser.add_argument("--rows", default="1,16", help="streams that take a turn at once")
    parser.add_argument("--whole", action="store_true", help="the tower as a whole")
    args = parser.parse_args()
    device = jax.devices()[0]
    print(device.device_kind, f"jax {jax.__version__}", time.strftime("%Y-%m-%d"), sep=", ")
    if not flash_vision.usable(jnp.bfloat16, 80):
        raise SystemExit("these kernels are for a GPU of Hopper's generation")
    if args.whole:
        for name, rows in itertools.product(args.presets.split(","), args.rows.split(",")):
            whole_tower(name, int(rows))
        return
    flops, bandwidth = machine()
    print(f"measured: {flops / 1e12:.0f} TFLOP/s, {bandwidth / 1e12:.2f} TB/s", flush=True)
    for number, name in enumerate(args.presets.split(",")):
        c = preset(name)
        for rows in map(int, args.rows.split(",")):
            if not number:
                v = c.vision
                layer = LayerNorm(1 + made(6, v.depth, v.width), made(7, v.depth, v.width), 3)
                print(f"the tower, {rows} rows of {PATCHES} patches", flush=True)
                tower(v, rows, flops, bandwidth)
                some = functools.partial(between, rows=rows * PATCHES, bandwidth=bandwidth)
                some("residual and norm", size=v.width, norm=layer, eight=False)
                some("residual and norm, to eight bits", size=v.width, norm=layer)
                some("GELU, to eight bits", size=v.mlp, kind="gelu")
            t = c.text
            norm = RmsNorm(1 + made(8, t.width), 1e-6)
            print(f"{name}, {rows} rows of {PROMPT} tokens", flush=True)
            context(t, rows, bandwidth, eight=False)
            context(t, rows, bandwidth, eight=True)
            gate_and_up(rows * PROMPT, t.width, t.mlp, flops)
            some = functools.partial(between, rows=rows * PROMPT, bandwidth=bandwidth)
            some("residual and norm", size=t.width, norm=norm, eight=False)
            some("residual and norm, to eight bits", size=t.width, norm=norm)
            some("gate, to eight bits", size=t.mlp, kind="gate")


if __name__ == "__main__":
    main()
