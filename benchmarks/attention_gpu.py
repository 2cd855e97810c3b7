"""Attention over packed rows on one GPU: is it right, and how fast is it, by backend.

    python benchmarks/attention_gpu.py

First every backend against plain XLA in float32, values and gradients, with several segments in a
row, and a segment of a row against the same segment alone. Then times at the decoder's shapes (7B: 28
query heads, 4 key heads of 128) and the vision tower's (16 heads of 80, windows of whole frame pairs).
FLOP/s count only pairs that are seen: two matrix products forward, five more backward.
"""

from __future__ import annotations

import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np

from livecc_jax.model.attention import attend, use_backend
from livecc_jax.model.attention_cudnn import MAX_SEGMENTS, NARROW_SEGMENTS

BF16 = jnp.bfloat16


def arrays(rows, length, heads, kv_heads, width, lengths, dtype=BF16):
    """Random q, k, v and the ids of segments of these lengths, the rest of the row being padding."""
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


def shares(length, parts, filled=0.9):
    """`parts` uneven lengths that fill this share of a row."""
    weights = np.random.default_rng(parts).uniform(0.5, 1.5, parts)
    return np.floor(weights / weights.sum() * filled * length).astype(int)


def flops(rows, length, heads, width, lengths, causal):
    """Of one forward pass: real segments only."""
    seen = sum(n * (n + 1) / 2 if causal else n * n for n in map(float, lengths))
    return 4 * rows * heads * width * seen


def door(name, causal):
    def f(q, k, v, ids):
        with use_backend(name):
            return attend(q, k, v, ids, causal=causal)

    return f


def triton(causal, block=64):
    """Pallas's own kernel on Triton, which takes segment ids; key heads repeated."""
    from jax.experimental.pallas.ops.gpu import attention as gpu

    def f(q, k, v, ids):
        k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], 2) for x in (k, v))
        blocks = gpu.BlockSizes(
            block_q=2 * block, block_k=block, block_q_dkv=block, block_kv_dkv=block,
            block_q_dq=block, block_kv_dq=block,
        )  # fmt: skip
        return gpu.mha(q, k, v, ids, sm_scale=q.shape[-1] ** -0.5, causal=causal, block_sizes=blocks)

    return f


def unpacked(causal):
    """cuDNN through jax.nn, one segment a row: no packing, the speed to compare with."""

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


def worst(got, want):
    """Largest difference relative to the largest value, over arrays."""
    return max(
        float(jnp.max(jnp.abs(a.astype(jnp.float32) - b)) / jnp.max(jnp.abs(b)))
        for a, b in zip(got, want)
    )


def check(name, f, shape, lengths, causal):
    """One line: errors of values and gradients, packed against unpacked, and the neighbours' trace."""
    q, k, v, ids = arrays(*shape, lengths)
    exact = [x.astype(jnp.float32) for x in (q, k, v)]
    weights = jax.random.normal(jax.random.key(1), q.shape, jnp.float32)
    plain = door("xla", causal)
    real = (ids > 0)[..., None, None]
    with jax.default_matmul_precision("highest"):
        want = jnp.where(real, jax.jit(plain)(*exact, ids), 0)
        want_grads = gradients(plain)(*exact, ids, weights)[1]
    run, grad = jax.jit(f), gradients(f)
    got = jnp.where(real, run(q, k, v, ids), 0)
    grads = grad(q, k, v, ids, weights)[1]
    finite = all(bool(jnp.isfinite(x).all()) for x in (got, *grads))

    # The second segment alone must be what it is among others, and must not feel its neighbours.
    start, stop = int(lengths[0]), int(lengths[0] + lengths[1])
    alone_ids = jnp.where(ids == 2, 1, 0)
    blank = (ids == 2)[..., None, None]
    alone = [jnp.where(blank, x, 0) for x in (q, k, v)]
    apart = worst([run(*alone, alone_ids)[:, start:stop]], [got[:, start:stop].astype(jnp.float32)])
    noise = [jnp.where(blank, x, 7 * x + 1) for x in (q, k, v)]
    moved = worst([run(*noise, ids)[:, start:stop]], [got[:, start:stop].astype(jnp.float32)])
    seg_grads = grad(*noise, ids, jnp.where(blank, weights, 0))[1]
    leaked = max(float(jnp.max(jnp.abs(jnp.where(blank, 0, g)))) for g in seg_grads)
    print(
        f"{name:22s} values {worst([got], [want]):.1e}  gradients {worst(grads, want_grads):.1e}  "
        f"alone {apart:.1e}  neighbours changed {moved:.1e}  leaked gradient {leaked:.1e}  "
        f"{'finite' if finite else 'NOT FINITE'}",
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
        x = arrays(*shape, lengths)
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
          f"{NARROW_SEGMENTS} a window")  # fmt: skip
    on_gpu = device.platform == "gpu"
    text = (2, 1280, 28, 4, 128) if on_gpu else (2, 256, 4, 2, 16)
    window = (4, 1536, 16, 16, 80) if on_gpu else (2, 128, 2, 2, 8)
    text_lengths, window_lengths = shares(text[1], 5), shares(window[1], 3)
    backends = {"auto": door("auto", True), "xla": door("xla", True)}
    if on_gpu:
        backends |= {"cudnn": door("cudnn", True), "triton": triton(True)}
    for name, f in backends.items():
        attempt(check, f"text {name}", f, text, text_lengths, True)
    backends = {"auto": door("auto", False)}
    if on_gpu:
        backends["triton"] = triton(False)
    for name, f in backends.items():
        attempt(check, f"vision {name}", f, window, window_lengths, False)
    if on_gpu:
        many = shares(1280, MAX_SEGMENTS + 8)
        attempt(check, "text auto, too many", door("auto", True), text, many, True)

    for length in (8192, 16384, 32768) if on_gpu else (512,):
        shape = (1, length, 28, 4, 128) if on_gpu else (1, length, 4, 2, 16)
        for parts in (1, 6, 24) if length == 32768 else (6,):
            lengths = shares(length, parts)
            measure("auto", door("auto", True), shape, lengths, True)
            if length == 8192:
                measure("triton", triton(True), shape, lengths, True)
        if length in (8192, 32768):
            measure("jax.nn, not packed", unpacked(True), shape, [length], True)
            if length == 8192:
                measure("xla", door("xla", True), shape, shares(length, 6), True)
    for rows, length, parts in ((1, 1536, 1), (22, 1536, 1), (64, 1536, 3), (32, 3072, 2)):
        shape = (rows, length, 16, 16, 80) if on_gpu else (1, 128, 2, 2, 8)
        lengths = shares(shape[1], parts, 1.0)
        measure("vision auto", door("auto", False), shape, lengths, False)
        if on_gpu:
            measure("vision jax.nn", unpacked(False), shape, [length], False)
            if rows == 64:
                measure("vision triton", triton(False), shape, lengths, False)
                measure("vision xla", door("xla", False), shape, lengths, False)
        else:
            break
    print(f"{time.perf_counter() - began:.0f} s in all")


if __name__ == "__main__":
    main()
