"""Streaming at real sizes on one accelerator: milliseconds a second of video, and sessions at once.

    python benchmarks/streaming.py --preset 7b --streams 10 --sessions 16,32,48 --peer 1x30

Random weights, by default in bf16, and frame pairs of 384 tokens; six new tokens a turn. One stream at
a time through the `full` cache, 60 turns each: as fast as possible, the next frames known while a turn
is spoken, as of a file; then a few as of a camera, whose frames are pushed when they come, from push to
words. Then many sessions with the `rolling` cache, in back-to-back ticks, and with `--live` at the wall
clock. With `--peer`, transformers first, in a process of its own on the same device
(`transformers_stream.py`). Beside each part its floor: FLOPs over the matrix-product rate and bytes
over the memory bandwidth, both measured here first.
"""

import argparse
import collections
import functools
import heapq
import itertools
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from random_weights import random_params

from livecc_jax.decoding.attention import attend_masked, keep_and_attend, takes
from livecc_jax.decoding.linear import product
from livecc_jax.decoding.network import attend_all, rotated, taken_apart
from livecc_jax.decoding.options import StreamOptions
from livecc_jax.decoding.paged_cache import gather_plainly
from livecc_jax.decoding.quantize import head8, products8, quantize, quantize_head
from livecc_jax.kernels.kv_quantize import narrow
from livecc_jax.kernels.norms import RmsNorm
from livecc_jax.kernels.paged_gather import gather_context
from livecc_jax.model.presets import preset
from livecc_jax.model.rope import rotate
from livecc_jax.stream.engine import DUE, Engine, EngineOptions
from livecc_jax.stream.history import ROLLING
from livecc_jax.stream.prompt import make_prompt
from livecc_jax.stream.session import Session, StreamModel
from livecc_jax.text.open import open_tokenizer

NEW = 6


def seconds(run, repeat=10):
    """Median time of a call that returns arrays."""
    jax.block_until_ready(run())
    times = []
    for _ in range(repeat):
        began = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def machine():
    """(FLOP/s of bf16 matrix products, bytes/s of reading)."""
    wide, long = (1024, 1 << 26) if jax.devices()[0].platform == "cpu" else (8192, 1 << 30)
    a = jnp.ones((wide, wide), jnp.bfloat16)
    product = jax.jit(lambda a: a @ a)
    flops = 2 * wide**3 / seconds(lambda: product(a))
    b = jnp.ones(long, jnp.bfloat16)
    largest = jax.jit(jnp.max)
    return flops, b.nbytes / seconds(lambda: largest(b))


def apart(one, other):
    """The largest difference, of the largest value."""
    one, other = (np.asarray(x, np.float32) for x in (one, other))
    return np.abs(one - other).max() / np.abs(other).max()


def check_attention():
    """The kernels of a prompt and of one token against the plain way, at this project's shapes."""
    keys = jax.random.split(jax.random.key(0), 4)
    kept = tuple(jax.random.normal(k, (3, 2560, 4, 128), jnp.bfloat16) for k in keys[:2])
    length, told = jnp.array([0, 17, 2048]), []
    for queries in (416, 1):
        qkv = jax.random.normal(keys[2], (3, queries, 4, 9, 128), jnp.bfloat16)
        if not takes(qkv, kept[0]):
            raise SystemExit(f"attention of {queries} queries is not by its kernels here")
        angles = jax.random.uniform(keys[3], (3, queries, 64), maxval=6.0)
        out, now = jax.jit(keep_and_attend)(qkv, angles, kept, length)
        q, k, v = taken_apart(qkv)
        own = length[:, None] + jnp.arange(queries)
        rows = jnp.arange(3)[:, None]
        wanted = [old.at[rows, own].set(new) for old, new in zip(kept, (rotate(k, angles), v))]
        seen = jnp.arange(2560) <= own[..., None]
        plain = attend_masked(rotate(q, angles), *wanted, seen).out
        told.append([apart(x, y) for x, y in zip((out, *now), (plain, *wanted))])
        parts = zip(("out", "keys", "values"), told[-1])
        differs = ", ".join(f"{name} {x:.1e}" for name, x in parts)
        print(f"attention of {queries} queries, from the plain one: {differs}", flush=True)
    for patches in (1536, 1000):  # whole blocks, and not
        qkv = jax.random.normal(keys[2], (2, patches, 3, 16, 80), jnp.bfloat16)
        angles = jax.random.uniform(keys[3], (1, patches, 40), maxval=6.0)
        out = jax.jit(attend_all)(qkv, angles)
        q, k, v = rotated(qkv.astype(jnp.float32), angles)
        plain = jax.nn.dot_product_attention(q, k, v, implementation="xla")
        told.append([apart(out, plain)] * 3)
        print(f"attention of {patches} patches, from the plain one: {told[-1][0]:.1e}", flush=True)
    layer = tuple(jax.random.normal(k, (9000, 4, 128), jnp.bfloat16) for k in keys[:2])
    places = jax.random.permutation(keys[2], 9000)[: 2 * 4096].reshape(2, 4096)
    angles = jax.random.uniform(keys[3], (2, 4096, 64), maxval=6.0)
    for kept, of in ((layer, "a pool"), (tuple(map(narrow, layer)), "a pool in int8")):
        context = kept, places, angles, jnp.array([0, 4000]), jnp.bfloat16
        made, plain = gather_context(*context), gather_plainly(*context)
        nothing = float(max(jnp.abs(x[0]).max() for x in made))  # of the row that remembers nothing
        told.append([*(apart(x[1, :4000], y[1, :4000]) for x, y in zip(made, plain)), nothing])
        print(f"contexts of {of}, from the plain ones: {max(told[-1]):.1e}", flush=True)
    if not np.max(told) <= 0.02:
        raise SystemExit("the kernels of attention do not compute what they mean")


