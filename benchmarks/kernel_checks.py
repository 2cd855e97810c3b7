"""Compares the kernels with plain JAX on a GPU, at the shapes of real models."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from livecc_jax.decoding.attention import attend_masked, write_and_attend, write_and_attend_is_supported
from livecc_jax.decoding.decoder import split_qkv
from livecc_jax.decoding.linear import linear
from livecc_jax.decoding.quantize import quantize, quantize_head, quantized_head_logits, quantized_mlp
from livecc_jax.decoding.vision import rotate_qkv, window_attention
from livecc_jax.kernels.norms import RmsNorm
from livecc_jax.model.rope import rotate


def relative_difference(actual, expected):
    """The largest difference over the largest expected value."""
    actual, expected = (np.asarray(x, np.float32) for x in (actual, expected))
    return np.abs(actual - expected).max() / np.abs(expected).max()


def check_attention():
    """Compares the attention kernels of a prompt and of one token with plain JAX, at real shapes."""
    keys = jax.random.split(jax.random.key(0), 4)
    cache = tuple(jax.random.normal(k, (3, 2560, 4, 128), jnp.bfloat16) for k in keys[:2])
    length, differences = jnp.array([0, 17, 2048]), []
    for queries in (416, 1):
        qkv = jax.random.normal(keys[2], (3, queries, 4, 9, 128), jnp.bfloat16)
        if not write_and_attend_is_supported(qkv, cache[0]):
            raise SystemExit(f"the kernels do not support attention of {queries} queries here")
        angles = jax.random.uniform(keys[3], (3, queries, 64), maxval=6.0)
        out, written = jax.jit(write_and_attend)(qkv, angles, cache, length)
        q, k, v = split_qkv(qkv)
        slots = length[:, None] + jnp.arange(queries)
        rows = jnp.arange(3)[:, None]
        expected = [old.at[rows, slots].set(new) for old, new in zip(cache, (rotate(k, angles), v))]
        visible = jnp.arange(2560) <= slots[..., None]
        plain = attend_masked(rotate(q, angles), *expected, visible).out
        arrays = zip((out, *written), (plain, *expected))
        differences.append([relative_difference(x, y) for x, y in arrays])
        named = zip(("out", "keys", "values"), differences[-1])
        text = ", ".join(f"{name} {x:.1e}" for name, x in named)
        print(f"attention of {queries} queries, difference from plain JAX: {text}", flush=True)
    for patches in (1536, 1000):  # full blocks, and a part of one
        qkv = jax.random.normal(keys[2], (2, patches, 3, 16, 80), jnp.bfloat16)
        angles = jax.random.uniform(keys[3], (1, patches, 40), maxval=6.0)
        out = jax.jit(window_attention)(qkv, angles)
        q, k, v = rotate_qkv(qkv.astype(jnp.float32), angles)
        plain = jax.nn.dot_product_attention(q, k, v, implementation="xla")
        difference = relative_difference(out, plain)
        differences.append([difference] * 3)
        print(f"attention of {patches} patches, difference: {difference:.1e}", flush=True)
    if not np.max(differences) <= 0.02:
        raise SystemExit("the attention kernels differ from plain JAX")


def check_products():
    """Compares the kernels of matrix products with plain JAX."""
    keys, differences = jax.random.split(jax.random.key(1), 8), []
    x = jax.random.normal(keys[6], (1, 1, 3584), jnp.bfloat16)
    kernel = jax.random.normal(keys[7], (3584, 2, 18944), jnp.bfloat16)
    norm = RmsNorm(jnp.full((3584,), 1.5, jnp.bfloat16), 1e-6)
    kernel_t = jnp.moveaxis(kernel, 0, -1)
    fp8 = quantize({"kernel": kernel})
    dequantized = (
        fp8["kernel_fp8"].astype(jnp.float32).reshape(kernel_t.shape) * fp8["scale"][..., None]
    )
    for name, weights, plain in (
        ("bfloat16", {"kernel_t": kernel_t}, kernel_t),
        ("fp8", fp8, dequantized),
    ):
        one = jax.jit(functools.partial(linear, norm=norm, epilogue="gate"))(x, weights)
        y = plain.astype(jnp.float32) @ norm(x[0, 0].astype(jnp.float32))
        differences.append(relative_difference(one[0, 0], jax.nn.silu(y[0]) * y[1]))
        print(f"one token, a product in {name}, difference: {differences[-1]:.1e}", flush=True)
    several = jax.random.normal(keys[3], (1032, 3584), jnp.bfloat16)
    fc1 = jax.random.normal(keys[2], (3584, 5120), jnp.bfloat16) / 60
    bias = jax.random.normal(keys[1], (5120,), jnp.bfloat16)
    for epilogue, weights in (
        ("gate", {"kernel_t": kernel_t / 60}),
        ("gelu", {"kernel": fc1, "bias": bias}),
    ):
        run = jax.jit(functools.partial(linear, epilogue=epilogue))
        exact = jax.tree.map(lambda x: x.astype(jnp.float32), (several, weights))
        differences.append(relative_difference(run(several, weights), run(*exact)))
        print(f"1,032 tokens, a product and {epilogue}, difference: {differences[-1]:.1e}", flush=True)
    head = quantize_head(kernel_t.reshape(-1, 3584))
    dequantized = head["kernel_int8"].astype(jnp.float32) * head["scale"][:, None]
    differences.append(
        relative_difference(
            jax.jit(quantized_head_logits)(x[0, 0], head), dequantized @ x[0, 0].astype(jnp.float32)
        )
    )
    many = jax.random.normal(keys[5], (64, 3584), jnp.bfloat16)
    down = quantize({"kernel": jax.random.normal(keys[4], (18944, 3584), jnp.bfloat16)})
    fused = functools.partial(quantized_mlp, epilogue="gate", second=down, norm=norm)
    actual = jax.jit(lambda x, first: fused(x, first).scaled())(many, fp8)
    mlp = jnp.einsum("td,dgf->tgf", norm(many.astype(jnp.float32)), kernel.astype(jnp.float32))
    plain = jax.nn.silu(mlp[:, 0]) * mlp[:, 1]
    plain = plain @ jax.random.normal(keys[4], (18944, 3584), jnp.bfloat16).astype(jnp.float32)
    noise = float(jnp.std(actual.astype(jnp.float32) - plain) / jnp.std(plain))
    print(
        f"the int8 head, difference: {differences[-1]:.1e}; an fp8 MLP, noise {noise:.3f}", flush=True
    )
    if max(differences) > 0.02 or noise > 0.1:
        raise SystemExit("the kernels of matrix products differ from plain JAX")
