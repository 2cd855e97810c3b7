"""Streaming at real sizes on one accelerator: milliseconds per second of video, and many sessions.

    python benchmarks/streaming.py --preset 7b --streams 10 --sessions 16,32,48 --peer 1x30

Random weights, by default in bf16, frame pairs of 384 tokens, and six generated tokens a turn. First
single streams with the `full` cache, 60 turns each: as fast as possible, with prefetched frames as from
a file; then a few as from a camera, whose frames are pushed when they come, timed from push to text.
Then many sessions with the `rolling` cache, in back-to-back engine steps, and with `--live` in real
time. With `--peer`, transformers first, in a process of its own on the same device
(`transformers_stream.py`). Each part is printed with its lower bound: FLOPs over the rate of matrix
products, and bytes over the memory bandwidth, both measured first.
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
from kernel_checks import check_attention, check_products
from random_weights import random_params

from livecc_jax.decoding.options import StreamOptions
from livecc_jax.model.presets import preset
from livecc_jax.stream.engine import Engine
from livecc_jax.stream.history import ROLLING
from livecc_jax.stream.model import StreamModel
from livecc_jax.stream.options import EngineOptions
from livecc_jax.stream.prompt import make_prompt
from livecc_jax.stream.session import Session
from livecc_jax.text.open import open_tokenizer
from livecc_jax.timeline.turns import turn_span

QUERY, NEW_TOKENS = "Comment on the video.", 6


def seconds(run, repeat=10):
    """Returns the median time of a call that returns arrays."""
    jax.block_until_ready(run())
    times = []
    for _ in range(repeat):
        began = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - began)
    return float(np.median(times))


def measure_rates():
    """Returns (FLOP/s of bf16 matrix products, bytes/s of reading)."""
    wide, long = (1024, 1 << 26) if jax.devices()[0].platform == "cpu" else (8192, 1 << 30)
    a = jnp.ones((wide, wide), jnp.bfloat16)
    product = jax.jit(lambda a: a @ a)
    flops = 2 * wide**3 / seconds(lambda: product(a))
    b = jnp.ones(long, jnp.bfloat16)
    largest = jax.jit(jnp.max)
    return flops, b.nbytes / seconds(lambda: largest(b))


def print_profile(label, run, count=18):
    """Prints the busiest device kernels of a call, by name without their numbers."""
    with tempfile.TemporaryDirectory() as home:
        began = time.perf_counter()
        with jax.profiler.trace(home):
            run()
        total = time.perf_counter() - began
        (file,) = Path(home).rglob("*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(file))
    nanoseconds, calls = collections.Counter(), collections.Counter()
    for plane in data.planes:
        if "GPU" not in plane.name:
            continue
        for line in plane.lines:
            if not line.name.startswith("Stream"):
                continue
            for event in line.events:
                stats = dict(event.stats)
                name = re.sub(r"[._]?\d+", "", f"{event.name} {stats.get('hlo_op', '')}")[:90]
                nanoseconds[name] += event.duration_ns
                calls[name] += 1
    busy = sum(nanoseconds.values()) / 1e6
    print(f"{label}: device busy {busy:.1f} ms of {1e3 * total:.1f} ms (profiled)")
    for name, time_ns in nanoseconds.most_common(count):
        print(f"    {time_ns / 1e6:8.2f} ms  {calls[name]:5} x {name}")
    print(flush=True, end="")


def run_peer(args):
    """Returns the milliseconds per second of video of transformers' better loop; None without --peer.

    It runs before this process takes the device's memory.
    """
    if not args.peer:
        return None
    streams, turns = args.peer.split("x")
    script = Path(__file__).with_name("transformers_stream.py")
    command = [sys.executable, str(script), "--preset", args.preset, "--streams", streams]
    command += ["--turns", turns, "--tokenizer", args.tokenizer]
    command += ["--size", args.size, "--dtype", args.dtype]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    print(output, flush=True)
    loops = json.loads(output.splitlines()[-1]).values()
    return min(loop["median_ms"] for loop in loops)


def percentiles(times):
    p = 1e3 * np.percentile(times, [50, 99])
    return f"p50 {p[0]:7.1f} ms  p99 {p[1]:7.1f} ms  worst {1e3 * max(times):7.1f} ms"


def one_stream(model, frames, args, peer_ms=None):
    options = StreamOptions(max_new_tokens=NEW_TOKENS, context=32768, reserve=32768)
    turns = [frames[0 if turn == 0 else 1 + turn % 3] for turn in range(args.turns)]

    def run(prefetch):
        """Returns (seconds of each turn, from text to text or from push to text; the session)."""
        session = Session(model, options, QUERY)
        times, began = [], time.perf_counter()
        for turn, following in itertools.zip_longest(turns, turns[1:]):
            spoken = session.push(turn, following if prefetch else None)
            times.append(time.perf_counter() - began if prefetch else spoken.latency)
            began = time.perf_counter()
            if len(spoken.tokens) != NEW_TOKENS:
                raise SystemExit(f"a turn has {len(spoken.tokens)} tokens")
        return times, session

    began = time.perf_counter()
    run(prefetch=True)
    print(f"  compilation and one stream: {time.perf_counter() - began:.0f} s", flush=True)
    for prefetch, count in ((True, args.streams), (False, args.live_streams)):
        runs = [run(prefetch) for _ in range(count)]
        if not runs:
            continue
        times, session = np.array([times for times, _ in runs]), runs[-1][1]
        name = "as fast as possible" if prefetch else "from push to text"
        print(f"one stream, {times.size} turns, {session.length} tokens at the end, {name}")
        print(f"  a second of video: {percentiles(times[:, 1:].ravel())}")
        if peer_ms:
            ratio = peer_ms / 1e3 / np.median(times[:, 1:])
            print(f"  transformers takes {peer_ms:.0f} ms: {ratio:.1f} times as long")
        for low in range(0, args.turns, 20):
            first, stop = max(low, 1), min(low + 20, args.turns)
            print(f"    turns {first} to {stop - 1}: {percentiles(times[:, first:stop].ravel())}")
        print(f"  opening: {percentiles(times[:, 0])}", flush=True)
    if args.profile:
        print_profile("one stream, one turn", lambda: session.push(frames[1]))


def print_lower_bounds(model, frames, flops, bandwidth):
    """Prints lower bounds of vision, prompt and token, by matrix products and by bytes of weights."""
    c = model.config
    v, t = c.vision, c.text
    prompt = make_prompt(
        model.template, frames[1], turn_span(1), "", first=False, positions="mrope", start=0
    )
    patches = frames[1].shape[1] // 14 * frames[1].shape[2] // 14
    block = 2 * patches * (4 * v.width**2 + 2 * v.width * v.mlp) + 4 * patches**2 * v.width
    merger = 2 * (patches // 4) * (16 * v.width**2 + 4 * v.width * t.width)
    print(f"  vision: at least {1e3 * (v.depth * block + merger) / flops:.1f} ms")
    layer = t.width * t.head_dim * (2 * t.heads + 2 * t.kv_heads) + 3 * t.width * t.mlp
    # The last layer computes only keys and values, and everything for one token.
    last = t.width * t.head_dim * 2 * t.kv_heads
    read = 2 * len(prompt.tokens) * (layer * (t.layers - 1) + last) / flops
    each = 4 * len(prompt.tokens) * t.heads * t.head_dim * (t.layers - 1) / flops
    print(
        f"  a prompt of {len(prompt.tokens)} tokens: at least {1e3 * read:.1f} ms, and "
        f"{1e6 * each:.2f} ms for every 1,000 tokens of context"
    )
    size = model.weights.layers[0]["down"].get(
        "kernel_fp8", model.weights.layers[0]["down"].get("kernel_t")
    )
    weights = layer * t.layers * size.dtype.itemsize
    weights += t.width * t.vocab_size * (1 if model.weights.quantized_head else 2)
    cache_bytes = 2 * 2 * t.layers * t.kv_heads * t.head_dim
    print(
        f"  a token: at least {1e3 * weights / bandwidth:.2f} ms, and "
        f"{1e6 * cache_bytes / bandwidth:.3f} ms for every 1,000 tokens of context", flush=True,
    )  # fmt: skip


def print_split(model, frames, turns):
    """Prints where a turn's time goes after so many turns: vision, the prompt, each further token.

    Turns of one token and of several, whose frames were prefetched, differ by the further tokens.
    """
    vision = seconds(functools.partial(model.encode_frames, (jax.device_put(frames[1]),)))
    medians = []
    for limit in (1, NEW_TOKENS):
        options = StreamOptions(max_new_tokens=limit, context=32768, reserve=32768)
        session, times = Session(model, options, QUERY), []
        inputs = [frames[0 if turn == 0 else 1 + turn % 3] for turn in range(turns + 11)]
        for turn, following in itertools.zip_longest(inputs, inputs[1:]):
            times.append(session.push(turn, following).latency)
            # The device runs calls in order: the prefetch is done when this one is.
            jax.block_until_ready(jnp.zeros(()) + 1)
        medians.append(float(np.median(times[-11:])))
        length = session.length
    one, several = medians
    print(
        f"  at {length} tokens: vision {1e3 * vision:.1f} ms; a prompt and its first token, from push "
        f"to text, {1e3 * one:.1f} ms; each further token "
        f"{1e3 * (several - one) / (NEW_TOKENS - 1):.2f} ms",
        flush=True,
    )


def fill_engine(model, frames, count, batch, args, cache_precision="weights"):
    """Returns an engine of conversations with full caches: (engine, conversations, step times)."""
    context_size = 9216
    options = EngineOptions(
        max_conversations=count, max_batch=batch, pool_tokens=count * (context_size + 512),
        eviction=ROLLING, max_new_tokens=NEW_TOKENS, max_waiting=2, context_size=context_size,
        cache_precision=cache_precision,
    )  # fmt: skip
    engine = Engine(model, options)
    streams = []
    for seed in range(count):
        stream = engine.open(QUERY, StreamOptions(max_new_tokens=NEW_TOKENS, seed=seed))
        streams.append(stream)
        stream.push(frames[0])
        engine.step()
    times = []
    for turn in range(args.fill + args.steps):
        for i, stream in enumerate(streams):
            stream.push(frames[1 + (turn + i) % 3])
        while engine.waiting():
            began = time.perf_counter()
            results = engine.step()
            if turn >= args.fill:
                times.append(time.perf_counter() - began)
            if len(results) != min(batch, count):
                raise SystemExit(f"a step took {len(results)} turns")
    return engine, streams, times


def many_sessions(model, frames, sessions, args):
    """Back-to-back steps of COUNT or COUNT:PRECISION sessions."""
    count, _, precision = sessions.partition(":")
    count, precision = int(count), precision or "weights"
    engine, streams, times = fill_engine(model, frames, count, count, args, precision)
    if args.profile:
        for stream in streams:
            stream.push(frames[1])
        print_profile(f"{count} sessions, one step", engine.step)
    print(
        f"{count} sessions, {streams[0].length} tokens each, cache {precision}: a step "
        f"{percentiles(times)}, {1e3 * np.median(times) / count:.1f} ms a session", flush=True,
    )  # fmt: skip


def live_sessions(model, frames, phases, args):
    """In real time: a turn a second of each session, at an offset of its own, as `livecc watch` does.

    The next step begins as soon as one is over and anything waits.

    Args:
        model: The model.
        frames: Frames of an opening and of later turns.
        phases: COUNT:SECONDS,...: so many of the engine's conversations for so long, in order.
        args: Options of the command line.
    """
    phases = [tuple(map(int, phase.split(":"))) for phase in phases.split(",")]
    max_count = max(count for count, _ in phases)
    max_count += -max_count % args.batch  # full steps while the caches fill
    engine, streams, _ = fill_engine(model, frames, max_count, args.batch, args)
    for size in (1 << i for i in range(args.batch.bit_length())):  # compiles, before the clock runs
        for i, stream in enumerate(streams[:size]):
            stream.push(frames[1 + i % 3])
        engine.step()
    for count, length in phases:
        rng = np.random.default_rng(count)
        while engine.waiting():  # turns of the phase before
            engine.step()
        dropped = sum(s.latency.dropped for s in streams)
        began = time.perf_counter() + 0.1
        due = sorted((began + offset, i) for i, offset in enumerate(rng.uniform(0, 1, count)))
        heapq.heapify(due)
        latencies, steps, busy = [], 0, 0.0
        while (now := time.perf_counter()) < began + length:
            while due[0][0] <= now:
                captured, i = heapq.heappop(due)
                streams[i].push(frames[1 + i % 3], captured=captured)
                heapq.heappush(due, (captured + 1.0, i))
            if engine.waiting():
                latencies += [(now, who.latency.latest) for who, _ in engine.step()]
                steps += 1
                busy += time.perf_counter() - now
            else:
                time.sleep(max(0.0, due[0][0] - time.perf_counter()))
        steady = [latency for at, latency in latencies if at > began + 5]
        if not steady:
            raise SystemExit(f"{count} sessions took no turn after the first 5 s")
        dropped = sum(s.latency.dropped for s in streams) - dropped
        print(
            f"{count} sessions live for {length} s, {len(latencies) / steps:.1f} a step, from capture "
            f"to text: {percentiles(steady)}, {len(steady)} turns, {dropped} dropped, "
            f"busy {busy / length:.0%}", flush=True,
        )  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="7b")
    parser.add_argument("--tokenizer", default="data/tokenizer")
    parser.add_argument("--streams", type=int, default=10)
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--live-streams", type=int, default=3, help="timed from push to text")
    parser.add_argument(
        "--sessions", default="16,32,48", help="in back-to-back steps, each COUNT or COUNT:int8 cache"
    )
    parser.add_argument("--fill", type=int, default=20, help="steps until the caches are full")
    parser.add_argument("--steps", "--ticks", type=int, default=20, help="timed engine steps")
    parser.add_argument("--live", default="", help="in real time: sessions:seconds,...")
    parser.add_argument("--batch", type=int, default=16, help="sessions in a step, in real time")
    parser.add_argument(
        "--size", default="448x672", help="height and width of a frame: 384 tokens a pair"
    )
    parser.add_argument("--precision", default="weights", help="weights or fp8")
    parser.add_argument("--dtype", default="bfloat16", help="data type of weights")
    parser.add_argument("--peer", default="", help="transformers too: streams x turns, say 1x30")
    parser.add_argument("--split", type=int, default=0, help="where time goes, after so many turns")
    parser.add_argument("--profile", action="store_true", help="print the busiest kernels too")
    args = parser.parse_args()
    peer_ms = run_peer(args)
    device = jax.devices()[0]
    facts = device.device_kind, f"jax {jax.__version__}", args.preset, args.precision
    print(*facts, time.strftime("%Y-%m-%d"), sep=", ")
    if device.platform == "gpu":
        check_attention()
        check_products()
    flops, bandwidth = measure_rates()
    print(f"measured: {flops / 1e12:.0f} TFLOP/s, {bandwidth / 1e12:.2f} TB/s", flush=True)
    config = preset(args.preset)
    params = random_params(config, args.dtype)
    model = StreamModel(config, params, open_tokenizer(args.tokenizer), args.precision)
    del params
    rng, size = np.random.default_rng(0), tuple(map(int, args.size.split("x")))
    frames = [rng.integers(0, 256, (6 if i == 0 else 2, *size, 3), np.uint8) for i in range(4)]
    print_lower_bounds(model, frames, flops, bandwidth)
    if args.split:
        print_split(model, frames, args.split)
    if args.streams:
        one_stream(model, frames, args, peer_ms)
    runs = [(many_sessions, count) for count in filter(None, args.sessions.split(","))]
    runs += [(live_sessions, args.live)] * bool(args.live)
    for run, sessions in runs:
        try:
            run(model, frames, sessions, args)
        except jax.errors.JaxRuntimeError as error:
            print(f"{sessions} sessions: {str(error).splitlines()[0][:200]}", flush=True)


if __name__ == "__main__":
    main()
