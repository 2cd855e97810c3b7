"""What 8-bit numbers do to a model's choices: in matrix products, in the KV cache, and in both.

    python benchmarks/precision.py MODEL --clip data/clips/bbb_espeak_narration_30s.mp4
    python benchmarks/precision.py --preset 7b              # random weights of a real size
    python benchmarks/precision.py --preset 2b --pair-tokens 96 --turns 8 --dtype float32 --bfloat16

It teacher-forces a conversation through the code that streams: each turn, prompt and answer together,
is prefilled over a paged cache that holds everything before it, and written there. So an `int8` cache
rounds what is older than the turn and nothing else, as in an engine; and `fp8` rounds the inputs of an
answer's tokens too, as in an engine (a session, which generates one token at a time, does not). Every
supervised token is a choice. A checkpoint sees the clip with its reference words, random weights see
random frames with made-up words. How errors grow then depends on how weights are drawn, so random
weights tell less than a trained model.

Differences are from the same weights in `--dtype`, relative to the standard deviation of its logits
(over the vocabulary, pooled over choices). `not a tie` are choices whose best token is another although
the baseline's was ahead by a tenth of that deviation. KL and the reference token's cost are nats a
choice. `--bfloat16` adds the weights in bfloat16, for comparison. The baseline's logits are also
compared with those of the whole conversation in the order of training, appended to a contiguous cache;
in float32 the script fails if they differ.
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

from livecc_jax.api.models import load_stream_model
from livecc_jax.checkpoints.open import open_checkpoint
from livecc_jax.data.annotations.records import AnnotationFile
from livecc_jax.decoding.compiled import GPU_COMPILER_OPTIONS, JitWithGpuOptions
from livecc_jax.decoding.decoder import logits
from livecc_jax.decoding.kv_cache import empty_cache
from livecc_jax.decoding.paged_cache import Context, empty_paged_cache, paged_prefill, paged_write
from livecc_jax.evaluate.metrics.commentary import Reference
from livecc_jax.evaluate.metrics.references import reference_from_example
from livecc_jax.evaluate.run.buckets import pad_last_axis
from livecc_jax.evaluate.run.choice_steps import embed_tokens
from livecc_jax.evaluate.run.teacher_forced import forward_chunk, reference_turns
from livecc_jax.families.qwen2_vl import IMAGE_FACTOR, PATCH
from livecc_jax.media import ingest
from livecc_jax.media.budget import PixelBudget
from livecc_jax.model.presets import preset
from livecc_jax.model.qwen2_vl import bind
from livecc_jax.stream.model import StreamModel
from livecc_jax.stream.prompt import Prompt, make_prompt, stack_prompts
from livecc_jax.text.open import open_tokenizer
from livecc_jax.timeline.chat import ChatTemplate, stream_conversation
from livecc_jax.timeline.example import StreamExample
from livecc_jax.timeline.positions import token_positions
from livecc_jax.timeline.turns import OPENING_FRAMES, TURN_FRAMES, Turn, stream_prompt

ROOT = Path(__file__).parents[1]
WORDS = "A big rabbit comes out of his burrow and looks around the green meadow in the morning"
CHUNK = 512  # tokens of the whole conversation that are prefilled at a time
TIE = 0.1  # standard deviations: two best tokens that are closer are nearly a tie
TITLES = "difference", "same best", "not a tie", "KL", "nats", "nats now"
FORMATS = "{:.2%}", "{:.2%}", "{:.2e}", "{:.4f}", "{:.4f}"
MAX_DIFFERENCE = 1e-3  # standard deviations, between two ways to the baseline in float32


class Conversation(NamedTuple):
    frames: np.ndarray  # uint8 [F, H, W, 3]
    turns: list[Turn]
    prompt: str
    positions: str

    def turn_frames(self):
        return [self.frames[t.first_frame : t.first_frame + t.num_frames] for t in self.turns]


class ForcedTurn(NamedTuple):
    tokens: Prompt  # the tokens of the turn's prompt and of its answer
    first: int  # the prompt's last token, which the first target follows
    targets: list[int]  # the answer and its end


def conversation_of_clip(checkpoint, args):
    """The clip as `livecc stream` sees it, with the words of its annotation."""
    file, name = AnnotationFile(args.annotation), Path(args.clip).name
    examples = [e for e in map(file.__getitem__, range(len(file))) if isinstance(e, StreamExample)]
    example = next((e for e in examples if Path(e.clip.path).name == name), None)
    if example is None:
        raise SystemExit(f"{args.annotation} has no words of {name}")
    span = [None if t is None else t / 1e6 for t in (example.clip.start_us, example.clip.end_us)]
    budget = PixelBudget.parse(checkpoint.livecc.pixel_budget)
    source_turns = itertools.islice(ingest.read_turns(args.clip, budget, *span), args.turns)
    frames = np.concatenate([turn.frames for turn in source_turns])
    turns, _ = reference_turns(reference_from_example(example), len(frames))
    prompt = stream_prompt(example.query, example.title, example.previous)
    return Conversation(frames, turns, prompt, checkpoint.livecc.positions)


def random_conversation(args):
    """Random frames, two thirds as high as wide, of --pair-tokens a pair, and --words a turn."""
    height = max(1, round((args.pair_tokens / 1.5) ** 0.5))
    size = height * IMAGE_FACTOR, round(args.pair_tokens / height) * IMAGE_FACTOR
    count = OPENING_FRAMES + TURN_FRAMES * (args.turns - 1)
    frames = np.random.default_rng(0).integers(0, 256, (count, *size, 3), np.uint8)
    silent_turns, _ = reference_turns(Reference("", 0, 0, ()), count)
    words = itertools.cycle(WORDS.split())
    turns = [turn._replace(text=" ".join(itertools.islice(words, args.words))) for turn in silent_turns]
    return Conversation(frames, turns, "Comment on the video.", "mrope")


def force_turns(template, conversation):
    """The conversation turn by turn, with the prompts that sessions build."""
    forced, start = [], 0
    for number, (turn, frames) in enumerate(zip(conversation.turns, conversation.turn_frames())):
        span = turn.start_us, turn.stop_us
        prompt = make_prompt(
            template, frames, span, conversation.prompt, first=number == 0,
            positions=conversation.positions, start=start,
        )  # fmt: skip
        answer = template.tokenizer.encode(turn.answer)
        answer_start, start = prompt.next_position, prompt.next_position + len(answer)
        tokens = np.concatenate([prompt.tokens, np.array(answer, np.int32)])
        answer_positions = np.tile(np.arange(answer_start, start), (3, 1))
        positions = np.concatenate([prompt.positions, answer_positions], axis=1)
        vision_index = np.pad(prompt.vision_index, (0, len(answer)), constant_values=-1)
        targets = [*answer, template.tokenizer.special.im_end]
        tokens = Prompt(tokens, positions, start, vision_index)
        forced.append(ForcedTurn(tokens, len(prompt.tokens) - 1, targets))
    return forced


@functools.partial(
    JitWithGpuOptions,
    gpu_options=GPU_COMPILER_OPTIONS,
    static_argnames="config",
    donate_argnames="cache",
)
def turn_logits(config, weights, cache, context, turn, chosen, slots):
    """Prefills and writes a turn: (logits [1, S, V] of its tokens `chosen` int32 [1, S], the cache)."""
    model = bind(config, weights.other)
    x = model.embed(turn.tokens, turn.vision_features, turn.vision_index)
    hidden, _, new_kv = paged_prefill(model, weights.layers, cache, context, x, turn.positions, 0)
    hidden = jnp.take_along_axis(hidden, chosen[..., None], axis=1)
    return logits(model, weights, hidden), paged_write(cache, new_kv, slots)


def streamed_logits(model, forced, vision_features, cache_precision):
    """Logits float32 [N, V] of every choice, over a paged cache of that precision."""
    tokens = np.concatenate([turn.tokens.tokens for turn in forced])
    positions = np.concatenate([turn.tokens.positions for turn in forced], axis=1)
    num_slots = -(-len(tokens) // 128) * 128
    max_targets = max(len(turn.targets) for turn in forced)
    cache = empty_paged_cache(model.config, num_slots, model.dtype, precision=cache_precision)
    all_tokens = (
        np.arange(num_slots)[None],
        pad_last_axis(tokens, num_slots, 0),
        pad_last_axis(positions, num_slots, 0),
    )
    logits_by_turn, length, vision_features = [], 0, iter(vision_features)
    # The opening turn and the others are compiled separately, as their prompts differ in length.
    for group in filter(None, (forced[:1], forced[1:])):
        batch = stack_prompts([turn.tokens for turn in group])
        token_index = np.arange(batch.tokens.shape[1])
        for i, turn in enumerate(group):
            prompt = jax.tree.map(lambda x, i=i: x[i : i + 1], batch)
            prompt = prompt._replace(vision_features=next(vision_features))
            chosen = np.minimum(turn.first + np.arange(max_targets), len(token_index) - 1)[None]
            slots = np.where(token_index < prompt.count, length, num_slots) + token_index
            context = Context(*all_tokens, np.array([length]))
            context, chosen, slots = jax.tree.map(np.int32, (context, chosen, slots[None]))
            weights = model.weights.for_text()
            scores, cache = turn_logits(model.config, weights, cache, context, prompt, chosen, slots)
            logits_by_turn.append(np.asarray(scores)[0, : len(turn.targets)])
            length += int(prompt.count[0])
    return np.concatenate(logits_by_turn)


def logits_at_once(model, conversation):
    """(logits [N, V], targets [N]) of the whole conversation, computed as perplexity is."""
    rows_cols = [side // PATCH for side in conversation.frames.shape[1:3]]
    chat = stream_conversation(conversation.turns, rows_cols, conversation.prompt)
    encoded = model.template.conversation(chat)
    tokens, special = encoded.tokens, model.tokenizer.special
    positions, _ = token_positions(tokens, encoded.grids, special, conversation.positions)
    targets = np.flatnonzero(encoded.supervised)
    vision_features = [
        model.encode_frames((conversation.frames[i : i + OPENING_FRAMES],))
        for i in range(0, len(conversation.frames), OPENING_FRAMES)
    ]
    vision_features = jnp.concatenate(vision_features, axis=1)
    is_vision = tokens == special.video_pad
    vision_index = np.where(is_vision, np.cumsum(is_vision) - 1, -1)
    config, weights, target_hidden = model.config, model.weights, []
    capacity = -(-len(tokens) // CHUNK) * CHUNK
    cache = empty_cache(config, 1, capacity, model.dtype)
    arrays = [
        pad_last_axis(x, capacity, fill)
        for x, fill in ((tokens, 0), (vision_index, -1), (positions, 0))
    ]
    for first in range(0, capacity, CHUNK):
        chunk_ids, chunk_index, chunk_positions = (x[..., first : first + CHUNK] for x in arrays)
        x = embed_tokens(config, weights, chunk_ids, chunk_index, vision_features)
        length = np.array([first], np.int32)
        hidden, cache = forward_chunk(config, weights, cache, length, x, chunk_positions)
        in_chunk = targets[(targets > first) & (targets <= first + CHUNK)] - 1 - first
        target_hidden.append(hidden[0, in_chunk])
    scores = logits(bind(config, weights.other), weights, jnp.concatenate(target_hidden))
    return np.asarray(scores), tokens[targets]


def report(name, baseline, other, targets, deviation):
    """Prints one line of the table: the logits of a variant against the baseline's."""
    measures = []
    for target, *pair in zip(targets, baseline, other):
        a, b = (x.astype(np.float64) for x in pair)
        p, q = (x - np.logaddexp.reduce(x) for x in (a, b))
        second, best = np.partition(a, -2)[-2:]
        changed, clear = a.argmax() != b.argmax(), best - second > TIE * deviation
        measures.append((np.mean((a - b) ** 2), not changed, changed and clear, np.exp(p) @ (p - q),
                         -p[target], -q[target]))  # fmt: skip
    squared, *means = np.mean(measures, axis=0)
    cells = f"{squared**0.5 / deviation:.3%}", *map(str.format, FORMATS, means)
    print(f"{name:11}", *(f"{cell:>10}" for cell in cells), flush=True)


