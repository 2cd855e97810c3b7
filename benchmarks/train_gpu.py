"""Compares training on one GPU with PyTorch and transformers: tokens a second, MFU, memory.

    python benchmarks/train_gpu.py --preset 2b --tokens 8848 --remats dots,full --peer
    python benchmarks/train_gpu.py --plan 8848:dots+unroll:12,16384:dots+unroll:6,32768:full:3 --peer
    python benchmarks/train_gpu.py --tokens 8848 --remats dots --unroll --deterministic

Ours is the real step (`train.step`): a packed row of four streaming clips, tower frozen, float32
parameters and AdamW, bfloat16 compute, random weights. The peer's is what its users run: parameters
and AdamW in bfloat16 (half our bytes), sdpa attention, one conversation of as many tokens, patches
and supervised tokens, the kernels of liger if they can be imported, without and with gradient
checkpointing. Frames are noise. Each time is the mean of the steps after the first three; the loss of
a step is fetched while the next one runs, as training loops do.

`--plan` runs several lengths, each TOKENS:REMAT[+unroll]:STEPS, for both. With `--deterministic` the
steps are run twice as they are and twice in XLA's deterministic mode, each time from the same weights
in a process of its own, to see whether their losses are bitwise equal and what the mode costs.
"""

import argparse
import json
import os
import subprocess
import sys
import time

import numpy as np

HEIGHT, WIDTH = 32, 48  # patches of a frame: 384 tokens a pair
PATCHES = HEIGHT * WIDTH
WORDS = 18  # text tokens a frame pair
LENGTH_MULTIPLE = 128  # the row is padded to a multiple; padding does not count as tokens
SHARES = (8, 6, 5, 3)  # frame pairs of the clips, of 22
IM_START, VISION_START, VISION_END, VIDEO_PAD = 151644, 151652, 151653, 151656


