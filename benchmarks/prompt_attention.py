"""A prompt's attention to its past and itself: in one call, and in one for each put together.

    python benchmarks/prompt_attention.py --past 6000,13600,25000

On a Hopper GPU that is `model/attention_prompt.py` against cuDNN; elsewhere both are plain. Time of a
layer, the mean of some in one program, and FLOP/s that count the past alone.
"""

import argparse
import time

import jax
import jax.numpy as jnp

from livecc_jax.model.cache_attention import attend_causal, attend_past, attend_turn, together
from livecc_jax.model.presets import preset

LAYERS = 20  # in one program
WAYS = {
    "apart": lambda q, k, v, past, n: together([attend_past(q, *past, n), attend_causal(q, k, v)]),
    "in one": attend_turn,
}


def layer_seconds(way, q, k, v, past, length):
    @jax.jit
    def run(q, k, v, past, length):
        def layer(_, q):
            return (q + way(q, k, v, past, length) * 1e-3).astype(q.dtype)

        return jax.lax.fori_loop(0, LAYERS, layer, q)

    times = []
    for _ in range(6):  # the first compiles
        began = time.perf_counter()
        jax.block_until_ready(run(q, k, v, past, length))
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
        keys = jax.random.split(jax.random.key(0), 5)

        def made(key, tokens, heads, size=c.head_dim):
            return jax.random.normal(key, (args.rows, tokens, heads, size), jnp.bfloat16)

        q = made(keys[0], args.queries, c.heads)
        k, v = (made(key, args.queries, c.kv_heads) for key in keys[1:3])
        past = tuple(made(key, args.room, c.kv_heads) for key in keys[3:])
        for tokens in map(int, args.past.split(",")):
            length = jnp.full((args.rows,), tokens, jnp.int32)
            flops = 4 * args.rows * args.queries * c.heads * c.head_dim * tokens
            for way, act in WAYS.items():
                taken = layer_seconds(act, q, k, v, past, length)
                print(
                    f"{name}, {tokens} of past, {way}: {1e6 * taken:.0f} us, "
                    f"{flops / taken / 1e12:.1f} TFLOP/s", flush=True,
                )  # fmt: skip


if __name__ == "__main__":
    main()
