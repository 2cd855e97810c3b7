"""Times a prompt's attention to its cache and to itself: by kernels of our own, and by cuDNN.

    python benchmarks/prompt_attention.py --past 6000,13600,25000

From the projection to the attention result, with keys and values written to the cache:
`kernels/flash_prefill.py` (on a Hopper GPU), against rotation and writing by XLA, cuDNN for the cache
and for the prompt itself, and a merge of both. On other devices only the second way runs, in plain XLA.
It prints the mean time of a layer of several in one program, and FLOP/s that count the cached keys
alone.
"""

import argparse
import time

import jax
import jax.numpy as jnp

from livecc_jax.decoding.attention import (
    attend_cache,
    attend_causal,
    merge_attention,
    write_and_attend,
    write_and_attend_is_supported,
)
from livecc_jax.decoding.decoder import split_qkv
from livecc_jax.model.presets import preset
from livecc_jax.model.rope import rotate

LAYERS = 20  # layers in one program


def step_by_step(qkv, angles, cache, length):
    """What `write_and_attend` computes, in two calls that are merged."""
    q, k, v = split_qkv(qkv)
    q, k = rotate(q, angles), rotate(k, angles)
    write = jax.vmap(lambda old, new, at: jax.lax.dynamic_update_slice_in_dim(old, new, at, axis=0))
    cache = tuple(write(old, new, length) for old, new in zip(cache, (k, v)))
    return merge_attention([attend_cache(q, *cache, length), attend_causal(q, k, v)]), cache


def layer_seconds(attend, qkv, angles, cache, length):
    @jax.jit
    def run(qkv, cache):
        def layer(_, carry):
            qkv, cache = carry
            out, cache = attend(qkv, angles, cache, length)
            queries = out.reshape(*qkv.shape[:3], -1, qkv.shape[-1])
            changed = qkv[..., :-2, :] + queries * 1e-3
            return jnp.concatenate([changed.astype(qkv.dtype), qkv[..., -2:, :]], axis=3), cache

        return jax.lax.fori_loop(0, LAYERS, layer, (qkv, cache))

    times = []
    for _ in range(6):  # the first one compiles
        began = time.perf_counter()
        jax.block_until_ready(run(qkv, cache))
        times.append(time.perf_counter() - began)
    return min(times) / LAYERS


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", default="7b,2b")
    parser.add_argument("--past", default="6000,13600,25000", help="tokens in the cache")
    parser.add_argument("--room", type=int, default=32768, help="tokens that a cache has room for")
    parser.add_argument("--queries", type=int, default=416)
    parser.add_argument("--rows", type=int, default=1)
    args = parser.parse_args()
    device = jax.devices()[0]
    print(device.device_kind, f"jax {jax.__version__}", time.strftime("%Y-%m-%d"), sep=", ")
    for name in args.presets.split(","):
        c = preset(name).text
        keys = jax.random.split(jax.random.key(0), 4)

        def random_array(key, *shape, size=c.head_dim):
            return jax.random.normal(key, (args.rows, *shape, size), jnp.bfloat16)

        qkv = random_array(keys[0], args.queries, c.kv_heads, c.heads // c.kv_heads + 2)
        angles = jax.random.uniform(keys[1], (args.rows, args.queries, c.head_dim // 2), maxval=6.0)
        cache = tuple(random_array(key, args.room, c.kv_heads) for key in keys[2:])
        ways = {"step by step": step_by_step}
        if write_and_attend_is_supported(qkv, cache[0]):
            ways["by our kernels"] = write_and_attend
        for tokens in map(int, args.past.split(",")):
            length = jnp.full((args.rows,), tokens, jnp.int32)
            flops = 4 * args.rows * args.queries * c.heads * c.head_dim * tokens
            for way, attend in ways.items():
                layer_time = layer_seconds(attend, qkv, angles, cache, length)
                print(
                    f"{name}, {tokens} tokens in the cache, {way}: {1e6 * layer_time:.0f} us, "
                    f"{flops / layer_time / 1e12:.1f} TFLOP/s", flush=True,
                )  # fmt: skip


if __name__ == "__main__":
    main()
