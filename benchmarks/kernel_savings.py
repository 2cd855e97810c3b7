"""What each kernel saves of a whole turn and of a whole engine step: all kernels, then without one.

    python benchmarks/kernel_savings.py 2b:full 7b:28 7b:full --out savings.md
    python benchmarks/kernel_savings.py tiny:full tiny:2 --interpreted --size 56x84 --dtype float32 \
        --depth 0.5 --turns 3 --rounds 1      # on a CPU: proves the script, measures nothing

A run is PRESET:STREAMS[:PRECISION][@MS][=KERNEL,...], where A+B turns off both. `full` is one stream
with a contiguous cache, timed from text to text as a file's turns follow each other; a number is an
engine step of so many streams with full rolling contexts. In one process and on the same streams,
kernels are turned off in turn (`livecc_jax.kernels.without`), in interleaved rounds, so that what
drifts touches all alike.

Programs of fewer layers compile in a fraction of the time: --depth is the share of the layers of
decoder and tower. A kernel saves the same in every layer, so a saving is divided by the share; the
whole turn is extrapolated from that depth and twice that depth, since what is the same at any depth
(the head, the host) counts once; @MS gives the milliseconds of the whole turn if they are known. The
last layer computes little of a prompt, so that what a prompt's kernels save is slightly understated.
"""

import argparse
import contextlib
import dataclasses
import itertools
import os
import tempfile
import time

import jax
import numpy as np
from random_weights import random_params
from streaming import measure_rates

from livecc_jax import kernels
from livecc_jax.decoding.options import StreamOptions
from livecc_jax.model.presets import fit_vocabulary, preset
from livecc_jax.stream.engine import Engine
from livecc_jax.stream.history import ROLLING
from livecc_jax.stream.model import StreamModel
from livecc_jax.stream.options import EngineOptions
from livecc_jax.stream.session import Session
from livecc_jax.text.open import open_tokenizer

QUERY, NEW_TOKENS = "Comment on the video.", 6
CONTEXT = 9216  # tokens that an engine's programs are compiled for
FILL = 18  # steps until rolling contexts are full
SETTLED = 4  # turns of a stream that are not timed, since they follow on a compilation
# The kernels in order: first those that may save little.
ORDER = (
    "merge_partials", "rotate_and_write", "fused_norm", "fused_gemm", "flash_vision", "gemv",
    "flash_prefill", "flash_decode",
)  # fmt: skip
MIN_SAVING = 0.02  # of a turn or a step: a kernel that saves less is not kept


def shallow(config, depth):
    """The architecture with a share of its layers."""
    text = dataclasses.replace(config.text, layers=max(1, round(config.text.layers * depth)))
    vision = dataclasses.replace(config.vision, depth=max(1, round(config.vision.depth * depth)))
    return dataclasses.replace(config, text=text, vision=vision)


def one_stream(model, frames, turns):
    """Returns a function that times the turns of a new stream: seconds of each, settled ones alone."""
    options = StreamOptions(max_new_tokens=NEW_TOKENS, context=32768, reserve=32768)

    def run(off):
        session, times = Session(model, options, QUERY), []
        session.push(frames[0])  # the opening, with all kernels: its program is not measured
        inputs = [frames[turn % len(frames)] for turn in range(1, turns + SETTLED)]
        with kernels.without(*off):
            began = time.perf_counter()
            for turn, following in itertools.zip_longest(inputs, inputs[1:]):
                spoken = session.push(turn, following)
                times.append(time.perf_counter() - began)
                began = time.perf_counter()
                if len(spoken.tokens) != NEW_TOKENS:
                    raise SystemExit(f"a turn has {len(spoken.tokens)} tokens")
        return times[SETTLED - 1 :]

    return run


def engine(model, frames, count, steps, context):
    """Returns a function that times steps of an engine whose contexts are full: seconds of each."""
    options = EngineOptions(
        max_conversations=count, max_batch=count, pool_tokens=count * (context + 512),
        eviction=ROLLING, max_new_tokens=NEW_TOKENS, max_waiting=2, context_size=context,
    )  # fmt: skip
    engine = Engine(model, options)
    streams = [
        engine.open(QUERY, StreamOptions(max_new_tokens=NEW_TOKENS, seed=i)) for i in range(count)
    ]
    turn = itertools.count()

    def step():
        number = next(turn)
        for i, stream in enumerate(streams):
            stream.push(frames[(number + i) % len(frames)])
        jax.block_until_ready(jax.numpy.zeros(()) + 1)  # frames are on the device
        began = time.perf_counter()
        results = engine.step()
        taken = time.perf_counter() - began
        if len(results) != count or any(len(result.tokens) != NEW_TOKENS for _, result in results):
            raise SystemExit(f"a step took {len(results)} turns")
        return taken

    for _ in range(FILL):
        step()

    def run(off):
        with kernels.without(*off):
            step()  # compiles in the first round
            return [step() for _ in range(steps)]

    return run


