"""What a second of video takes in transformers, with the cache kept from turn to turn.

    python benchmarks/transformers_stream.py --preset 7b --streams 10 --turns 60
    python benchmarks/transformers_stream.py --preset tiny --size 56x84 --streams 1 --turns 4

Qwen2VLForConditionalGeneration at a real size, random weights, bfloat16, sdpa attention, batch 1: six
frames first, then two a turn (384 tokens a frame pair), six new tokens a turn, greedy, repetition
penalty 1.05 over the whole context. After the first turn positions increase by one, as in the released
demo. Two loops over the same ids:

- `generate`: one call of `model.generate` a turn, with all ids so far and the cache of the turn before;
- `forward`: the same by hand, with nothing between forward passes but the penalty, the choice of the
  token and reading it, which a loop that ends turns must do.

A turn is timed from uint8 frames on the host to token ids on the host. Frames are split into patches on
the device, in a few kernels: transformers' own processor is slower. The first stream is not counted.
The split covers further turns, with a wait for the device around each part. The last line is JSON, for
scripts. Only modules of this project that need neither jax nor grain are imported.
"""

import argparse
import collections
import contextlib
import json
import time

import numpy as np
import torch
import transformers
from transformers import DynamicCache, LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from livecc_jax.checkpoints.hf_config import LiveCCBlock, to_config_json
from livecc_jax.model.presets import preset
from livecc_jax.text.open import open_tokenizer
from livecc_jax.timeline.chat import ChatTemplate, Visual
from livecc_jax.timeline.turns import turn_label, turn_span

PENALTY = 1.05
QUERY = "Comment on the video."


def wait():
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def random_model(config, dtype, device):
    sizes = transformers.Qwen2VLConfig(**to_config_json(config, LiveCCBlock(), dtype, "nested"))
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    with torch.device(device):
        model = transformers.Qwen2VLForConditionalGeneration._from_config(
            sizes, attn_implementation="sdpa"
        )
    torch.set_default_dtype(before)
    model.generation_config = transformers.GenerationConfig(
        do_sample=False, eos_token_id=[151645, 151643], pad_token_id=151643
    )
    return model.eval()


def patches_of(frames, device, dtype):
    """Returns float [P, 1176] of uint8 [F, H, W, 3], in the order of the merger."""
    x = torch.from_numpy(frames).to(device)
    count, height, width, _ = x.shape
    x = x.view(count // 2, 2, height // 28, 2, 14, width // 28, 2, 14, 3)
    x = x.permute(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(-1, 3, 392)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073], device=device)[:, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711], device=device)[:, None]
    return ((x / 255 - mean) / std).to(dtype).reshape(-1, 1176)


class Stream:
    """One conversation: ids, cache, number of turns."""

    def __init__(self, model, template, new):
        self.model, self.template, self.new = model, template, new
        self.device, self.dtype = model.device, model.dtype
        self.ids = torch.zeros(1, 0, dtype=torch.long, device=self.device)
        self.cache = DynamicCache(config=model.config.get_text_config())
        self.turns = 0
        self.delta = 0  # a token's position minus its index

    def push(self, frames):
        """Takes a turn, from frames to ids, and returns its new ids."""
        count, height, width, _ = frames.shape
        grid = (count // 2, height // 14, width // 14)
        content = (turn_label(*turn_span(self.turns)), Visual("video", grid))
        if self.turns:
            prompt = self.template.continuation(content).tokens
        else:
            prompt = self.template.opening((*content, QUERY)).tokens
        prompt = torch.from_numpy(prompt.astype(np.int64))[None].to(self.device)
        self.ids = torch.cat([self.ids, prompt], dim=1)
        vision = {
            "pixel_values_videos": patches_of(frames, self.device, self.dtype),
            "video_grid_thw": torch.tensor([grid], device=self.device),
        }
        if self.turns:
            positions = torch.arange(self.ids.shape[1], device=self.device) + self.delta
            positions = positions.expand(3, 1, -1)
        else:
            kinds = (self.ids == self.model.config.video_token_id).int() * 2
            positions, delta = self.model.model.get_rope_index(
                self.ids, mm_token_type_ids=kinds, video_grid_thw=vision["video_grid_thw"]
            )
            self.delta = int(delta)
        self.decode(vision, positions)
        self.turns += 1
        return self.ids[0, -self.new :].tolist()


class Generate(Stream):
    """Decodes with `model.generate`."""

    @torch.inference_mode()
    def decode(self, vision, positions):
        out = self.model.generate(
            input_ids=self.ids,
            attention_mask=torch.ones_like(self.ids),
            position_ids=positions,
            **vision,
            past_key_values=self.cache,
            return_dict_in_generate=True,
            repetition_penalty=PENALTY,
            max_new_tokens=self.new,
            min_new_tokens=self.new,
        )
        self.cache, self.ids = out.past_key_values, out.sequences


class Forward(Stream):
    """Decodes with forward passes."""

    def __init__(self, *args):
        super().__init__(*args)
        # As in `generate`: a turn cannot end before all new tokens are generated.
        self.ends = torch.tensor(self.model.generation_config.eos_token_id, device=self.device)
        self.penalty = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(PENALTY)])

    @torch.inference_mode()
    def decode(self, vision, positions):
        cached = self.cache.get_seq_length()
        inputs, positions = self.ids[:, cached:], positions[..., cached:]
        for i in range(self.new):
            if i:
                positions = positions[..., -1:] + 1
            logits = self.model(
                input_ids=inputs,
                position_ids=positions,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
                **(vision if i == 0 else {}),
            ).logits[:, -1]
            scores = self.penalty(self.ids, logits.float())
            scores[:, self.ends] = -torch.inf
            inputs = scores.argmax(-1, keepdim=True)
            self.ids = torch.cat([self.ids, inputs], dim=1)
            inputs.item()


