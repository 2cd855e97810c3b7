"""Checks and times attention over packed rows on one GPU, by backend.

    python benchmarks/attention_gpu.py

First every backend against plain XLA in float32, values and gradients, with several segments in a
row, and a segment of a row against the same segment alone. Then times at the decoder's shapes (7B: 28
query heads, 4 key heads of 128) and the vision tower's (16 heads of 80, windows of whole frame pairs).
FLOP/s count only unmasked pairs: two matrix products forward, five more backward.
"""

from __future__ import annotations

import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np

from livecc_jax.model.attention import attend, use_backend
from livecc_jax.model.attention_cudnn import MAX_SEGMENTS, MAX_WINDOW_SEGMENTS

BF16 = jnp.bfloat16


def random_inputs(rows, length, heads, kv_heads, width, lengths, dtype=BF16):
    """Random q, k and v, and ids of segments of these lengths; the rest of the row is padding."""
    keys = jax.random.split(jax.random.key(length), 3)
    q, k, v = (
        jax.random.normal(key, (rows, length, n, width), jnp.float32).astype(dtype)
        for key, n in zip(keys, (heads, kv_heads, kv_heads))
    )
    ids = np.zeros((rows, length), np.int32)
    stops = np.cumsum([0, *lengths])
    assert stops[-1] <= length
    for i, (start, stop) in enumerate(itertools.pairwise(stops), 1):
        ids[:, start:stop] = i
    return q, k, v, jnp.asarray(ids)


def uneven_lengths(length, segments, filled=0.9):
    """Uneven lengths of so many segments, which fill this share of a row."""
    weights = np.random.default_rng(segments).uniform(0.5, 1.5, segments)
    return np.floor(weights / weights.sum() * filled * length).astype(int)


def flops(rows, length, heads, width, lengths, causal):
    """FLOPs of one forward pass, without padding."""
    pairs = sum(n * (n + 1) / 2 if causal else n * n for n in map(float, lengths))
    return 4 * rows * heads * width * pairs


def by_backend(name, causal):
    def f(q, k, v, ids):
        with use_backend(name):
            return attend(q, k, v, ids, causal=causal)

    return f


def triton(causal, block=64):
    """JAX's Pallas kernel on Triton, which takes segment ids; key heads are repeated."""
    from jax.experimental.pallas.ops.gpu import attention as gpu

    def f(q, k, v, ids):
        k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], 2) for x in (k, v))
        blocks = gpu.BlockSizes(
            block_q=2 * block, block_k=block, block_q_dkv=block, block_kv_dkv=block,
            block_q_dq=block, block_kv_dq=block,
        )  # fmt: skip
        return gpu.mha(q, k, v, ids, sm_scale=q.shape[-1] ** -0.5, causal=causal, block_sizes=blocks)

    return f


def one_segment(causal):
    """cuDNN through jax.nn for rows of one segment, the speed to compare with."""

    def f(q, k, v, ids):
        del ids
        return jax.nn.dot_product_attention(q, k, v, is_causal=causal, implementation="cudnn")

    return f


def gradients(f):
    def loss(q, k, v, ids, weights):
        out = f(q, k, v, ids)
        real = (ids > 0)[..., None, None]
        return jnp.sum(jnp.where(real, out.astype(jnp.float32) * weights, 0.0))

    return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))


def max_error(actual, expected):
    """Largest difference relative to the largest value, over arrays."""
    return max(
        float(jnp.max(jnp.abs(a.astype(jnp.float32) - b)) / jnp.max(jnp.abs(b)))
        for a, b in zip(actual, expected)
    )


def check(name, f, shape, lengths, causal):
    """Prints errors of values and gradients, packed against alone, and what leaks between segments."""
    q, k, v, ids = random_inputs(*shape, lengths)
    qkv32 = [x.astype(jnp.float32) for x in (q, k, v)]
    weights = jax.random.normal(jax.random.key(1), q.shape, jnp.float32)
    plain = by_backend("xla", causal)
    not_padding = (ids > 0)[..., None, None]
    with jax.default_matmul_precision("highest"):
        expected = jnp.where(not_padding, jax.jit(plain)(*qkv32, ids), 0)
        expected_grads = gradients(plain)(*qkv32, ids, weights)[1]
    run, grad = jax.jit(f), gradients(f)
    out = jnp.where(not_padding, run(q, k, v, ids), 0)
    grads = grad(q, k, v, ids, weights)[1]
    finite = all(bool(jnp.isfinite(x).all()) for x in (out, *grads))

    # The second segment alone must give what it gives among others, whatever its neighbours hold.
    segment = slice(int(lengths[0]), int(lengths[0] + lengths[1]))
    in_segment = (ids == 2)[..., None, None]
    among_others = [out[:, segment].astype(jnp.float32)]
    alone = [jnp.where(in_segment, x, 0) for x in (q, k, v)]
    alone_error = max_error([run(*alone, jnp.where(ids == 2, 1, 0))[:, segment]], among_others)
    changed = [jnp.where(in_segment, x, 7 * x + 1) for x in (q, k, v)]
    changed_error = max_error([run(*changed, ids)[:, segment]], among_others)
    segment_grads = grad(*changed, ids, jnp.where(in_segment, weights, 0))[1]
    leaked = max(float(jnp.max(jnp.abs(jnp.where(in_segment, 0, g)))) for g in segment_grads)
    print(
        f"{name:22s} values {max_error([out], [expected]):.1e}  "
        f"gradients {max_error(grads, expected_grads):.1e}  "
        f"alone {alone_error:.1e}  neighbours changed {changed_error:.1e}  "
        f"leaked gradient {leaked:.1e}  {'finite' if finite else 'NOT FINITE'}",
        flush=True,
    )