def check_products():
    """The kernels of products against what they mean."""
    keys, told = jax.random.split(jax.random.key(1), 8), []
    x = jax.random.normal(keys[6], (1, 1, 3584), jnp.bfloat16)
    kernel = jax.random.normal(keys[7], (3584, 2, 18944), jnp.bfloat16)
    norm = RmsNorm(jnp.full((3584,), 1.5, jnp.bfloat16), 1e-6)
    rows = jnp.moveaxis(kernel, 0, -1)
    eight = quantize({"kernel": kernel})
    wide = eight["kernel8"].astype(jnp.float32).reshape(rows.shape) * eight["scale"][..., None]
    for name, weights, plain in (("rows", {"rows": rows}, rows), ("eight bits", eight, wide)):
        one = jax.jit(functools.partial(product, norm=norm, between="gate"))(x, weights)
        y = plain.astype(jnp.float32) @ norm(x[0, 0].astype(jnp.float32))
        told.append(apart(one[0, 0], jax.nn.silu(y[0]) * y[1]))
        print(f"one token, from the plain one: a product of {name} {told[-1]:.1e}", flush=True)
    several = jax.random.normal(keys[3], (1032, 3584), jnp.bfloat16)
    fc1 = jax.random.normal(keys[2], (3584, 5120), jnp.bfloat16) / 60
    bias = jax.random.normal(keys[1], (5120,), jnp.bfloat16)
    for between, weights in (("gate", {"rows": rows / 60}), ("gelu", {"kernel": fc1, "bias": bias})):
        run = jax.jit(functools.partial(product, between=between))
        exact = jax.tree.map(lambda x: x.astype(jnp.float32), (several, weights))
        told.append(apart(run(several, weights), run(*exact)))
        print(f"1,032 tokens, a product and {between}: {told[-1]:.1e}", flush=True)
    head = quantize_head(rows.reshape(-1, 3584))
    wide = head["rows8"].astype(jnp.float32) * head["scale"][:, None]
    told.append(apart(jax.jit(head8)(x[0, 0], head), wide @ x[0, 0].astype(jnp.float32)))
    many = jax.random.normal(keys[5], (64, 3584), jnp.bfloat16)
    down = quantize({"kernel": jax.random.normal(keys[4], (18944, 3584), jnp.bfloat16)})
    mlp8 = functools.partial(products8, between="gate", second=down, norm=norm)
    ours = jax.jit(lambda x, first: mlp8(x, first).scaled())(many, eight)
    mlp = jnp.einsum("td,dgf->tgf", norm(many.astype(jnp.float32)), kernel.astype(jnp.float32))
    plain = jax.nn.silu(mlp[:, 0]) * mlp[:, 1]
    plain = plain @ jax.random.normal(keys[4], (18944, 3584), jnp.bfloat16).astype(jnp.float32)
    noise = float(jnp.std(ours.astype(jnp.float32) - plain) / jnp.std(plain))
    print(f"the head in eight bits {told[-1]:.1e}; an MLP in eight bits, noise {noise:.3f}", flush=True)
    if max(told) > 0.02 or noise > 0.1:
        raise SystemExit("the kernels of products do not compute what they mean")


