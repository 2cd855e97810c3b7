"""Compares `livecc stream --positions hybrid`, token for token, with the released code.

The released side runs here: decord decodes, torch resizes, transformers' processor and template make
the inputs, and transformers 4.50 generates with the released package's multi-turn patch, keeping cache
and ids from turn to turn as the released demo does. Frames are sampled by the exact rule
(docs/formats.md, section 2).

    python benchmarks/random_checkpoint.py /tmp/wild
    livecc stream /tmp/wild data/clips/bikes.mp4 --query "Comment, please." --dtype float32 \\
        --jsonl /tmp/ours.jsonl
    # where these are installed: transformers==4.50.0 torch==2.13.0 decord==0.6.0 pillow jinja2,
    # and with --no-deps livecc-utils==0.0.2
    python benchmarks/released_stream.py /tmp/wild data/clips/bikes.mp4 /tmp/ours.jsonl \\
        --query "Comment, please." --pixel-budget 48
"""

import argparse
import functools
import importlib.util
import json

import decord
import torch
from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

ENDS = [151645, 151643]
USER_TURN = "<|im_start|>user"  # later prompts start here: the template repeats the system turn


def load(path):
    """Returns the model with the released package's patch; the package itself needs torchvision."""
    model = Qwen2VLForConditionalGeneration.from_pretrained(path, attn_implementation="eager")
    where = importlib.util.find_spec("livecc_utils").submodule_search_locations[0]
    spec = importlib.util.spec_from_file_location("patch", f"{where}/generation_patch.py")
    patch = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(patch)
    model = model.float().eval()
    model.prepare_inputs_for_generation = functools.partial(
        patch.prepare_multiturn_multimodal_inputs_for_generation, model
    )
    return model


def frames_of(clip, tokens):
    """Returns uint8 [F, 3, h, w] at strict 2 FPS in exact arithmetic; an odd last frame is dropped."""
    reader = decord.VideoReader(clip)
    ends = reader.get_frame_timestamp(range(len(reader)))[:, 1]
    times = [round(float(t) * 1_000_000) for t in ends]
    indices, due = [], times[0]
    while due <= times[-1]:
        # decord's times are float32; the tolerance is far below a frame.
        indices.append(next(i for i, t in enumerate(times) if t >= due - 5_000))
        due += 500_000
    indices = indices[: len(indices) // 2 * 2]
    frames = torch.from_numpy(reader.get_batch(indices).asnumpy()).permute(0, 3, 1, 2)
    low = min(100, tokens // 2) * 784
    size = smart_resize(*frames.shape[2:], 28, low, tokens * 784)
    frames = torch.nn.functional.interpolate(frames.float(), size, mode="bicubic", antialias=True)
    return frames.clamp(0, 255).round().to(torch.uint8)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("clip")
    parser.add_argument("ours", help="JSONL of `livecc stream`")
    parser.add_argument("--query", default="")
    parser.add_argument("--pixel-budget", type=int, default=384)
    parser.add_argument("--max-new-tokens", type=int, default=16)
    parser.add_argument("--repetition-penalty", type=float, default=1.05)
    args = parser.parse_args()
    model, tokenizer = load(args.model), AutoTokenizer.from_pretrained(args.model)
    processor = Qwen2VLImageProcessor.from_pretrained(args.model)
    processor.do_resize = False
    with open(args.ours) as file:
        ours = [json.loads(line)["tokens"] for line in file]
    frames = frames_of(args.clip, args.pixel_budget)
    past, cache, at, agree = None, None, 0, 0
    for turn, tokens in enumerate(ours):
        count = 2 if turn else 6
        clip = list(frames[at : at + count].permute(0, 2, 3, 1).numpy())
        at += count
        pixels = processor(images=None, videos=[clip], return_tensors="pt")
        start, stop = (2 + turn, 3 + turn) if turn else (0, 3)
        content = [{"type": "text", "text": f"Time={start:.1f}-{stop:.1f}s"}, {"type": "video"}]
        if not turn and args.query:
            content.append({"type": "text", "text": args.query})
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        if turn:
            text = "<|im_end|>\n" + text[text.index(USER_TURN) :]
        pads = int(pixels["video_grid_thw"][0].prod()) // 4
        text = text.replace("<|video_pad|>", "<|video_pad|>" * pads)
        ids = torch.tensor([tokenizer(text).input_ids])
        ids = ids if past is None else torch.cat([past, ids], dim=1)
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            **pixels,
            past_key_values=cache,
            return_dict_in_generate=True,
            do_sample=False,
            repetition_penalty=args.repetition_penalty,
            max_new_tokens=args.max_new_tokens,
            eos_token_id=ENDS,
            pad_token_id=ENDS[1],
        )
        cache, past = out.past_key_values, out.sequences[:, :-1]
        theirs = [t for t in out.sequences[0, ids.shape[1] :].tolist() if t not in ENDS]
        agree += theirs == tokens
        verdict = "the same" if theirs == tokens else "NOT the same"
        print(f"turn {turn}: {len(theirs)} tokens, {verdict}")
    print(f"{agree} of {len(ours)} turns are the same")


if __name__ == "__main__":
    main()
