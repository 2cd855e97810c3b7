"""How fast multiple-choice questions are answered, beside the floor that their arithmetic sets.

    python benchmarks/choice_speed.py --preset 7b               # Video-MME's longest: 480 frames
    python benchmarks/choice_speed.py --preset 7b --peer        # and transformers, after it
    python benchmarks/choice_speed.py --preset tiny --frames 32 # anywhere

Weights are random and patches noise: neither changes the work. A video comes with three questions, as
in Video-MME. The floor is the counted arithmetic of one prefill and the questions' own tokens at the
device's peak; asking every question with a video of its own is timed beside it. What no answer needs is
not in the floor: of the prefix the last layer's queries, output and MLP, since only its keys and values
are looked at. Then each part by itself, waited for, beside its own floor: the tower and the prefix by
their arithmetic, the questions by that or by reading weights and cache once, whichever is longer.
Decoding files is not in it: with `livecc evaluate` it runs beside the device, in threads. The peer is
transformers in bfloat16 with sdpa attention: a forward pass for each question, logits of the last token
alone.
"""

import argparse
import os
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from livecc_jax.evaluate.benchmarks.questions import PromptTemplate
from livecc_jax.evaluate.run import choice
from livecc_jax.evaluate.run.choice import ChoiceScorer, ShapeBuckets, VideoQuestions
from livecc_jax.evaluate.run.sampled_video import SampledVideo
from livecc_jax.media.budget import PixelBudget
from livecc_jax.model.flops import forward_flops
from livecc_jax.model.presets import preset
from livecc_jax.model.qwen2_vl import abstract_params
from livecc_jax.parallel.peak_rates import peak_flops
from livecc_jax.text.tokenizer import SpecialTokens

SPECIAL = SpecialTokens(151643, 151644, 151645, 151652, 151653, 151655, 151656)


class Words:
    """Some token for every four letters: what a real vocabulary comes to."""

    vocab_size, special, silence_id = 151_665, SPECIAL, 2503

    def encode(self, text):
        pieces = [text[i : i + 4] for i in range(0, len(text), 4)]
        return [sum(map(ord, p)) % 150_000 for p in pieces]


def random_weights(config, dtype):
    """Normal weights, each leaf made where it stays."""
    leaves, tree = jax.tree.flatten(abstract_params(config))
    make = jax.jit(
        lambda seed, shape: 0.02 * jax.random.normal(jax.random.key(seed, impl="rbg"), shape, dtype),
        static_argnums=1,
    )
    return jax.tree.unflatten(tree, [make(i, leaf.shape) for i, leaf in enumerate(leaves)])


def flops(config, pairs, patches, tokens, heads):
    """Forward arithmetic of one row: `pairs` windows of `patches`, `tokens` of one segment."""
    row = {
        "patch_pairs": np.ones((1, pairs, patches), np.int32),
        "segment_ids": np.ones((1, tokens), np.int32),
        "target_weights": np.ones((1, heads), np.float32),
    }
    return sum(forward_flops(config, row).values())


def spared(config, tokens):
    """Arithmetic of the last layer over a prefix beyond its keys and values."""
    t = config.text
    heads = t.heads * t.head_dim
    per_token = 2 * (2 * t.width * heads + 3 * t.width * t.mlp)
    return tokens * per_token + 4 * heads * (tokens**2 + tokens) / 2


