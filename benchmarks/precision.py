"""What eight bits do to a model's choices: in matrix products, in the cache, and in both.

    python benchmarks/precision.py MODEL --clip data/clips/bbb_espeak_narration_30s.mp4
    python benchmarks/precision.py --preset 7b              # random weights of a real size
    python benchmarks/precision.py --preset 2b --pair-tokens 96 --turns 8 --dtype float32 --bfloat16

Teacher forcing through the code that streams: each turn, its prompt and its answer together, is read
over a pool that holds everything before it, and kept there. So an `int8` pool rounds what is older than
the turn and nothing else, as in an engine; and `fp8` rounds the inputs of an answer's tokens too, as in
an engine (a session, which says one token at a time, does not). Every supervised token is a choice. A
checkpoint is shown the clip with its reference words, random weights random frames with made-up words:
how errors grow then depends on how weights are drawn, so they say less than a trained model.

Differences are from the same weights in `--dtype`, over the standard deviation of its logits (over the
vocabulary, pooled over choices); `not a tie` are choices whose best token is another although the
baseline's was ahead by a tenth of that; KL and the reference token's cost are nats a choice.
`--bfloat16` adds the weights in bfloat16, a floor for interest. The baseline's logits are compared with
those of the whole conversation as training lays it out, appended to a full cache; in float32 the script
fails if they differ.
"""

import argparse
import dataclasses
import functools
import itertools
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from random_weights import is_norm, random_params

from livecc_jax.checkpoints.open import open_checkpoint
from livecc_jax.commands.options import load_stream_model
from livecc_jax.data.annotations.records import AnnotationFile
from livecc_jax.decoding.compiled import ON_GPU, Compiled
from livecc_jax.decoding.kv_cache import empty_cache
from livecc_jax.decoding.network import logits
from livecc_jax.decoding.paged_cache import Context, empty_pool, keep, read_turn
from livecc_jax.evaluate.metrics.commentary import Reference
from livecc_jax.evaluate.metrics.timed import reference_of
from livecc_jax.evaluate.run.choice import padded
from livecc_jax.evaluate.run.choice_step import embed
from livecc_jax.evaluate.run.teacher_forced import forward, reference_turns
from livecc_jax.media import ingest
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.pixels import FACTOR, PATCH
from livecc_jax.model.presets import preset
from livecc_jax.model.qwen2_vl import bind
from livecc_jax.stream.prompt import Prompt, make_prompt, stack_prompts
from livecc_jax.stream.session import StreamModel
from livecc_jax.text.open import open_tokenizer
from livecc_jax.timeline.chat import ChatTemplate, stream_conversation
from livecc_jax.timeline.example import StreamExample
from livecc_jax.timeline.positions import token_positions
from livecc_jax.timeline.turns import OPENING_FRAMES, TURN_FRAMES, Turn, stream_prompt, turn_label

ROOT = Path(__file__).parents[1]
WORDS = "A big rabbit comes out of his burrow and looks around the green meadow in the morning"
CHUNK = 512  # tokens at a time, of the whole conversation
NEAR = 0.1  # of the standard deviation: less between the two best tokens is nearly a tie
TITLES = "difference", "same best", "not a tie", "KL", "nats", "nats now"
FORMATS = "{:.2%}", "{:.2%}", "{:.2e}", "{:.4f}", "{:.4f}"
ALLOWED = 1e-3  # of the standard deviation, between two ways to the baseline in float32


class Talk(NamedTuple):
    frames: np.ndarray  # uint8 [F, H, W, 3]
    turns: list[Turn]
    prompt: str
    positions: str

    def shown(self):
        return [self.frames[t.first_frame : t.first_frame + t.num_frames] for t in self.turns]


class Said(NamedTuple):
    tokens: Prompt  # of a turn's prompt and its answer
    first: int  # the prompt's last token, which the first target follows
    targets: list[int]  # the answer and its end


