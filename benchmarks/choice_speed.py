"""Measure how fast multiple-choice questions are answered, beside the lower bound of the arithmetic.

    python benchmarks/choice_speed.py --preset 7b               # Video-MME's longest: 480 frames
    python benchmarks/choice_speed.py --preset 7b --peer        # and transformers, after it
    python benchmarks/choice_speed.py --preset tiny --frames 32 # on any machine

Weights are random and patches are noise: neither changes the work. A video has three questions, as in
Video-MME. The floor is the time of one prefill and of the questions' own tokens at the device's peak
rate; for comparison, every question is also timed with a video of its own. What no answer needs is not
in the floor: in the last layer, the queries, output and MLP of the prefix, because only its keys and
values are used. Then each part is timed by itself, with its own floor: the vision tower and the prefill
by their arithmetic, the questions by their arithmetic or by reading weights and cache once, whichever
takes longer. Decoding of files is not included: in `livecc evaluate` it runs in threads while the
device works. The peer is transformers in bfloat16 with sdpa attention: one forward pass for each
question, with the logits of the last token only.
"""

import argparse
import os
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from random_weights import random_params

from livecc_jax.evaluate.benchmarks.questions import PromptTemplate
from livecc_jax.evaluate.run import choice_steps
from livecc_jax.evaluate.run.buckets import ShapeBuckets, vision_calls, window_bucket
from livecc_jax.evaluate.run.choice import ChoiceScorer, VideoQuestions
from livecc_jax.evaluate.run.prompt_encoder import common_prefix_length
from livecc_jax.evaluate.run.sampled_video import SampledVideo
from livecc_jax.media.budget import PixelBudget
from livecc_jax.model.flops import forward_flops
from livecc_jax.model.presets import preset
from livecc_jax.parallel.peak_rates import peak_flops
from livecc_jax.text.tokenizer import SpecialTokens

SPECIAL = SpecialTokens(151643, 151644, 151645, 151652, 151653, 151655, 151656)


class FourLetterTokenizer:
    """A token for every four letters, about as many as with a real vocabulary."""

    vocab_size, special, silence_id = 151_665, SPECIAL, 2503

    def encode(self, text):
        chunks = [text[i : i + 4] for i in range(0, len(text), 4)]
        return [sum(map(ord, chunk)) % 150_000 for chunk in chunks]


def count_flops(config, pairs, patches, tokens, heads):
    """FLOPs of a forward pass over `pairs` windows of `patches`, and `tokens` of one segment."""
    row = {
        "patch_pairs": np.ones((1, pairs, patches), np.int32),
        "segment_ids": np.ones((1, tokens), np.int32),
        "target_weights": np.ones((1, heads), np.float32),
    }
    return sum(forward_flops(config, row).values())


def unneeded_flops(config, tokens):
    """FLOPs of the last layer over a prefix that its keys and values do not need."""
    t = config.text
    heads = t.heads * t.head_dim
    per_token = 2 * (2 * t.width * heads + 3 * t.width * t.mlp)
    return tokens * per_token + 4 * heads * (tokens**2 + tokens) / 2