def timed(f, *args, seconds=0.4):
    f = jax.jit(f)
    jax.block_until_ready(f(*args))
    began = time.perf_counter()
    jax.block_until_ready(f(*args))
    n = max(2, min(50, int(seconds / max(time.perf_counter() - began, 1e-5))))
    began = time.perf_counter()
    for _ in range(n):
        out = f(*args)
    jax.block_until_ready(out)
    return (time.perf_counter() - began) / n


def measure(name, f, shape, lengths, causal, backward=True):
    rows, length, heads, _, width = shape
    count = flops(rows, length, heads, width, lengths, causal)
    label = f"{rows}x{length} {len(lengths)} seg {name}"
    try:
        x = random_inputs(*shape, lengths)
        forward = timed(f, *x)
        both = timed(gradients(f), *x, jnp.ones_like(x[0], jnp.float32)) if backward else float("nan")
    except Exception as error:  # what a backend cannot do is a line of the table
        print(f"{label:44s} {type(error).__name__}: {str(error).splitlines()[0][:120]}", flush=True)
        return
    print(
        f"{label:44s} forward {forward * 1e3:8.2f} ms {count / forward / 1e12:6.0f} TFLOP/s   "
        f"both {both * 1e3:8.2f} ms {3.5 * count / both / 1e12:6.0f} TFLOP/s",
        flush=True,
    )


def attempt(line, *args):
    try:
        line(*args)
    except Exception as error:
        print(f"{args[0]:22s} {type(error).__name__}: {str(error).splitlines()[0][:160]}", flush=True)


def main():
    began = time.perf_counter()
    device = jax.devices()[0]
    print(f"{device.device_kind}, jax {jax.__version__}; at most {MAX_SEGMENTS} segments a row, "
          f"{MAX_WINDOW_SEGMENTS} a window")  # fmt: skip
    on_gpu = device.platform == "gpu"
    text = (2, 1280, 28, 4, 128) if on_gpu else (2, 256, 4, 2, 16)
    window = (4, 1536, 16, 16, 80) if on_gpu else (2, 128, 2, 2, 8)
    text_lengths, window_lengths = uneven_lengths(text[1], 5), uneven_lengths(window[1], 3)
    backends = {"auto": by_backend("auto", True), "xla": by_backend("xla", True)}
    if on_gpu:
        backends |= {"cudnn": by_backend("cudnn", True), "triton": triton(True)}
    for name, f in backends.items():
        attempt(check, f"text {name}", f, text, text_lengths, True)
    backends = {"auto": by_backend("auto", False)}
    if on_gpu:
        backends["triton"] = triton(False)
    for name, f in backends.items():
        attempt(check, f"vision {name}", f, window, window_lengths, False)
    if on_gpu:
        many = uneven_lengths(1280, MAX_SEGMENTS + 8)
        attempt(check, "text auto, too many", by_backend("auto", True), text, many, True)

    for length in (8192, 16384, 32768) if on_gpu else (512,):
        shape = (1, length, 28, 4, 128) if on_gpu else (1, length, 4, 2, 16)
        for parts in (1, 6, 24) if length == 32768 else (6,):
            lengths = uneven_lengths(length, parts)
            measure("auto", by_backend("auto", True), shape, lengths, True)
            if length == 8192:
                measure("triton", triton(True), shape, lengths, True)
        if length in (8192, 32768):
            measure("jax.nn, not packed", one_segment(True), shape, [length], True)
            if length == 8192:
                measure("xla", by_backend("xla", True), shape, uneven_lengths(length, 6), True)
    for rows, length, parts in ((1, 1536, 1), (22, 1536, 1), (64, 1536, 3), (32, 3072, 2)):
        shape = (rows, length, 16, 16, 80) if on_gpu else (1, 128, 2, 2, 8)
        lengths = uneven_lengths(shape[1], parts, 1.0)
        measure("vision auto", by_backend("auto", False), shape, lengths, False)
        if on_gpu:
            measure("vision jax.nn", one_segment(False), shape, [length], False)
            if rows == 64:
                measure("vision triton", triton(False), shape, lengths, False)
                measure("vision xla", by_backend("xla", False), shape, lengths, False)
        else:
            break
    print(f"{time.perf_counter() - began:.0f} s in all")


if __name__ == "__main__":
    main()