def of_clip(checkpoint, args):
    """The clip as `livecc stream` shows it, with the words that its annotation has."""
    file, name = AnnotationFile(args.annotation), Path(args.clip).name
    examples = [e for e in map(file.__getitem__, range(len(file))) if isinstance(e, StreamExample)]
    example = next((e for e in examples if Path(e.clip.path).name == name), None)
    if example is None:
        raise SystemExit(f"{args.annotation} has no words of {name}")
    span = [None if t is None else t / 1e6 for t in (example.clip.start_us, example.clip.end_us)]
    budget = PixelBudget.parse(checkpoint.livecc.pixel_budget)
    shown = itertools.islice(ingest.turns(args.clip, budget, *span), args.turns)
    frames = np.concatenate([turn.frames for turn in shown])
    turns, _ = reference_turns(reference_of(example), len(frames))
    prompt = stream_prompt(example.query, example.title, example.previous)
    return Talk(frames, turns, prompt, checkpoint.livecc.positions)


def made_up(args):
    """Random frames of so many tokens a pair, two thirds as high as wide, and so many words a turn."""
    rows = max(1, round((args.pair_tokens / 1.5) ** 0.5))
    size = rows * FACTOR, round(args.pair_tokens / rows) * FACTOR
    count = OPENING_FRAMES + TURN_FRAMES * (args.turns - 1)
    frames = np.random.default_rng(0).integers(0, 256, (count, *size, 3), np.uint8)
    silent, _ = reference_turns(Reference("", 0, 0, ()), count)
    words = itertools.cycle(WORDS.split())
    turns = [turn._replace(text=" ".join(itertools.islice(words, args.words))) for turn in silent]
    return Talk(frames, turns, "Comment on the video.", "mrope")


def as_streamed(template, talk):
    """The talk turn by turn, as sessions make prompts and keep answers."""
    said, start = [], 0
    for number, (turn, shown) in enumerate(zip(talk.turns, talk.shown())):
        label = turn_label(turn.start_us, turn.stop_us)
        prompt = make_prompt(
            template, shown, label, talk.prompt, first=number == 0, positions=talk.positions,
            start=start,
        )  # fmt: skip
        answer = template.tokenizer.encode(turn.answer)
        at, start = prompt.next_position, prompt.next_position + len(answer)
        tokens = np.concatenate([prompt.tokens, np.array(answer, np.int32)])
        places = np.concatenate([prompt.positions, np.tile(np.arange(at, start), (3, 1))], axis=1)
        index = np.pad(prompt.vision_index, (0, len(answer)), constant_values=-1)
        targets = [*answer, template.tokenizer.special.im_end]
        said.append(Said(Prompt(tokens, places, start, index), len(prompt.tokens) - 1, targets))
    return said


@functools.partial(Compiled, gpu=ON_GPU, static_argnames="config", donate_argnames="pool")
def take(config, weights, pool, context, turn, slots, places):
    """A turn read and kept: (logits [1, S, V] after its slots int32 [1, S], the pool)."""
    model = bind(config, weights.rest)
    x = model.embed(turn.tokens, turn.pictures, turn.vision_index)
    hidden, _, new = read_turn(model, weights.layers, pool, context, x, turn.positions, 0)
    chosen = jnp.take_along_axis(hidden, slots[..., None], axis=1)
    return logits(model, weights, chosen), keep(pool, new, places)