def parts(args, chooser, watched, texts, rate, vision_flops, prefix_flops, question_flops):
    """Print the tower, the prefix and the questions, each waited for, beside its floor."""
    asked = [chooser.conversation(watched.grid, t) for t in texts]
    shared = np.array([choice.common_prefix([c.tokens for c in asked])], np.int32)
    seen = jax.block_until_ready(chooser._encode([watched]))
    cache = jax.block_until_ready(chooser._prefill(asked[:1], shared, seen))
    copied = jnp.ones(1 << 28, jnp.dtype(args.dtype))
    read = jax.jit(jnp.max)
    read(copied).block_until_ready()
    bandwidth = copied.nbytes / min(timed(lambda: read(copied).block_until_ready()) for _ in range(5))
    size = sum(x.nbytes for x in jax.tree.leaves((chooser.weights.layers, cache)))
    acts = {
        "vision": (lambda: jax.block_until_ready(chooser._encode([watched])), vision_flops / rate),
        "prefill": (
            lambda: jax.block_until_ready(chooser._prefill(asked[:1], shared, seen)),
            prefix_flops / rate,
        ),
        "questions": (
            lambda: jax.block_until_ready(chooser._finish([asked], shared, cache)),
            max(question_flops / rate, size / bandwidth),
        ),
    }
    for name, (act, floor) in acts.items():
        took = float(np.median([timed(act) for _ in range(args.videos)]))
        told = f"{1e3 * took:.1f} ms, floor {1e3 * floor:.1f} ms, {took / floor:.2f} times"
        print(f"  {name}: {told}", flush=True)
        if args.profile:
            from streaming import where_time_goes

            where_time_goes(name, act, args.profile)
    bucket = choice.window_bucket(watched.grid[1] * watched.grid[2])
    calls = choice._calls(watched.grid[0], max(1, chooser.shapes.patches // bucket))
    padded = (
        sum(n for _, n in calls) * bucket / (len(watched.patches) * watched.grid[1] * watched.grid[2])
    )
    print(
        f"  padding: {100 * (padded - 1):.1f}% of patches, in {len(calls)} calls; "
        f"{int(shared[0])} tokens in a cache of {cache[0][0].shape[1]}",
        flush=True,
    )


def peer(args, config, watched, texts):
    """Seconds a video of transformers."""
    import torch
    import transformers

    from livecc_jax.checkpoints.hf_config import LiveCCBlock, to_dict
    from livecc_jax.timeline.chat import ChatTemplate, Visual

    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = transformers.Qwen2VLConfig(**to_dict(config, LiveCCBlock(), args.dtype, "nested"))
    torch.set_default_dtype(getattr(torch, args.dtype))
    with torch.device(device):
        model = transformers.Qwen2VLForConditionalGeneration._from_config(
            sizes, attn_implementation="sdpa"
        ).eval()
    patches = torch.from_numpy(watched.patches.reshape(-1, 1176)).to(device)
    patches = patches.to(torch.get_default_dtype()) / 255
    grid = torch.tensor([watched.grid], device=device)
    template = ChatTemplate(Words())

    @torch.inference_mode()
    def ask():
        for text in texts:
            ids = template.opening((Visual("video", watched.grid), text)).tokens
            ids = torch.tensor(ids, dtype=torch.long, device=device)[None]
            model(
                input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values_videos=patches,
                mm_token_type_ids=(ids == SPECIAL.video_pad).int() * 2, video_grid_thw=grid,
                logits_to_keep=1, use_cache=False,
            ).logits.argmax().item()  # fmt: skip

    ask()
    times = []
    for _ in range(max(1, args.videos // 2)):
        began = time.perf_counter()
        ask()
        times.append(time.perf_counter() - began)
    taken = float(np.median(times))
    print(
        f"peer: torch {torch.__version__}, transformers {transformers.__version__}: {taken:.2f} s a "
        f"video of {len(texts)} questions, {60 * len(texts) / taken:.1f} a minute", flush=True,
    )  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="7b")
    parser.add_argument("--frames", type=int, default=480)
    parser.add_argument("--height", type=int, default=720)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--questions", type=int, default=3)
    parser.add_argument("--videos", type=int, default=5, help="timed, after one that compiles")
    parser.add_argument(
        "--whole",
        type=int,
        default=ShapeBuckets().whole,
        help="tokens at once, where attention is fused",
    )
    parser.add_argument("--square", type=int, default=8192, help="of the product that is timed")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--peer", action="store_true", help="and transformers, in the same run")
    parser.add_argument(
        "--profile", type=int, default=0, metavar="N", help="print the N busiest kernels of each part"
    )
    parser.add_argument("--role", choices=("ours", "peer"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer and not args.role:
        for role in ("ours", "peer"):  # each gives all its memory back
            subprocess.run([sys.executable, *sys.argv, "--role", role], check=True, env=os.environ)
        return
    config = preset(args.preset)
    height, width = PixelBudget.parse("reference").size(args.height, args.width, args.frames)
    rows, cols = height // 14, width // 14
    pairs = args.frames // 2
    noise = np.random.default_rng(0).integers(0, 256, (pairs, rows * cols, 1176), np.uint8)
    watched = SampledVideo(noise, (pairs, rows, cols))
    texts = [f"Question {i}? " + "A choice of words. " * 20 for i in range(args.questions)]
    options = [("A", "B", "C", "D")] * args.questions
    if args.role == "peer":
        return peer(args, config, watched, texts)
    params = random_weights(config, jnp.dtype(args.dtype))
    chooser = ChoiceScorer(
        config, params, Words(), "sequential", PromptTemplate(), ShapeBuckets(whole=args.whole)
    )
    del params
    shown = VideoQuestions(watched, texts, options)
    began = time.perf_counter()
    chooser.choose(*shown)
    compiled = time.perf_counter() - began

    def in_turn():
        """Videos one after another as an evaluation asks about them."""
        before = chooser.ask([shown])
        for _ in range(args.videos - 1):
            before, waiting = chooser.ask([shown]), before
            waiting()
        before()

    taken = timed(in_turn) / args.videos
    latency = float(np.median([timed(lambda: chooser.choose(*shown)) for _ in range(args.videos)]))

    def apart():
        for text, named in zip(texts, options):
            chooser.choose(watched, [text], [named])

    apart()  # compiles
    alone = timed(apart)
    lengths = [len(chooser.conversation(watched.grid, t).tokens) for t in texts]
    shared = choice.common_prefix([chooser.conversation(watched.grid, t).tokens for t in texts])
    whole = flops(config, pairs, rows * cols, lengths[0], 1)
    prefix = flops(config, pairs, rows * cols, shared, 0)
    needed = prefix - spared(config, shared)
    forked = needed + (whole - prefix) * args.questions
    device = jax.devices()[0]
    peak, source = peak_flops(device, args.dtype)
    a = jax.random.normal(jax.random.key(0), (args.square, args.square), jnp.dtype(args.dtype))
    product = jax.jit(lambda a: a @ a)
    product(a).block_until_ready()
    rate = 2 * args.square**3 / min(timed(lambda: product(a).block_until_ready()) for _ in range(10))
    print(
        f"{device.device_kind}, jax {jax.__version__}, {args.preset}, {args.dtype}, "
        f"{time.strftime('%Y-%m-%d')}: {args.frames} frames of {height}x{width}, {lengths[0]} tokens a "
        f"conversation, {shared} of them shared by {args.questions} questions"
    )
    minute = 60 * args.questions / taken
    print(
        f"ours: {taken:.3f} s a video ({args.videos} in turn), {minute:.1f} questions a minute; "
        f"{latency:.3f} s from frames to answers; "
        f"{alone:.2f} s with each question by itself, {alone / latency:.2f} times as long"
    )
    print(
        f"{forked / 1e12:.1f} TFLOP a video, {args.questions * whole / 1e12:.1f} if none were shared; "
        f"{taken * peak / forked:.2f} times the floor of {forked / peak:.3f} s ({source}: "
        f"{peak / 1e12:.4g} TFLOP/s), {taken * rate / forked:.2f} times that of {forked / rate:.3f} s "
        f"at the rate of products of {args.square}x{args.square} ({rate / 1e12:.4g} TFLOP/s)"
    )
    vision = flops(config, pairs, rows * cols, 1, 0) - flops(config, 0, rows * cols, 1, 0)
    questions = (whole - prefix) * args.questions
    parts(args, chooser, watched, texts, rate, vision, needed - vision, questions)
    counts = {
        p.__name__: p._cache_size() for p in (choice.encode, choice.begin, choice.see, choice.ask)
    }
    print(f"programs compiled: {counts}; the first video took {compiled:.0f} s", flush=True)


def timed(act):
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
