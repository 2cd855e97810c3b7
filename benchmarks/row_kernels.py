"""Times the kernels for several rows on a Hopper GPU, each against plain XLA or cuDNN.

    python benchmarks/row_kernels.py --presets 7b,2b --rows 1,16
    python benchmarks/row_kernels.py --presets 2b --rows 1,16 --whole

For so many streams that take a turn at once: the tower's attention; products with gate or GELU behind
them; residual and norm; and with quantization residual, norm, gate or GELU. Beside each stands its
floor: the bytes it has to move at the measured rate of reading, or its FLOPs at the measured rate of
products. Stops if a kernel is wrong. With --whole it times the tower from pixels to embeddings instead,
with all kernels and then without one kind at a time.
"""

import argparse
import functools
import itertools
import time

import jax
import jax.numpy as jnp
from random_weights import random_params
from streaming import measure_rates, seconds

from livecc_jax.decoding.compiled import GPU_COMPILER_OPTIONS
from livecc_jax.decoding.vision import encode_frames, rotate_qkv
from livecc_jax.decoding.weights import prepare_weights
from livecc_jax.kernels import flash_vision, fused_gemm, without
from livecc_jax.kernels.activations import quick_gelu
from livecc_jax.kernels.fused_norm import (
    DeferredResidual,
    UnscaledProduct,
    add_and_norm,
    quantize_rows,
    quantize_rows_reference,
)
from livecc_jax.kernels.norms import LayerNorm, RmsNorm
from livecc_jax.kernels.quantized import QuantizedArray, dequantize
from livecc_jax.model.presets import preset

FRAME_SIZE = (448, 672)
PATCHES = 1536  # patches of a frame pair of this size, which are whole blocks of the kernel
PROMPT = 416  # tokens of a prompt with a frame pair
ROUNDS, UNROLLED = 20, 5
TOLERANCE = 0.02  # in standard deviations; 8-bit values may be rounded the other way


def random_array(seed, *shape, dtype=jnp.bfloat16):
    return jax.random.normal(jax.random.key(seed, impl="rbg"), shape, dtype)


def seconds_per_call(step, *args):
    """Seconds of `step(*args)` and of copying the first argument, which orders the calls."""

    @functools.partial(jax.jit, compiler_options=GPU_COMPILER_OPTIONS)
    def run(args):
        def body(_, carry):
            for _ in range(UNROLLED):
                (first, *others), zero = carry
                first = first.at[(0,) * first.ndim].add(zero.astype(first.dtype))
                # The barrier keeps whole results, though one number of each is used.
                out = jax.lax.optimization_barrier(step(first, *others))
                used = sum(x.reshape(-1)[0].astype(jnp.float32) for x in jax.tree.leaves(out))
                carry = (first, *others), used * 0
            return carry

        return jax.lax.fori_loop(0, ROUNDS, body, (args, jnp.float32(0)))[1]

    return seconds(lambda: run(args), 3) / (ROUNDS * UNROLLED)


def to_float32(x):
    is_quantized = isinstance(x, QuantizedArray)
    return dequantize(x, jnp.float32) if is_quantized else x.astype(jnp.float32)


def compare(name, floor, kernel, plain, *args, valid=lambda x: x):
    """Checks a kernel against the plain way, and prints the time of both beside a floor in seconds.

    All that they do has to depend on the first argument, or XLA does it once for all calls. `valid` is
    the part of a result that is defined.
    """

    def result(step):
        out = jax.tree.map(valid, jax.jit(step)(*args))
        return jax.tree.map(to_float32, out, is_leaf=lambda x: isinstance(x, QuantizedArray))

    pairs = zip(*(jax.tree.leaves(result(step)) for step in (kernel, plain)), strict=True)
    error = max(float(jnp.std(a - b) / jnp.std(b)) for a, b in pairs)
    kernel_time, plain_time = seconds_per_call(kernel, *args), seconds_per_call(plain, *args)
    print(
        f"  {name}: {1e6 * kernel_time:.1f} us, without {1e6 * plain_time:.1f} us, "
        f"floor {1e6 * floor:.1f} us; {error:.1e} of std apart", flush=True,
    )  # fmt: skip
    if not error < TOLERANCE:
        raise SystemExit("the kernel and the plain way differ")