def streamed(model, said, pictures, cache):
    """Logits float32 [N, V] of every choice, through a pool of that precision."""
    tokens = np.concatenate([turn.tokens.tokens for turn in said])
    positions = np.concatenate([turn.tokens.positions for turn in said], axis=1)
    room = -(-len(tokens) // 128) * 128
    most = max(len(turn.targets) for turn in said)
    pool = empty_pool(model.config, room, model.dtype, precision=cache)
    everything = np.arange(room)[None], padded(tokens, room, 0), padded(positions, room, 0)
    found, length, pictures = [], 0, iter(pictures)
    for group in filter(None, (said[:1], said[1:])):  # a program for each
        rows = stack_prompts([turn.tokens for turn in group])
        place = np.arange(rows.tokens.shape[1])
        for i, turn in enumerate(group):
            row = jax.tree.map(lambda x, i=i: x[i : i + 1], rows)._replace(pictures=next(pictures))
            slots = np.minimum(turn.first + np.arange(most), len(place) - 1)[None]
            places = np.where(place < row.count, length, room) + place
            context = Context(*everything, np.array([length]))
            context, slots, places = jax.tree.map(np.int32, (context, slots, places[None]))
            weights = model.weights.for_saying()
            scores, pool = take(model.config, weights, pool, context, row, slots, places)
            found.append(np.asarray(scores)[0, : len(turn.targets)])
            length += int(row.count[0])
    return np.concatenate(found)


def at_once(model, talk):
    """(logits [N, V], targets [N]) of the whole conversation, by what perplexity is computed with."""
    rows_cols = [side // PATCH for side in talk.frames.shape[1:3]]
    encoded = model.template.conversation(stream_conversation(talk.turns, rows_cols, talk.prompt))
    tokens, special = encoded.tokens, model.tokenizer.special
    positions, _ = token_positions(tokens, encoded.grids, special, talk.positions)
    targets = np.flatnonzero(encoded.supervised)
    firsts = range(0, len(talk.frames), OPENING_FRAMES)
    seen = [model.look((talk.frames[i : i + OPENING_FRAMES],)) for i in firsts]
    seen, vision = jnp.concatenate(seen, axis=1), tokens == special.video_pad
    index = np.where(vision, np.cumsum(vision) - 1, -1)
    config, weights, chosen = model.config, model.weights, []
    room = -(-len(tokens) // CHUNK) * CHUNK
    cache = empty_cache(config, 1, room, model.dtype)
    everything = [padded(x, room, fill) for x, fill in ((tokens, 0), (index, -1), (positions, 0))]
    for first in range(0, room, CHUNK):
        ids, pictures, places = (x[..., first : first + CHUNK] for x in everything)
        x = embed(config, weights, ids, pictures, seen)
        hidden, cache = forward(config, weights, cache, np.array([first], np.int32), x, places)
        own = targets[(targets > first) & (targets <= first + CHUNK)] - 1 - first
        chosen.append(hidden[0, own])
    found = logits(bind(config, weights.rest), weights, jnp.concatenate(chosen))
    return np.asarray(found), tokens[targets]


def report(name, base, other, targets, deviation):
    rows = []
    for target, *pair in zip(targets, base, other):
        a, b = (x.astype(np.float64) for x in pair)
        p, q = (x - np.logaddexp.reduce(x) for x in (a, b))
        second, best = np.partition(a, -2)[-2:]
        changed, clear = a.argmax() != b.argmax(), best - second > NEAR * deviation
        rows.append((np.mean((a - b) ** 2), not changed, changed and clear, np.exp(p) @ (p - q),
                     -p[target], -q[target]))  # fmt: skip
    squared, *means = np.mean(rows, axis=0)
    means = f"{squared**0.5 / deviation:.3%}", *map(str.format, FORMATS, means)
    print(f"{name:11}", *(f"{x:>10}" for x in means), flush=True)


def check(base, targets, model, talk):
    """The baseline against the whole conversation at once: the standard deviation of its logits."""
    deviation = float(np.sqrt(base.var(axis=1).mean()))
    second, best = np.partition(base, -2)[:, -2:].T
    ties = np.mean(best - second < NEAR * deviation)
    found, own = at_once(model, talk)
    if not np.array_equal(own, targets):
        raise SystemExit("a stream's choices are not those of training")
    differs = np.abs(found - base).max() / deviation
    facts = f"logits' std {deviation:.3f}, {len(set(base.argmax(axis=1)))} tokens are best, {ties:.1%}"
    print(f"baseline: {facts} nearly ties; at once: {differs:.1e} of std away at most", flush=True)
    if not np.isfinite(differs) or (model.dtype == jnp.float32 and differs > ALLOWED):
        raise SystemExit("the baseline is not what the model computes")
    return deviation


def settled(path, x, depth):
    """A random weight as networks begin: norms and embeddings of one, no biases, outputs by depth."""
    *_, parent, name = [key.key for key in path]
    if is_norm(name):
        return jnp.ones_like(x)
    if name == "embed":
        return x / 0.02
    small = parent in ("o", "down") or (parent in ("proj", "fc2") and x.ndim > 2)
    return jnp.zeros_like(x) if name == "bias" else x * (2 * depth) ** -0.5 if small else x


def of_preset(name, tokenizer, precision, dtype):
    """Random weights, which are bf16 numbers in any dtype, the same each time."""
    config = preset(name)
    # With a tied head they would say the last token again, whatever else there is.
    config = dataclasses.replace(config, text=dataclasses.replace(config.text, tied=False))
    settle = functools.partial(settled, depth=config.text.layers)
    params = jax.tree_util.tree_map_with_path(settle, random_params(config))
    model = StreamModel(config, params, tokenizer, precision)
    del params
    # Cast once laid out, which does not round: there are never two copies in float32.
    cast = functools.partial(jax.tree.map, lambda x: x.astype(dtype) if x.dtype == jnp.bfloat16 else x)
    model.weights = cast(model.weights)
    model.dtype = jnp.dtype(dtype)
    return model


def of_checkpoint(checkpoint, precision, dtype):
    options = {"precision": precision, "dtype": dtype, "mesh": None, "compile_cache": "none"}
    return load_stream_model(argparse.Namespace(**options), checkpoint)


def run(talk, tokenizer, make, plan):
    """Every variant beside the first, one set of weights after the other."""
    said, base, deviation = as_streamed(ChatTemplate(tokenizer), talk), None, 1.0
    targets = np.concatenate([turn.targets for turn in said])
    tokens = sum(len(turn.tokens.tokens) for turn in said)
    size = "x".join(map(str, talk.frames.shape[1:3]))
    facts = f"{len(targets)} choices in {len(said)} turns of {size}", f"{tokens} tokens", talk.positions
    print(*facts, sep=", ", flush=True)
    for precision, dtype, caches in plan:
        model = pictures = None  # there is room for one
        model = make(precision, dtype)
        # A GPU's float32 products would be of TF32; those in eight bits have ways of their own.
        exact = precision == "weights" and dtype == "float32"
        with jax.default_matmul_precision("highest" if exact else None):
            pictures = [model.look((shown,)) for shown in talk.shown()]
            for name, cache in caches.items():
                found = streamed(model, said, pictures, cache)
                if base is not None:
                    report(name, base, found, targets, deviation)
                    continue
                base, deviation = found, check(found, targets, model, talk)
                print(f"{'':11}", *(f"{title:>10}" for title in TITLES))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", help="checkpoint: HuggingFace directory, run, or step")
    parser.add_argument("--clip", default=str(ROOT / "data/clips/bbb_espeak_narration_30s.mp4"))
    parser.add_argument("--annotation", default=str(ROOT / "data/annotations/narration.jsonl"))
    parser.add_argument("--preset", help="random weights of this size, in place of a checkpoint")
    parser.add_argument("--tokenizer", default=str(ROOT / "data/tokenizer"), help="of a preset")
    parser.add_argument("--pair-tokens", type=int, default=384, help="of a frame pair, with a preset")
    parser.add_argument("--words", type=int, default=6, help="a turn, with a preset")
    parser.add_argument("--turns", type=int, default=30, help="at most")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="float32 on a CPU, else bfloat16"
    )
    parser.add_argument("--bfloat16", action="store_true", help="beside float32, bfloat16 too")
    args = parser.parse_args()
    if bool(args.model) == bool(args.preset):
        parser.error("give a checkpoint or --preset")
    device = jax.devices()[0]
    dtype = args.dtype or ("float32" if device.platform == "cpu" else "bfloat16")
    if args.bfloat16 and dtype != "float32":
        parser.error("--bfloat16 is beside --dtype float32")
    facts = device.device_kind, f"jax {jax.__version__}", args.preset or Path(args.model).name, dtype
    print(*facts, time.strftime("%Y-%m-%d"), sep=", ", flush=True)
    if args.preset:
        talk, tokenizer = made_up(args), open_tokenizer(args.tokenizer)
        make = functools.partial(of_preset, args.preset, tokenizer)
    else:
        checkpoint = open_checkpoint(args.model)
        talk, tokenizer = of_clip(checkpoint, args), checkpoint.open_tokenizer()
        make = functools.partial(of_checkpoint, checkpoint)
    plan = [("weights", dtype, {"baseline": "weights", "int8 cache": "int8"})]
    plan += [("fp8", dtype, {"fp8": "weights", "both": "int8"})]
    plan += [("weights", "bfloat16", {"bfloat16": "weights"})] * args.bfloat16
    run(talk, tokenizer, make, plan)


if __name__ == "__main__":
    main()