def clips(pairs):
    """The number of frame pairs of each clip of a row."""
    sizes = [max(1, pairs * s // sum(SHARES)) for s in SHARES]
    sizes[0] += pairs - sum(sizes)
    return sizes


def conversation(rng, pairs):
    """(tokens, supervised, one grid for each pair): a second of video, then words, and so on."""
    tokens, supervised = [], []
    for _ in range(pairs):
        text = rng.integers(0, 100_000, WORDS - 2)
        tokens += [VISION_START, *[VIDEO_PAD] * (PATCHES // 4), VISION_END, *text]
        supervised += [False] * (PATCHES // 4 + 2) + [True] * len(text)
    return np.array(tokens, np.int32), np.array(supervised), [(1, HEIGHT, WIDTH)] * pairs


def packed_row(pairs, seed=0):
    """A batch [1, 1, ...] of one packed row (docs/formats.md)."""
    from livecc_jax.media.pixels import patch_coordinates
    from livecc_jax.text.tokenizer import SpecialTokens
    from livecc_jax.timeline.positions import token_positions

    special = SpecialTokens(151643, IM_START, 151645, VISION_START, VISION_END, 151655, VIDEO_PAD)
    rng = np.random.default_rng(seed)
    parts = [conversation(rng, n) for n in clips(pairs)]
    tokens = np.concatenate([t for t, _, _ in parts])
    supervised = np.concatenate([s for _, s, _ in parts])
    supervised[0] = False
    positions = [token_positions(t, np.array(g), special, "mrope")[0] for t, _, g in parts]
    slots = np.flatnonzero(supervised) - 1
    is_vision = tokens == VIDEO_PAD
    rows, cols = patch_coordinates(HEIGHT, WIDTH)
    row = {
        "tokens": tokens,
        "segment_ids": np.repeat(np.arange(len(parts)) + 1, [len(t) for t, _, _ in parts]).astype("i4"),
        "positions": np.concatenate(positions, axis=1),
        "patches": rng.integers(0, 256, (pairs, PATCHES, 1176), np.uint8),
        "patch_pairs": np.ones((pairs, PATCHES), np.int32),
        "patch_rows": np.tile(rows, (pairs, 1)),
        "patch_cols": np.tile(cols, (pairs, 1)),
        "vision_index": np.where(is_vision, np.cumsum(is_vision) - 1, -1).astype(np.int32),
        "target_slots": slots.astype(np.int32),
        "target_weights": np.ones(len(slots), np.float32),
    }
    # Rows have a round length in training too; for odd ones the GPU library copies its operands.
    padding = -len(tokens) % LENGTH_MULTIPLE
    row |= {k: np.pad(row[k], (0, padding)) for k in ("tokens", "segment_ids")}
    row["positions"] = np.pad(row["positions"], ((0, 0), (0, padding)))
    row["vision_index"] = np.pad(row["vision_index"], (0, padding), constant_values=-1)
    return {k: v[None, None] for k, v in row.items()}


def timed(step, steps):
    """Mean seconds of a step without the first three. A step returns a function that waits for it."""
    step()()
    step()()
    wait = step()
    wait()
    start = time.perf_counter()
    for _ in range(steps):
        wait_for_previous, wait = wait, step()
        wait_for_previous()
    wait()
    return (time.perf_counter() - start) / steps


def our_steps(args, config, batch, remat):
    """(seconds of a step, bytes of memory, losses in hexadecimal, a function that runs a step)."""
    import jax
    from random_weights import random_weight

    from livecc_jax.model.qwen2_vl import abstract_params
    from livecc_jax.train.config import ComputeConfig, OptimConfig
    from livecc_jax.train.optimizer import make_optimizer
    from livecc_jax.train.state import join_params, split_trainable
    from livecc_jax.train.step import compiler_options, jit_step, make_step

    compute = ComputeConfig(remat=remat, unroll=args.unroll)
    optimizer = make_optimizer(OptimConfig(), 1000)
    trainable, frozen = split_trainable(abstract_params(config), compute.freeze)
    trainable = {
        k: random_weight(k, i, v.shape, "float32") for i, (k, v) in enumerate(trainable.items())
    }
    frozen = {k: random_weight(k, i, v.shape, "bfloat16") for i, (k, v) in enumerate(frozen.items())}
    state = {"params": join_params(trainable, frozen), "opt_state": jax.jit(optimizer.init)(trainable)}
    del trainable, frozen
    rows = jax.device_put(batch)
    options = compiler_options(compute, jax.devices()[0].platform)
    step = jit_step(make_step(config, compute, optimizer), state, options)
    start = time.perf_counter()
    step = step.lower(state, rows).compile()
    print(f"compiled in {time.perf_counter() - start:.0f} s", flush=True)
    current, loss, losses = [state], [0.0], []
    del state

    def run_step():
        current[0], metrics = step(current[0], rows)

        def wait():
            loss[0] = float(metrics["loss"])
            losses.append(loss[0].hex())

        return wait

    seconds = timed(run_step, args.steps)
    memory = step.memory_analysis()
    return seconds, memory.argument_size_in_bytes + memory.temp_size_in_bytes, losses, run_step


def ours(args):
    """Measures our step with each remat policy."""
    import jax
    import jax.numpy as jnp

    from livecc_jax.model.flops import step_flops
    from livecc_jax.model.presets import preset
    from livecc_jax.parallel.peak_rates import peak_flops

    device = jax.devices()[0]
    config = preset(args.preset)
    batch = packed_row(args.pairs)
    flops = step_flops(config, {k: v[0] for k, v in batch.items()}, vision_trainable=False)
    tokens = int((batch["segment_ids"] > 0).sum())
    a = jax.random.normal(jax.random.key(0), (args.square, args.square), jnp.bfloat16)
    product = jax.jit(lambda a: a @ a)
    rate = 2 * args.square**3 / timed(lambda: product(a).block_until_ready, 20)
    peak, source = peak_flops(device, "bfloat16")
    print(
        f"{device.device_kind}, jax {jax.__version__}, {args.preset}, {time.strftime('%Y-%m-%d')}: "
        f"{tokens} tokens in {len(SHARES)} clips, {args.pairs * PATCHES} patches, "
        f"{batch['target_slots'].size} supervised; {flops / 1e12:.1f} TFLOP a step, "
        f"{1e3 * flops / rate:.0f} ms at the {rate / 1e12:.0f} TFLOP/s of a product", flush=True,
    )  # fmt: skip
    best, losses = 0.0, []
    for remat in args.remats.split(","):
        try:
            seconds, memory, losses, run_step = our_steps(args, config, batch, remat)
        except jax.errors.JaxRuntimeError as error:
            print(f"ours, remat {remat}: {str(error).splitlines()[0][:160]}", flush=True)
            continue
        best = max(best, tokens / seconds)
        print(
            f"ours, remat {remat}: {1e3 * seconds:.0f} ms, {tokens / seconds:,.0f} tokens/s, MFU "
            f"{100 * flops / seconds / peak:.1f}% of {source}, "
            f"{seconds * rate / flops:.2f} x the minimum, "
            f"{memory / 2**30:.1f} GiB, loss {float.fromhex(losses[-1]):.3f}", flush=True,
        )  # fmt: skip
        if args.profile:
            from streaming import where_time_goes

            where_time_goes(f"remat {remat}", lambda step=run_step: step()(), args.profile)
        del run_step
    print(json.dumps({"tokens_per_second": best, "losses": losses}), flush=True)


def peer(args):
    """Measures transformers without and with gradient checkpointing."""
    import torch
    import transformers

    try:
        from liger_kernel.transformers import apply_liger_kernel_to_qwen2_vl

        apply_liger_kernel_to_qwen2_vl()
        kernels = "liger"
    except Exception as error:
        kernels = f"no liger ({type(error).__name__})"
    from livecc_jax.checkpoints.hf_config import LiveCCBlock, to_config_json
    from livecc_jax.model.presets import preset

    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = to_config_json(preset(args.preset), LiveCCBlock(), "bfloat16", "nested")
    config = transformers.Qwen2VLConfig(**config)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = transformers.Qwen2VLForConditionalGeneration._from_config(
            config, attn_implementation="sdpa"
        )
    torch.set_default_dtype(torch.float32)
    model.to(torch.bfloat16)
    model.config.use_cache = model.config.text_config.use_cache = False
    for name, weights in model.named_parameters():
        if "visual" in name:
            weights.requires_grad_(False)
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-6, fused=device == "cuda")
    rng = np.random.default_rng(0)
    tokens, supervised, grids = conversation(rng, args.pairs)
    ids = torch.tensor(tokens, dtype=torch.long, device=device)[None]
    labels = torch.where(torch.tensor(supervised, device=device)[None], ids, -100)
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == VIDEO_PAD).int() * 2,
        "labels": labels,
        "pixel_values_videos": torch.randn(
            args.pairs * PATCHES, 1176, device=device, dtype=torch.bfloat16
        ),
        "video_grid_thw": torch.tensor(grids, device=device),
    }
    best = {}
    for checkpointing in (False, True):
        model.train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        name = "with" if checkpointing else "without"
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()

        def run_step():
            loss = model(**inputs).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trainable, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            loss = loss.detach()

            def wait():
                run_step.loss = float(loss)

            return wait

        try:
            seconds = timed(run_step, args.steps)
        except torch.OutOfMemoryError:
            optimizer.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            print(f"peer {name} checkpointing: out of memory", flush=True)
            continue
        memory = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0
        best[name] = ids.numel() / seconds
        versions = f"torch {torch.__version__}, transformers {transformers.__version__}, {kernels}"
        print(
            f"peer, {versions}, {name} gradient checkpointing: {1e3 * seconds:.0f} ms, "
            f"{best[name]:,.0f} tokens/s, {memory:.1f} GiB, loss {run_step.loss:.3f}", flush=True,
        )  # fmt: skip
    print(json.dumps(best), flush=True)


def run(args, role, flags=""):
    """Runs one side in a process of its own, which frees all its memory; returns its last line.

    `flags` are added to XLA_FLAGS.
    """
    command = [sys.executable, __file__, "--role", role, "--preset", args.preset]
    for name in ("tokens", "remats", "steps", "square", "profile"):
        command += [f"--{name}", str(getattr(args, name))]
    command += ["--unroll"] * args.unroll
    env = dict(os.environ)
    env["XLA_FLAGS"] = f"{env.get('XLA_FLAGS', '')} {flags}".strip()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
    last = "{}"
    for line in child.stdout:
        if line.startswith("{"):
            last = line
        else:
            print(line, end="", flush=True)
    child.wait()
    return json.loads(last)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="2b")
    parser.add_argument("--tokens", type=int, default=8848, help="approximate number")
    parser.add_argument("--remats", default="dots,attention,full")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--square", type=int, default=8192, help="of the measured matrix product")
    parser.add_argument("--peer", action="store_true", help="and transformers, in the same run")
    parser.add_argument(
        "--profile", type=int, default=0, metavar="N", help="print our N busiest kernels"
    )
    parser.add_argument("--unroll", action="store_true", help="compute.unroll of ours")
    parser.add_argument("--role", choices=("ours", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--plan", help="lengths to run: TOKENS:REMAT[+unroll]:STEPS,...")
    parser.add_argument("--deterministic", action="store_true", help="what XLA's mode costs; no peer")
    args = parser.parse_args()
    args.pairs = max(4, args.tokens // (PATCHES // 4 + WORDS))
    if args.role:
        return {"ours": ours, "peer": peer}[args.role](args)
    if args.deterministic:
        return deterministic(args)
    for settings in args.plan.split(",") if args.plan else [""]:
        if settings:
            tokens, remat, steps = settings.split(":")
            args.tokens, args.steps = int(tokens), int(steps)
            args.remats, _, unroll = remat.partition("+")
            args.unroll = bool(unroll)
            print(f"\n{settings}", flush=True)
        compare(args)


def compare(args):
    """Runs ours and, with --peer, the peer's at one length."""
    mine = run(args, "ours").get("tokens_per_second", 0.0)
    for name, speed in (run(args, "peer") if args.peer else {}).items():
        print(f"{mine / speed:.2f} times the peer {name} gradient checkpointing", flush=True)


def deterministic(args):
    """Runs the same steps twice as they are and twice in XLA's deterministic mode."""
    results = {}
    for name, flags in (("as it is", ""), ("deterministic", "--xla_gpu_deterministic_ops=true")):
        print(f"{name}:", flush=True)
        results[name] = [run(args, "ours", flags) for _ in range(2)]
        first, second = (result["losses"] for result in results[name])
        different = next((i for i, (a, b) in enumerate(zip(first, second)) if a != b), None)
        print(
            f"{name}: losses of {len(first)} steps, two runs: "
            + (
                "bitwise equal"
                if first and different is None
                else f"different from step {different} on"
            ),
            flush=True,
        )
    speeds = {k: max(run["tokens_per_second"] for run in runs) for k, runs in results.items()}
    cost = 1 - speeds["deterministic"] / max(speeds["as it is"], 1e-9)
    print(f"XLA's deterministic mode: {cost:.1%} fewer tokens a second", flush=True)


if __name__ == "__main__":
    main()