def measure_parts(args, scorer, video, texts, rate, vision_flops, prefix_flops, question_flops):
    """Print the times of the vision tower, the prefill and the questions, each with its floor."""
    model = scorer.model
    prompts = [scorer.encode_prompt(video.grid, t) for t in texts]
    prefix_lengths = np.array([common_prefix_length([p.tokens for p in prompts])], np.int32)
    vision_embeds = jax.block_until_ready(model.encode_videos([video]))
    cache = jax.block_until_ready(model.prefill_prefixes(prompts[:1], prefix_lengths, vision_embeds))
    buffer = jnp.ones(1 << 28, jnp.dtype(args.dtype))
    read = jax.jit(jnp.max)
    read(buffer).block_until_ready()
    bandwidth = buffer.nbytes / min(timed(lambda: read(buffer).block_until_ready()) for _ in range(5))
    size = sum(x.nbytes for x in jax.tree.leaves((model.weights.layers, cache)))
    parts = {
        "vision": (
            lambda: jax.block_until_ready(model.encode_videos([video])),
            vision_flops / rate,
        ),
        "prefill": (
            lambda: jax.block_until_ready(
                model.prefill_prefixes(prompts[:1], prefix_lengths, vision_embeds)
            ),
            prefix_flops / rate,
        ),
        "questions": (
            lambda: jax.block_until_ready(model.score_questions([prompts], prefix_lengths, cache)),
            max(question_flops / rate, size / bandwidth),
        ),
    }
    for name, (run, floor) in parts.items():
        median = float(np.median([timed(run) for _ in range(args.videos)]))
        times = f"{1e3 * median:.1f} ms, floor {1e3 * floor:.1f} ms, {median / floor:.2f} times"
        print(f"  {name}: {times}", flush=True)
        if args.profile:
            from streaming import where_time_goes

            where_time_goes(name, run, args.profile)
    pair_patches = video.grid[1] * video.grid[2]
    bucket = window_bucket(pair_patches)
    calls = vision_calls(video.grid[0], max(1, model.buckets.vision_patches // bucket))
    padded = sum(n for _, n in calls) * bucket / (len(video.patches) * pair_patches)
    print(
        f"  padding: {100 * (padded - 1):.1f}% of patches, in {len(calls)} calls; "
        f"{int(prefix_lengths[0])} tokens in a cache of {cache[0][0].shape[1]}",
        flush=True,
    )


def measure_peer(args, config, video, texts):
    """Print the time that transformers takes for a video."""
    import torch
    import transformers

    from livecc_jax.checkpoints.hf_config import LiveCCBlock, to_config_json
    from livecc_jax.timeline.chat import ChatTemplate, Visual

    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = transformers.Qwen2VLConfig(**to_config_json(config, LiveCCBlock(), args.dtype, "nested"))
    torch.set_default_dtype(getattr(torch, args.dtype))
    with torch.device(device):
        model = transformers.Qwen2VLForConditionalGeneration._from_config(
            sizes, attn_implementation="sdpa"
        ).eval()
    patches = torch.from_numpy(video.patches.reshape(-1, 1176)).to(device)
    patches = patches.to(torch.get_default_dtype()) / 255
    grid = torch.tensor([video.grid], device=device)
    template = ChatTemplate(FourLetterTokenizer())

    @torch.inference_mode()
    def answer():
        for text in texts:
            ids = template.opening((Visual("video", video.grid), text)).tokens
            ids = torch.tensor(ids, dtype=torch.long, device=device)[None]
            model(
                input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values_videos=patches,
                mm_token_type_ids=(ids == SPECIAL.video_pad).int() * 2, video_grid_thw=grid,
                logits_to_keep=1, use_cache=False,
            ).logits.argmax().item()  # fmt: skip

    answer()
    times = []
    for _ in range(max(1, args.videos // 2)):
        began = time.perf_counter()
        answer()
        times.append(time.perf_counter() - began)
    seconds = float(np.median(times))
    print(
        f"peer: torch {torch.__version__}, transformers {transformers.__version__}: {seconds:.2f} s a "
        f"video of {len(texts)} questions, {60 * len(texts) / seconds:.1f} a minute", flush=True,
    )  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="7b")
    parser.add_argument("--frames", type=int, default=480)
    parser.add_argument("--height", type=int, default=720)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--questions", type=int, default=3)
    parser.add_argument(
        "--videos", type=int, default=5, help="videos that are timed, after one that compiles"
    )
    parser.add_argument(
        "--whole",
        type=int,
        default=ShapeBuckets().max_first_chunk,
        help="maximum tokens of the first chunk of the prefill, where attention is fused",
    )
    parser.add_argument(
        "--square", type=int, default=8192, help="size of the matrix product that is timed"
    )
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument(
        "--peer", action="store_true", help="also measure transformers, in the same run"
    )
    parser.add_argument(
        "--profile", type=int, default=0, metavar="N", help="print the N busiest kernels of each part"
    )
    parser.add_argument("--role", choices=("ours", "peer"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peer and not args.role:
        for role in ("ours", "peer"):  # in processes of their own, which free all memory at their end
            subprocess.run([sys.executable, *sys.argv, "--role", role], check=True, env=os.environ)
        return
    config = preset(args.preset)
    height, width = PixelBudget.parse("reference").size(args.height, args.width, args.frames)
    rows, cols = height // 14, width // 14
    pairs = args.frames // 2
    noise = np.random.default_rng(0).integers(0, 256, (pairs, rows * cols, 1176), np.uint8)
    video = SampledVideo(noise, (pairs, rows, cols))
    texts = [f"Question {i}? " + "A choice of words. " * 20 for i in range(args.questions)]
    options = [("A", "B", "C", "D")] * args.questions
    if args.role == "peer":
        return measure_peer(args, config, video, texts)
    params = random_params(config, jnp.dtype(args.dtype))
    buckets = ShapeBuckets(max_first_chunk=args.whole)
    scorer = ChoiceScorer(
        config, params, FourLetterTokenizer(), "sequential", PromptTemplate(), buckets
    )
    del params
    questions = VideoQuestions(video, texts, options)
    began = time.perf_counter()
    scorer.score(*questions)
    first_seconds = time.perf_counter() - began

    def score_in_sequence():
        """Videos one after another, each submitted before the one before is waited for."""
        previous = scorer.submit([questions])
        for _ in range(args.videos - 1):
            previous, wait = scorer.submit([questions]), previous
            wait()
        previous()

    seconds = timed(score_in_sequence) / args.videos
    latency = float(np.median([timed(lambda: scorer.score(*questions)) for _ in range(args.videos)]))

    def score_separately():
        for text, letters in zip(texts, options):
            scorer.score(video, [text], [letters])

    score_separately()  # compiles
    separate_seconds = timed(score_separately)
    prompts = [scorer.encode_prompt(video.grid, t) for t in texts]
    length = len(prompts[0].tokens)
    prefix_length = common_prefix_length([p.tokens for p in prompts])
    full_flops = count_flops(config, pairs, rows * cols, length, 1)
    prefix_flops = count_flops(config, pairs, rows * cols, prefix_length, 0)
    needed_flops = prefix_flops - unneeded_flops(config, prefix_length)
    question_flops = (full_flops - prefix_flops) * args.questions
    total_flops = needed_flops + question_flops
    device = jax.devices()[0]
    peak, source = peak_flops(device, args.dtype)
    a = jax.random.normal(jax.random.key(0), (args.square, args.square), jnp.dtype(args.dtype))
    product = jax.jit(lambda a: a @ a)
    product(a).block_until_ready()
    rate = 2 * args.square**3 / min(timed(lambda: product(a).block_until_ready()) for _ in range(10))
    print(
        f"{device.device_kind}, jax {jax.__version__}, {args.preset}, {args.dtype}, "
        f"{time.strftime('%Y-%m-%d')}: {args.frames} frames of {height}x{width}, {length} tokens a "
        f"conversation, {prefix_length} of them shared by {args.questions} questions"
    )
    print(
        f"ours: {seconds:.3f} s a video ({args.videos} in sequence), "
        f"{60 * args.questions / seconds:.1f} questions a minute; "
        f"{latency:.3f} s from frames to answers; "
        f"{separate_seconds:.2f} s with each question by itself, "
        f"{separate_seconds / latency:.2f} times as long"
    )
    print(
        f"{total_flops / 1e12:.1f} TFLOP a video, {args.questions * full_flops / 1e12:.1f} if nothing "
        f"was shared; {seconds * peak / total_flops:.2f} times the floor of {total_flops / peak:.3f} s "
        f"({source}: {peak / 1e12:.4g} TFLOP/s), {seconds * rate / total_flops:.2f} times that of "
        f"{total_flops / rate:.3f} s at the rate of products of {args.square}x{args.square} "
        f"({rate / 1e12:.4g} TFLOP/s)"
    )
    vision_flops = count_flops(config, pairs, rows * cols, 1, 0)
    vision_flops -= count_flops(config, 0, rows * cols, 1, 0)
    measure_parts(
        args, scorer, video, texts, rate, vision_flops, needed_flops - vision_flops, question_flops
    )
    programs = (
        choice_steps.encode_windows,
        choice_steps.prefill_first_chunk,
        choice_steps.prefill_next_chunk,
        choice_steps.question_logits,
    )
    counts = {p.__name__: p._cache_size() for p in programs}
    print(f"programs compiled: {counts}; the first video took {first_seconds:.0f} s", flush=True)


def timed(run):
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