def check_baseline(baseline, targets, model, conversation):
    """Compares the baseline with the conversation at once; returns its logits' standard deviation."""
    deviation = float(np.sqrt(baseline.var(axis=1).mean()))
    second, best = np.partition(baseline, -2)[:, -2:].T
    ties = np.mean(best - second < TIE * deviation)
    scores, targets_at_once = logits_at_once(model, conversation)
    if not np.array_equal(targets_at_once, targets):
        raise SystemExit("a stream's choices are not those of training")
    difference = np.abs(scores - baseline).max() / deviation
    distinct = len(set(baseline.argmax(axis=1)))
    facts = f"logits' std {deviation:.3f}, {distinct} tokens are best, {ties:.1%}"
    print(f"baseline: {facts} nearly ties; at once: {difference:.1e} of std away at most", flush=True)
    too_far = model.dtype == jnp.float32 and difference > MAX_DIFFERENCE
    if not np.isfinite(difference) or too_far:
        raise SystemExit("the baseline is not what the model computes")
    return deviation


def initial_weight(path, x, depth):
    """A random weight scaled as at the start of training.

    Norms and embeddings have size 1, biases are zeros, and outputs of a layer shrink with the depth.
    """
    *_, parent, name = [key.key for key in path]
    if is_norm(name):
        return jnp.ones_like(x)
    if name == "embed":
        return x / 0.02
    is_layer_output = parent in ("o", "down") or (parent in ("proj", "fc2") and x.ndim > 2)
    if name == "bias":
        return jnp.zeros_like(x)
    return x * (2 * depth) ** -0.5 if is_layer_output else x