def tower(sizes, rows, flops):
    """Attention and the first linear map of the MLP."""
    qkv = random_array(0, rows, PATCHES, 3, sizes.heads, sizes.head_dim)
    angles = jax.random.uniform(jax.random.key(1), (1, PATCHES, sizes.head_dim // 2), maxval=6.0)
    qkv = jnp.stack(rotate_qkv(qkv, angles), axis=2)

    def cudnn(qkv):
        q, k, v = (qkv[:, :, i] for i in range(3))
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")

    floor = 4 * rows * PATCHES**2 * sizes.width / flops
    compare("attention", floor, flash_vision.window_attention, cudnn, qkv)
    x, kernel = random_array(2, rows * PATCHES, sizes.width), random_array(3, sizes.width, sizes.mlp)
    kernel, bias = kernel * sizes.width**-0.5, random_array(4, sizes.mlp)
    compare(
        "a product and GELU", 2 * rows * PATCHES * kernel.size / flops,
        functools.partial(fused_gemm.fused_gemm, epilogue="gelu"),
        lambda x, kernel, bias: quick_gelu(x @ kernel + bias), x, kernel, bias,
    )  # fmt: skip


def gate_and_up(rows, width, outputs, flops):
    """The product of gate and up, with the gate behind it."""
    x, weights = random_array(2, rows, width), random_array(3, 2, outputs, width) * width**-0.5

    def plain(x, weights):
        y = jax.lax.dot_general(x, weights, (((1,), (2,)), ((), ())))
        return jax.nn.silu(y[:, 0]) * y[:, 1]

    kernel = functools.partial(fused_gemm.fused_gemm, epilogue="gate")
    compare("a product and its gate", 2 * rows * weights.size / flops, kernel, plain, x, weights)


def between_products(name, rows, size, bandwidth, norm=None, epilogue=None, quantized=True):
    """Residual and norm, or an epilogue, before the next product."""
    outputs = (2, size) if epilogue == "gate" else (size,)
    bias = None if epilogue == "gate" or isinstance(norm, RmsNorm) else random_array(4, *outputs)
    x, product = random_array(2, rows, size), random_array(3, rows, *outputs)
    scale = 0.1 + jnp.abs(random_array(5, *outputs, dtype=jnp.float32))
    has_residual = norm is not None
    moved = product.nbytes + rows * size * (1 if quantized else 2)
    moved += 2 * x.nbytes if has_residual else 0

    def operand(product, x):
        y = UnscaledProduct(product, jnp.ones((rows, 1)), scale, bias) if quantized else product
        return DeferredResidual(x, y) if has_residual else y

    def kernel(*args):
        y = operand(*args)
        return add_and_norm(y, norm, quantized) if has_residual else quantize_rows(y, None, epilogue)

    def plain(*args):
        y = operand(*args)
        if not has_residual:
            return quantize_rows_reference(y, None, epilogue)
        total = y.add()
        return total, quantize_rows_reference(total, norm) if quantized else norm(total)

    compare(name, moved / bandwidth, kernel, plain, product, x)


def whole_tower(name, rows):
    """Milliseconds of the tower, with all kernels and without one kind of them at a time."""
    config = preset(name)
    weights = prepare_weights(random_params(config)).for_vision()
    frames = jax.random.randint(jax.random.key(0), (rows, 2, *FRAME_SIZE, 3), 0, 256)
    frames = frames.astype(jnp.uint8)
    variants = {
        "": (),
        " without residual and norm in one": ("fused_norm",),
        " without GELU in a product": ("fused_gemm",),
        " without flash_vision": ("flash_vision",),
    }
    for label, off in variants.items():
        with without(*off):
            run = jax.jit(
                functools.partial(encode_frames, config), compiler_options=GPU_COMPILER_OPTIONS
            )
            time_taken = seconds(functools.partial(run, weights, frames), 20)
        print(f"{name}, {rows} frame pairs{label}: {1e3 * time_taken:.2f} ms", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", default="7b,2b")
    parser.add_argument("--rows", default="1,16", help="streams that take a turn at once")
    parser.add_argument("--whole", action="store_true", help="the tower as a whole")
    args = parser.parse_args()
    device = jax.devices()[0]
    print(device.device_kind, f"jax {jax.__version__}", time.strftime("%Y-%m-%d"), sep=", ")
    if not flash_vision.is_supported(jnp.bfloat16, 80):
        raise SystemExit("these kernels are for a GPU of Hopper's generation")
    if args.whole:
        for name, rows in itertools.product(args.presets.split(","), args.rows.split(",")):
            whole_tower(name, int(rows))
        return
    flops, bandwidth = measure_rates()
    print(f"measured: {flops / 1e12:.0f} TFLOP/s, {bandwidth / 1e12:.2f} TB/s", flush=True)
    for number, name in enumerate(args.presets.split(",")):
        c = preset(name)
        for rows in map(int, args.rows.split(",")):
            if not number:
                v = c.vision
                scale, bias = random_array(6, v.depth, v.width), random_array(7, v.depth, v.width)
                layer = LayerNorm(1 + scale, bias, 3)
                print(f"the tower, {rows} rows of {PATCHES} patches", flush=True)
                tower(v, rows, flops)
                time_of = functools.partial(between_products, rows=rows * PATCHES, bandwidth=bandwidth)
                time_of("residual and norm", size=v.width, norm=layer, quantized=False)
                time_of("residual and norm, to eight bits", size=v.width, norm=layer)
                time_of("GELU, to eight bits", size=v.mlp, epilogue="gelu")
            t = c.text
            norm = RmsNorm(1 + random_array(8, t.width), 1e-6)
            print(f"{name}, {rows} rows of {PROMPT} tokens", flush=True)
            gate_and_up(rows * PROMPT, t.width, t.mlp, flops)
            time_of = functools.partial(between_products, rows=rows * PROMPT, bandwidth=bandwidth)
            time_of("residual and norm", size=t.width, norm=norm, quantized=False)
            time_of("residual and norm, to eight bits", size=t.width, norm=norm)
            time_of("gate, to eight bits", size=t.mlp, epilogue="gate")


if __name__ == "__main__":
    main()