def make_run(streams, model, frames, args):
    if streams == "full":
        return one_stream(model, frames, args.turns)
    return engine(model, frames, int(streams), max(2, args.turns // 6), args.context)


def typical(times):
    """Seconds of a turn, given [rounds, turns]: the median over rounds, the mean over turns."""
    return float(np.median(times, axis=0).mean())


def measure(spec, args):
    """Measures a run and returns its lines of Markdown."""
    spec, _, chosen = spec.partition("=")
    spec, _, whole_ms = spec.partition("@")
    name, streams, precision = [*spec.split(":"), "weights"][:3]
    tokenizer, began = open_tokenizer(args.tokenizer), time.perf_counter()
    height, width = map(int, args.size.split("x"))
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (2, height, width, 3), np.uint8) for _ in range(4)]
    whole = fit_vocabulary(preset(name), tokenizer)

    def prepare(depth):
        config = shallow(whole, depth)
        model = StreamModel(config, random_params(config, args.dtype), tokenizer, precision)
        return make_run(streams, model, frames, args)

    deeper_times = None
    if not whole_ms:
        deeper = prepare(min(1.0, 2 * args.depth))
        deeper_times = [deeper(()) for _ in range(args.rounds)]
        del deeper
    run = prepare(args.depth)
    names = chosen.split(",") if chosen else [k for k in ORDER if k not in unused(streams)]
    variants = {"": (), **{name: name.split("+") for name in names}}
    for label, off in list(variants.items()):
        if time.perf_counter() - began > args.limit:
            print(f"  out of time: {label} is left out", flush=True)
            del variants[label]
            continue
        run(off)
        print(f"  {spec} without {label or 'none'}: {time.perf_counter() - began:.0f} s", flush=True)
    times = {label: [] for label in variants}
    for _ in range(args.rounds):
        for label, off in variants.items():
            times[label].append(run(off))
    base = typical(times[""])
    if whole_ms:
        turn = float(whole_ms) / 1e3
        source = f"as measured before; {1e3 * base:.2f} ms with {args.depth:g} of the layers"
    else:
        deeper = typical(deeper_times)
        slope = (deeper - base) / (min(1.0, 2 * args.depth) - args.depth)
        turn = base + slope * (1 - args.depth)
        source = (
            f"extrapolated from {1e3 * base:.2f} ms with {args.depth:g} of the layers and "
            f"{1e3 * deeper:.2f} with twice as many"
        )
    kind = "turn of one stream" if streams == "full" else f"step of {streams} streams"
    lines = [
        f"{name} in {precision}, a {kind}: {1e3 * turn:.1f} ms with all kernels ({source}; "
        f"{np.size(times[''])} timed)",
        "",
        "| without | ms more | of the whole | between rounds |",
        "|---|---|---|---|",
    ]
    for label in names:
        if label not in times:
            continue
        saved = (typical(times[label]) - base) / args.depth
        rounds = [
            1e3 * (np.median(a) - np.median(b)) / args.depth for a, b in zip(times[label], times[""])
        ]
        verdict = "" if saved >= MIN_SAVING * turn else ", less than 2%"
        lines.append(
            f"| {label} | {1e3 * saved:.2f} | {saved / turn:.1%}{verdict} | {min(rounds):.2f} to "
            f"{max(rounds):.2f} ms |"
        )
    return lines


def unused(streams):
    """Kernels that such a run never calls."""
    return () if streams in ("full", "1") else ("gemv",)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", help="PRESET:STREAMS[:PRECISION][=KERNEL,...]")
    parser.add_argument("--tokenizer", default="data/tokenizer")
    parser.add_argument("--depth", type=float, default=0.25, help="share of the layers")
    parser.add_argument("--turns", type=int, default=36, help="timed turns of a stream in a round")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--limit", type=float, default=240, help="seconds of a run in which to compile")
    parser.add_argument("--size", default="448x672", help="height and width of a frame")
    parser.add_argument("--context", type=int, default=CONTEXT, help="tokens of an engine's context")
    parser.add_argument("--dtype", default="bfloat16", help="data type of weights")
    parser.add_argument("--interpreted", action="store_true", help="kernels in interpret mode")
    parser.add_argument("--out", help="file that results are appended to")
    args = parser.parse_args()
    # The tower and the turn are two programs; where a kernel is in one of them, the other is not
    # compiled again. XLA's choices between ways of a product are kept there too.
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR") or tempfile.mkdtemp(prefix="kernel-savings-")
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    lines = [f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {time.strftime('%Y-%m-%d')}"]
    if not args.interpreted:
        flops, bandwidth = measure_rates()
        lines[0] += f", {flops / 1e12:.0f} TFLOP/s, {bandwidth / 1e12:.2f} TB/s"
    with kernels.interpreted() if args.interpreted else contextlib.nullcontext():
        for spec in args.runs:
            try:
                lines += ["", *measure(spec, args)]
            except jax.errors.JaxRuntimeError as error:
                lines += ["", f"{spec}: {str(error).splitlines()[0][:200]}"]
            print("\n".join(lines), flush=True)
            if args.out:
                with open(args.out, "a", encoding="utf-8") as file:
                    file.write("\n".join(lines) + "\n")
            lines = []


if __name__ == "__main__":
    main()