@contextlib.contextmanager
def time_parts(model, times):
    """Appends the seconds of each part to `times`, waiting for the device around each."""
    began = {}

    def before(module, args, kwargs):
        wait()
        began[module] = time.perf_counter()

    def after(module, args, kwargs, output):
        wait()
        seconds = time.perf_counter() - began[module]
        if module is model.model.visual:
            name = "vision"
        else:
            name = "prompt" if kwargs["input_ids"].shape[1] > 1 else "token"
        times[name].append(seconds)

    handles = []
    for module in (model, model.model.visual):
        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def timed(stream, frames):
    wait()
    began = time.perf_counter()
    ids = stream.push(frames)
    return time.perf_counter() - began, ids


def percentiles(times):
    p = 1e3 * np.percentile(times, [50, 99])
    return f"p50 {p[0]:7.1f} ms  p99 {p[1]:7.1f} ms  worst {1e3 * max(times):7.1f} ms"


def measure(kind, model, template, frames, args):
    """Returns (figures by name, the ids of each turn)."""
    times, turn_ids, stream = [], [], None
    for number in range(args.streams + 1):
        del stream  # its cache, before there is another
        stream = kind(model, template, args.new)
        for turn in range(args.turns):
            seconds, ids = timed(stream, frames[0 if turn == 0 else 1 + turn % 3])
            if number:
                times.append((turn, seconds))
                turn_ids.append(ids)
    parts = collections.defaultdict(list)
    with time_parts(model, parts):
        totals = [timed(stream, frames[1 + turn % 3])[0] for turn in range(args.split)]
    later = [seconds for turn, seconds in times if turn]
    name = kind.__name__.lower()
    print(
        f"{name}: {len(times)} turns, {stream.cache.get_seq_length()} tokens at the end; a second of "
        f"video: {percentiles(later)}"
    )
    for low, high in ((1, 20), (20, 40), (40, 60)):
        span = [seconds for turn, seconds in times if low <= turn < high]
        if span:
            print(f"    turns {low} to {high - 1}: {percentiles(span)}")
    print(f"    opening: {percentiles([seconds for turn, seconds in times if not turn])}")
    figures = {
        "median_ms": 1e3 * float(np.median(later)), "p99_ms": 1e3 * float(np.percentile(later, 99))
    }  # fmt: skip
    if parts:
        medians = {part: 1e3 * float(np.median(seconds)) for part, seconds in parts.items()}
        prefill = medians["prompt"] - medians["vision"]
        rest = 1e3 * float(np.median(totals)) - medians["prompt"] - medians["token"] * (args.new - 1)
        print(
            f"    last turns by part: vision {medians['vision']:.1f} ms, prefill {prefill:.1f} ms, a "
            f"token {medians['token']:.1f} ms ({args.new - 1} after the first), between them {rest:.1f}"
        )
        figures |= {
            "vision_ms": medians["vision"], "prefill_ms": prefill, "token_ms": medians["token"],
            "between_ms": rest,
        }  # fmt: skip
    return figures, turn_ids


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="7b")
    parser.add_argument("--tokenizer", default="data/tokenizer")
    parser.add_argument(
        "--streams", type=int, default=10, help="number of timed streams, after one that is not timed"
    )
    parser.add_argument("--turns", type=int, default=60, help="turns of a stream, with its opening")
    parser.add_argument("--new", type=int, default=6, help="tokens a turn")
    parser.add_argument(
        "--size", default="448x672", help="height and width of a frame: 384 tokens a pair"
    )
    parser.add_argument("--split", type=int, default=5, help="turns timed part by part")
    parser.add_argument("--loops", default="generate,forward")
    parser.add_argument("--dtype", default="bfloat16")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    card = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    print(
        f"{card}, torch {torch.__version__}, transformers {transformers.__version__}, {args.preset}, "
        f"{args.dtype}, sdpa, {time.strftime('%Y-%m-%d')}", flush=True,
    )  # fmt: skip
    height, width = map(int, args.size.split("x"))
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (6 if i == 0 else 2, height, width, 3), np.uint8) for i in range(4)]
    model = random_model(preset(args.preset), args.dtype, device)
    template = ChatTemplate(open_tokenizer(args.tokenizer))
    kinds = {"generate": Generate, "forward": Forward}
    figures, turn_ids = {}, {}
    for name in args.loops.split(","):
        figures[name], turn_ids[name] = measure(kinds[name], model, template, frames, args)
        print(end="", flush=True)
    if len(turn_ids) == 2:
        agree = sum(a == b for a, b in zip(*turn_ids.values()))
        print(f"both loops generate the same in {agree} of {len(turn_ids['forward'])} turns")
    if device == "cuda":
        print(f"memory: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB at most")
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