def model_of_preset(name, tokenizer, precision, dtype):
    """Random weights, which are bfloat16 numbers in any dtype, the same each time."""
    config = preset(name)
    # With a tied head they would repeat the last token, whatever else there is.
    config = dataclasses.replace(config, text=dataclasses.replace(config.text, tied=False))
    scale = functools.partial(initial_weight, depth=config.text.layers)
    params = jax.tree_util.tree_map_with_path(scale, random_params(config))
    model = StreamModel(config, params, tokenizer, precision)
    del params
    # Cast after preparation, which does not round: there are never two copies in float32.
    cast = functools.partial(jax.tree.map, lambda x: x.astype(dtype) if x.dtype == jnp.bfloat16 else x)
    model.weights = cast(model.weights)
    model.dtype = jnp.dtype(dtype)
    return model


def model_of_checkpoint(checkpoint, precision, dtype):
    return load_stream_model(checkpoint, dtype, precision, mesh=None)


def run(conversation, tokenizer, load_model, variants):
    """Compares every variant with the first, one set of weights after another.

    `variants` are (precision, dtype, {name: precision of the cache}).
    """
    forced = force_turns(ChatTemplate(tokenizer), conversation)
    baseline, deviation = None, 1.0
    targets = np.concatenate([turn.targets for turn in forced])
    tokens = sum(len(turn.tokens.tokens) for turn in forced)
    size = "x".join(map(str, conversation.frames.shape[1:3]))
    facts = f"{len(targets)} choices in {len(forced)} turns of {size}", f"{tokens} tokens"
    print(*facts, conversation.positions, sep=", ", flush=True)
    for precision, dtype, caches in variants:
        model = vision_features = None  # the device has room for one model
        model = load_model(precision, dtype)
        # A GPU would multiply float32 in TF32. Products in 8-bit numbers do not depend on the setting.
        exact = precision == "weights" and dtype == "float32"
        with jax.default_matmul_precision("highest" if exact else None):
            vision_features = [model.encode_frames((x,)) for x in conversation.turn_frames()]
            for name, cache_precision in caches.items():
                scores = streamed_logits(model, forced, vision_features, cache_precision)
                if baseline is not None:
                    report(name, baseline, scores, targets, deviation)
                    continue
                baseline = scores
                deviation = check_baseline(baseline, targets, model, conversation)
                print(f"{'':11}", *(f"{title:>10}" for title in TITLES))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", help="checkpoint: HuggingFace directory, run, or step")
    parser.add_argument("--clip", default=str(ROOT / "data/clips/bbb_espeak_narration_30s.mp4"))
    parser.add_argument("--annotation", default=str(ROOT / "data/annotations/narration.jsonl"))
    parser.add_argument("--preset", help="random weights of this size, in place of a checkpoint")
    parser.add_argument(
        "--tokenizer", default=str(ROOT / "data/tokenizer"), help="tokenizer of a preset"
    )
    parser.add_argument(
        "--pair-tokens", type=int, default=384, help="tokens of a frame pair, with a preset"
    )
    parser.add_argument("--words", type=int, default=6, help="words a turn, with a preset")
    parser.add_argument("--turns", type=int, default=30, help="maximum number of turns")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="float32 on a CPU, else bfloat16"
    )
    parser.add_argument("--bfloat16", action="store_true", help="compare float32 with bfloat16 too")
    args = parser.parse_args()
    if bool(args.model) == bool(args.preset):
        parser.error("give a checkpoint or --preset")
    device = jax.devices()[0]
    dtype = args.dtype or ("float32" if device.platform == "cpu" else "bfloat16")
    if args.bfloat16 and dtype != "float32":
        parser.error("--bfloat16 needs --dtype float32")
    facts = device.device_kind, f"jax {jax.__version__}", args.preset or Path(args.model).name, dtype
    print(*facts, time.strftime("%Y-%m-%d"), sep=", ", flush=True)
    if args.preset:
        conversation, tokenizer = random_conversation(args), open_tokenizer(args.tokenizer)
        load_model = functools.partial(model_of_preset, args.preset, tokenizer)
    else:
        checkpoint = open_checkpoint(args.model)
        conversation, tokenizer = conversation_of_clip(checkpoint, args), checkpoint.open_tokenizer()
        load_model = functools.partial(model_of_checkpoint, checkpoint)
    variants = [("weights", dtype, {"baseline": "weights", "int8 cache": "int8"})]
    variants += [("fp8", dtype, {"fp8": "weights", "both": "int8"})]
    variants += [("weights", "bfloat16", {"bfloat16": "weights"})] * args.bfloat16
    run(conversation, tokenizer, load_model, variants)


if __name__ == "__main__":
    main()
