"""A prompt's attention to its past and itself: by kernels of our own, and by cuDNN.

    python benchmarks/prompt_attention.py --past 6000,13600,25000

From the projection to attention's outcome, keys and values kept: `kernels/flash_prefill.py` (on a
Hopper GPU) against rotation and writing by XLA, and cuDNN for the past and for the prompt itself, put
together. Elsewhere the second way alone, in plain XLA. Time of a layer, the mean of some in one
program, and FLOP/s that count the past alone.
"""

import argparse
import time

import jax
import jax.numpy as jnp

from livecc_jax.decoding.attention import (
    attend_causal,
    attend_past,
    keep_and_attend,
    takes,
    together,
)
from livecc_jax.decoding.network import taken_apart
from livecc_jax.model.presets import preset
from livecc_jax.model.rope import rotate

LAYERS = 20  # in one program


def apart(qkv, angles, kept, length):
    """Step by step."""
    q, k, v = taken_apart(qkv)
    q, k = rotate(q, angles), rotate(k, angles)
    place = jax.vmap(lambda old, new, at: jax.lax.dynamic_update_slice_in_dim(old, new, at, axis=0))
    kept = tuple(place(old, new, length) for old, new in zip(kept, (k, v)))
    return together([attend_past(q, *kept, length), attend_causal(q, k, v)]), kept


def layer_seconds(way, qkv, angles, kept, length):
    @jax.jit
    def run(qkv, kept):
        def layer(_, carry):
            qkv, kept = carry
            out, kept = way(qkv, angles, kept, length)
            queries = out.reshape(*qkv.shape[:3], -1, qkv.shape[-1])
            changed = qkv[..., :-2, :] + queries * 1e-3
            return jnp.concatenate([changed.astype(qkv.dtype), qkv[..., -2:, :]], axis=3), kept

        return jax.lax.fori_loop(0, LAYERS, layer, (qkv, kept))

    times = []
    for _ in range(6):  # the first compiles
        began = time.perf_counter()
        jax.block_until_ready(run(qkv, kept))
        times.append(time.perf_counter() - began)
    return min(times) / LAYERS


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", default="7b,2b")
    parser.add_argument("--past", default="6000,13600,25000", help="tokens")
    parser.add_argument("--room", type=int, default=32768, help="tokens that a cache has room for")
    parser.add_argument("--queries", type=int, default=416)
    parser.add_argument("--rows", type=int, default=1)
    args = parser.parse_args()
    device = jax.devices()[0]
    print(device.device_kind, f"jax {jax.__version__}", time.strftime("%Y-%m-%d"), sep=", ")
    for name in args.presets.split(","):
        c = preset(name).text
        keys = jax.random.split(jax.random.key(0), 4)

        def made(key, *shape, size=c.head_dim):
            return jax.random.normal(key, (args.rows, *shape, size), jnp.bfloat16)

        qkv = made(keys[0], args.queries, c.kv_heads, c.heads // c.kv_heads + 2)
        angles = jax.random.uniform(keys[1], (args.rows, args.queries, c.head_dim // 2), maxval=6.0)
        kept = tuple(made(key, args.room, c.kv_heads) for key in keys[2:])
        ways = {"apart": apart} | ({"by our kernels": keep_and_attend} if takes(qkv, kept[0]) else {})
        for tokens in map(int, args.past.split(",")):
            length = jnp.full((args.rows,), tokens, jnp.int32)
            flops = 4 * args.rows * args.queries * c.heads * c.head_dim * tokens
            for way, act in ways.items():
                taken = layer_seconds(act, qkv, angles, kept, length)
                print(
                    f"{name}, {tokens} of past, {way}: {1e6 * taken:.0f} us, "
                    f"{flops / taken / 1e12:.1f} TFLOP/s", flush=True,
                )  # fmt: skip


if __name__ == "__main__":
    main()