def where_time_goes(label, run, shown=18):
    """Print the device's busiest kernels of a call, by name without their numbers."""
    with tempfile.TemporaryDirectory() as home:
        began = time.perf_counter()
        with jax.profiler.trace(home):
            run()
        whole = time.perf_counter() - began
        (file,) = Path(home).rglob("*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(file))
    spent, calls = collections.Counter(), collections.Counter()
    for plane in data.planes:
        if "GPU" not in plane.name:
            continue
        for line in plane.lines:
            if not line.name.startswith("Stream"):
                continue
            for event in line.events:
                stats = dict(event.stats)
                name = re.sub(r"[._]?\d+", "", f"{event.name} {stats.get('hlo_op', '')}")[:90]
                spent[name] += event.duration_ns
                calls[name] += 1
    busy = sum(spent.values()) / 1e6
    print(f"{label}: device busy {busy:.1f} ms of {1e3 * whole:.1f} ms (profiled)")
    for name, took in spent.most_common(shown):
        print(f"    {took / 1e6:8.2f} ms  {calls[name]:5} x {name}")
    print(flush=True, end="")


def peer(args):
    """Milliseconds a second of video in transformers, the better of its two loops; None without --peer.

    Run before this process takes the device's memory.
    """
    if not args.peer:
        return None
    streams, turns = args.peer.split("x")
    script = Path(__file__).with_name("transformers_stream.py")
    command = [sys.executable, str(script), "--preset", args.preset, "--streams", streams]
    command += ["--turns", turns, "--tokenizer", args.tokenizer]
    command += ["--size", args.size, "--dtype", args.dtype]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    print(told, flush=True)
    loops = json.loads(told.splitlines()[-1]).values()
    return min(loop["median_ms"] for loop in loops)


def percentiles(times):
    p = 1e3 * np.percentile(times, [50, 99])
    return f"p50 {p[0]:7.1f} ms  p99 {p[1]:7.1f} ms  worst {1e3 * max(times):7.1f} ms"


def one_stream(model, frames, args, theirs=None):
    options = StreamOptions(max_new_tokens=NEW, context=32768, reserve=32768)
    shown = [frames[0 if turn == 0 else 1 + turn % 3] for turn in range(args.turns)]

    def stream(ahead):
        """(seconds of each turn, from words to words or from push to words; the session)."""
        session = Session(model, options, "Comment on the video.")
        took, began = [], time.perf_counter()
        for turn, following in itertools.zip_longest(shown, shown[1:]):
            said = session.push(turn, following if ahead else None)
            took.append(time.perf_counter() - began if ahead else said.latency)
            began = time.perf_counter()
            if len(said.tokens) != NEW:
                raise SystemExit(f"{len(said.tokens)} tokens were said")
        return took, session

    began = time.perf_counter()
    stream(ahead=True)
    print(f"  compiled and one stream: {time.perf_counter() - began:.0f} s", flush=True)
    for ahead, count in ((True, args.streams), (False, args.live_streams)):
        runs = [stream(ahead) for _ in range(count)]
        if not runs:
            continue
        times, session = np.array([took for took, _ in runs]), runs[-1][1]
        name = "as fast as possible" if ahead else "from push to words"
        print(f"one stream, {times.size} turns, {session.length} tokens at the end, {name}")
        print(f"  a second of video: {percentiles(times[:, 1:].ravel())}")
        if theirs:
            ratio = theirs / 1e3 / np.median(times[:, 1:])
            print(f"  transformers takes {theirs:.0f} ms: {ratio:.1f} times as long")
        for low in range(0, args.turns, 20):
            first, stop = max(low, 1), min(low + 20, args.turns)
            print(f"    turns {first} to {stop - 1}: {percentiles(times[:, first:stop].ravel())}")
        print(f"  opening: {percentiles(times[:, 0])}", flush=True)
    if args.profile:
        where_time_goes("one stream, one turn", lambda: session.push(frames[1]))


def floors(model, frames, flops, bandwidth):
    """Print what vision, prompt and a token have to take at least: products, and bytes of weights."""
    c = model.config
    v, t = c.vision, c.text
    prompt = make_prompt(
        model.template, frames[1], "Time=3.0-4.0s", "", first=False, positions="mrope", start=0
    )
    patches = frames[1].shape[1] // 14 * frames[1].shape[2] // 14
    block = 2 * patches * (4 * v.width**2 + 2 * v.width * v.mlp) + 4 * patches**2 * v.width
    merger = 2 * (patches // 4) * (16 * v.width**2 + 4 * v.width * t.width)
    print(f"  vision: floor {1e3 * (v.depth * block + merger) / flops:.1f} ms")
    layer = t.width * t.head_dim * (2 * t.heads + 2 * t.kv_heads) + 3 * t.width * t.mlp
    # Of the last layer nothing but keys and values, and all of one token.
    last = t.width * t.head_dim * 2 * t.kv_heads
    read = 2 * len(prompt.tokens) * (layer * (t.layers - 1) + last) / flops
    each = 4 * len(prompt.tokens) * t.heads * t.head_dim * (t.layers - 1) / flops
    print(
        f"  a prompt of {len(prompt.tokens)} tokens: floor {1e3 * read:.1f} ms, and "
        f"{1e6 * each:.2f} ms for every 1,000 tokens of its past"
    )
    size = model.weights.layers[0]["down"].get("kernel8", model.weights.layers[0]["down"].get("rows"))
    weights = layer * t.layers * size.dtype.itemsize
    weights += t.width * t.vocab_size * (1 if model.weights.head else 2)
    kept = 2 * 2 * t.layers * t.kv_heads * t.head_dim
    print(
        f"  a token: floor {1e3 * weights / bandwidth:.2f} ms, and {1e6 * kept / bandwidth:.3f} ms for "
        "every 1,000 tokens of its past", flush=True,
    )  # fmt: skip


def split(model, frames, turns):
    """Print where a turn's time goes, after so many turns: vision, the prompt, each further token.

    Turns of one token, and of several, whose frames were seen before: what one does without the others.
    """
    look = functools.partial(model.look, (jax.device_put(frames[1]),))
    vision = seconds(look)
    medians = []
    for limit in (1, NEW):
        options = StreamOptions(max_new_tokens=limit, context=32768, reserve=32768)
        session, took = Session(model, options, "Comment on the video."), []
        for turn in range(turns + 11):
            shown = frames[0 if turn == 0 else 1 + turn % 3]
            session._look_ahead(shown)
            jax.block_until_ready(session._seen_ahead[1])
            took.append(session.push(shown).latency)
        medians.append(float(np.median(took[-11:])))
        length = session.length
    one, several = medians
    print(
        f"  at {length} tokens: vision {1e3 * vision:.1f} ms; a prompt and its first token, from push "
        f"to words, {1e3 * one:.1f} ms; each further token {1e3 * (several - one) / (NEW - 1):.2f} ms",
        flush=True,
    )


def filled_engine(model, frames, count, batch, args, cache_precision="weights"):
    """An engine of conversations with full caches: (engine, conversations, times of ticks)."""
    room = 9216
    options = EngineOptions(
        slots=count, batch=batch, pool=count * (room + 512), retention=ROLLING, max_new_tokens=NEW,
        waiting=2, room=room, cache_precision=cache_precision,
    )  # fmt: skip
    engine = Engine(model, options)
    streams = []
    for seed in range(count):
        stream = engine.open("Comment on the video.", StreamOptions(max_new_tokens=NEW, seed=seed))
        streams.append(stream)
        stream.push(frames[0])
        engine.tick()
    times = []
    for turn in range(args.fill + args.ticks):
        for i, stream in enumerate(streams):
            stream.push(frames[1 + (turn + i) % 3])
        while engine.waiting():
            began = time.perf_counter()
            spoken = engine.tick()
            if turn >= args.fill:
                times.append(time.perf_counter() - began)
            if len(spoken) != min(batch, count):
                raise SystemExit(f"{len(spoken)} took part")
    return engine, streams, times


def many_sessions(model, frames, what, args):
    count, _, kept = what.partition(":")
    count, kept = int(count), kept or "weights"
    engine, streams, steady = filled_engine(model, frames, count, count, args, kept)
    if args.profile:
        for stream in streams:
            stream.push(frames[1])
        where_time_goes(f"{count} sessions, one tick", engine.tick)
    print(
        f"{count} sessions, {streams[0].length} tokens each, cache {kept}: a tick "
        f"{percentiles(steady)}, {1e3 * np.median(steady) / count:.1f} ms a session", flush=True,
    )  # fmt: skip


def live_sessions(model, frames, plan, args):
    """At the wall clock: a turn a second of each, at phases of its own, decoded as `livecc watch` does.

    The next tick begins as soon as one is over and anything waits. `plan` is COUNT:SECONDS,...: so many
    of the engine's conversations go on for so long, one after the other.
    """
    plan = [tuple(map(int, part.split(":"))) for part in plan.split(",")]
    most = max(count for count, _ in plan)
    most += -most % args.batch  # whole ticks while the caches fill
    engine, streams, _ = filled_engine(model, frames, most, args.batch, args)
    for size in (1 << i for i in range(args.batch.bit_length())):  # programs, before the clock runs
        for i, stream in enumerate(streams[:size]):
            stream.push(frames[1 + i % 3])
        engine.tick()
    for count, length in plan:
        rng = np.random.default_rng(count)
        while engine.waiting():  # what others left
            engine.tick()
        dropped = sum(s.lateness.dropped for s in streams)
        began = time.perf_counter() + 0.1
        due = sorted((began + p, i) for i, p in enumerate(rng.uniform(0, 1, count)))
        heapq.heapify(due)
        late, ticks, busy = [], 0, 0.0
        while (now := time.perf_counter()) < began + length:
            while due[0][0] <= now:
                when, i = heapq.heappop(due)
                streams[i].push(frames[1 + i % 3], captured=when)
                heapq.heappush(due, (when + 1.0, i))
            if engine.waiting():
                late += [(now, who.lateness.last + DUE) for who, _ in engine.tick()]
                ticks += 1
                busy += time.perf_counter() - now
            else:
                time.sleep(max(0.0, due[0][0] - time.perf_counter()))
        settled = [x for now, x in late if now > began + 5]
        if not settled:
            raise SystemExit(f"{count} sessions said nothing after the first 5 s")
        dropped = sum(s.lateness.dropped for s in streams) - dropped
        print(
            f"{count} sessions live for {length} s, {len(late) / ticks:.1f} a tick, from capture to "
            f"words: {percentiles(settled)}, {len(settled)} turns, {dropped} dropped, "
            f"busy {busy / length:.0%}", flush=True,
        )  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="7b")
    parser.add_argument("--tokenizer", default="data/tokenizer")
    parser.add_argument("--streams", type=int, default=10)
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--live-streams", type=int, default=3, help="from push to words")
    parser.add_argument(
        "--sessions", default="16,32,48", help="in ticks back to back, each COUNT or COUNT:int8 cache"
    )
    parser.add_argument("--fill", type=int, default=20, help="ticks until the caches are full")
    parser.add_argument("--ticks", type=int, default=20)
    parser.add_argument("--live", default="", help="at the wall clock: sessions:seconds,...")
    parser.add_argument("--batch", type=int, default=16, help="sessions a tick, at the wall clock")
    parser.add_argument("--size", default="448x672", help="of a frame: 384 tokens a pair")
    parser.add_argument("--precision", default="weights", help="weights or fp8")
    parser.add_argument("--dtype", default="bfloat16", help="of weights")
    parser.add_argument("--peer", default="", help="transformers too: streams x turns, say 1x30")
    parser.add_argument("--split", type=int, default=0, help="where time goes, after so many turns")
    parser.add_argument("--profile", action="store_true", help="print the busiest kernels too")
    args = parser.parse_args()
    theirs = peer(args)
    device = jax.devices()[0]
    facts = device.device_kind, f"jax {jax.__version__}", args.preset, args.precision
    print(*facts, time.strftime("%Y-%m-%d"), sep=", ")
    if device.platform == "gpu":
        check_attention()
        check_products()
    flops, bandwidth = machine()
    print(f"measured: {flops / 1e12:.0f} TFLOP/s, {bandwidth / 1e12:.2f} TB/s", flush=True)
    config = preset(args.preset)
    params = random_params(config, args.dtype)
    model = StreamModel(config, params, open_tokenizer(args.tokenizer), args.precision)
    del params
    rng, size = np.random.default_rng(0), tuple(map(int, args.size.split("x")))
    frames = [rng.integers(0, 256, (6 if i == 0 else 2, *size, 3), np.uint8) for i in range(4)]
    floors(model, frames, flops, bandwidth)
    if args.split:
        split(model, frames, args.split)
    if args.streams:
        one_stream(model, frames, args, theirs)
    runs = [(many_sessions, count) for count in filter(None, args.sessions.split(","))]
    runs += [(live_sessions, args.live)] * bool(args.live)
    for kind, what in runs:
        try:
            kind(model, frames, what, args)
        except jax.errors.JaxRuntimeError as error:
            print(f"{what} sessions: {str(error).splitlines()[0][:200]}", flush=True)


if __name__ == "__main__":
    main()
