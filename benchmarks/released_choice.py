"""Whether `livecc evaluate` has the option logits that the released way of asking has in transformers.

The released side runs here: decord decodes, torch resizes, transformers' processor, template and
tokenizer make the inputs of each whole conversation, and one forward pass gives the logits after the
answer prefix. `make` writes four small benchmarks in their authors' layouts, with shipped clips.

    python benchmarks/released_choice.py make /tmp/small
    python benchmarks/random_checkpoint.py /tmp/wild
    for b in videomme mvbench ovobench livesports-qa; do
        livecc evaluate $b /tmp/wild --data /tmp/small/$b --out /tmp/small/out-$b --positions mrope \\
            --dtype float32 --pixel-budget 48 --max-frames 12 --wordings /tmp/small/wordings.json
    done
    # where these are installed: transformers==4.50.0 torch==2.13.0 decord==0.6.0 pillow jinja2
    python benchmarks/released_choice.py check /tmp/wild /tmp/small --pixel-budget 48 --max-frames 12

A real size, on a GPU, with whatever transformers is installed and without decord (frames are then ours,
everything else theirs); `ours` is what `livecc evaluate` does, with the weights read once for all four:

    python benchmarks/released_choice.py make /tmp/small
    python benchmarks/random_checkpoint.py /tmp/real --preset 2b --layout nested
    JAX_DEFAULT_MATMUL_PRECISION=highest python benchmarks/released_choice.py ours /tmp/real /tmp/small
    python benchmarks/released_choice.py check /tmp/real /tmp/small --frames ours

With `--positions sequential` on both sides, transformers is given 0, 1, 2, ... for positions, which is
what the patched forward of the published runs amounts to.
"""

import argparse
import json
import shutil
from pathlib import Path

CLIPS = Path(__file__).parents[1] / "data/clips"
NAMES = ("bbb_espeak_narration_30s.mp4", "bikes.mp4")
POSTFIX = "\nPlease select the correct answer."
OVO_OPTIONS = ["No", "Yes", *map(str, range(10)), *"ABCDE"]
WORDINGS = {
    "REC": "How many times did they {activity}? Your response type should be a number.",
    "SSR": "One step: {step} Is it being carried out? Yes or No.",
    "CRR": "{question} Is that shown? Yes or No.",
}


def make(root):
    """Four benchmarks of a few questions each."""
    folders = {
        "videomme": "data",
        "mvbench": "video/star/Charades_v1_480",
        "ovobench": "v",
        "livesports-qa": "videos",
    }
    for name, folder in folders.items():
        (root / name / folder).mkdir(parents=True, exist_ok=True)
        for clip in NAMES:
            shutil.copy(CLIPS / clip, root / name / folder / clip)
    rows = [
        {
            "video_id": f"{v:03}", "videoID": clip.removesuffix(".mp4"), "duration": "short",
            "domain": "Knowledge", "sub_category": "Law", "question_id": f"{v:03}-{q}",
            "task_type": "OCR Problems", "question": asked, "answer": "ABC"[q],
            "options": ["A. Rabbits.", "B. 1,000 bikes.", "C. Nothing.", "D. Snow."],
        }
        for v, clip in enumerate(NAMES)
        for q, asked in enumerate(("What is seen?", "Who isn't there, then?", "How many — in all?"))
    ]  # fmt: skip
    (root / "videomme/videomme.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (root / "mvbench/json").mkdir(exist_ok=True)
    asked = {
        "candidates": ["He sat.", "He ran.", "Both"],
        "answer": "He ran.",
        "start": 1.0,
        "end": 6.5,
    }
    rows = [
        asked | {"video": clip, "question": q} for clip in NAMES for q in ("What next?", "And before?")
    ]
    (root / "mvbench/json/action_sequence.json").write_text(json.dumps(rows))
    item = {"video": f"v/{NAMES[0]}"}
    choices = {"question": "What?", "options": ["a fox", "a hare"], "gt": 1, "realtime": 4}
    counts = [{"realtime": t, "count": 1} for t in (5, 12)]
    step = {"realtime": 7, "step": "Stretch.", "type": 1}
    rows = [
        item | choices | {"id": 0, "task": "OJR"},
        item | {"id": 1, "task": "REC", "activity": "jump", "test_info": counts},
        item | {"id": 2, "task": "SSR", "test_info": [step]},
        item | {"id": 3, "task": "CRR", "question": "Why?", "ask_time": 3, "test_info": [step]},
    ]
    (root / "ovobench/ovo_bench_new.json").write_text(json.dumps(rows))
    (root / "wordings.json").write_text(json.dumps(WORDINGS))
    options = ["A. x", "B. y", "C. z", "D. w"]
    row = {"video_id": "b", "video": NAMES[1], "q_type": "Who", "OCR": 0, "options": options}
    rows = [row | {"question": f"Who {i}?", "answer": "A"} for i in range(2)]
    (root / "livesports-qa/LiveSports-3K-QA.json").write_text(json.dumps(rows))


def questions(root, name):
    """(video, start, end, text, prefix, before, options) of each question, read without livecc_jax."""
    plain = ("Answer:", ": ")
    if name == "videomme":
        for line in (root / "videomme/videomme.jsonl").read_text().splitlines():
            r = json.loads(line)
            text = r["question"] + "\n" + "\n".join(r["options"]) + POSTFIX
            yield root / f"videomme/data/{r['videoID']}.mp4", None, None, text, *plain, list("ABCD")
    elif name == "mvbench":
        for r in json.loads((root / "mvbench/json/action_sequence.json").read_text()):
            options = [f"{c}. {o}" for c, o in zip("ABCDE", r["candidates"])]
            text = r["question"] + "\n" + "\n".join(options) + POSTFIX
            video = root / "mvbench/video/star/Charades_v1_480" / r["video"]
            yield video, r["start"], r["end"], text, *plain, list("ABC")
    elif name == "livesports-qa":
        for r in json.loads((root / "livesports-qa/LiveSports-3K-QA.json").read_text()):
            text = r["question"] + "\n" + "\n".join(r["options"]) + POSTFIX
            yield root / "livesports-qa/videos" / r["video"], None, None, text, *plain, list("ABCD")
    else:
        how = ("The answer is:\n", "\n", OVO_OPTIONS)
        for r in json.loads((root / "ovobench/ovo_bench_new.json").read_text()):
            video = root / "ovobench" / r["video"]
            if "gt" in r:
                options = [f"{c}. {o}" for c, o in zip("ABCDE", r["options"])]
                text = r["question"] + "\n" + "\n".join(options) + POSTFIX
                yield video, 0, r["realtime"], text, *how
            for t in r.get("test_info", ()):
                values = {
                    "activity": r.get("activity"),
                    "step": t.get("step"),
                    "question": r.get("question"),
                }
                text = WORDINGS[r["task"]].format(**values)
                yield video, r.get("ask_time", 0), t["realtime"], text, *how


def frames_of(clip, start, end, most, tokens):
    """uint8 [F, 3, h, w] spread evenly over the span, as the released reader does."""
    import decord
    import numpy as np
    import torch
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    reader = decord.VideoReader(str(clip))
    times = reader.get_frame_timestamp(range(len(reader)))[:, 1]
    inside = np.arange(len(reader))
    if start is not None or end is not None:
        start, end = start or times[0], end or times[-1]
        inside = np.flatnonzero((times >= start) & (times <= end))
    count = min(max(int(len(inside) / reader.get_avg_fps() * 2), 4), most, len(inside)) // 2 * 2
    chosen = inside[np.linspace(0, len(inside) - 1, count).round().astype(int)]
    frames = torch.from_numpy(reader.get_batch(chosen).asnumpy()).permute(0, 3, 1, 2)
    size = smart_resize(*frames.shape[2:], 28, min(100, tokens // 2) * 784, tokens * 784)
    frames = torch.nn.functional.interpolate(frames.float(), size, mode="bicubic", antialias=True)
    return frames.clamp(0, 255).round().to(torch.uint8)


def ours(args):
    """Ask all benchmarks as `livecc evaluate` does: OUT's answers.jsonl of each."""
    import jax

    from livecc_jax.checkpoints.open import open_checkpoint
    from livecc_jax.evaluate.benchmarks.annotations import PROMPT_TEMPLATES, read_questions
    from livecc_jax.evaluate.run.choice import ChoiceScorer
    from livecc_jax.evaluate.run.prompt_encoder import PromptEncoder
    from livecc_jax.evaluate.run.run_folder import answer_questions
    from livecc_jax.media.budget import PixelBudget

    checkpoint, budget = open_checkpoint(args.model), PixelBudget.parse(str(args.pixel_budget))
    params, tokenizer = checkpoint.load_params(jax.numpy.dtype(args.dtype)), checkpoint.open_tokenizer()
    chooser = ChoiceScorer(
        checkpoint.config, params, tokenizer, args.positions, PROMPT_TEMPLATES["videomme"]
    )
    for name in args.benchmarks:
        chooser.phrasing = PromptEncoder(tokenizer, PROMPT_TEMPLATES[name])
        found = read_questions(name, args.root / name, wordings=WORDINGS)
        folder = args.root / f"out-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        asked = answer_questions(chooser, found, folder, budget, max_frames=args.max_frames)
        device = jax.devices()[0].device_kind
        print(
            f"{name}: {asked.now} answers by jax {jax.__version__}, {args.dtype}, {device}", flush=True
        )


def our_pixels(clip, start, end, most, tokens):
    """(patches as transformers' processor gives them, grid) of the frames that livecc_jax shows."""
    import numpy as np
    import torch

    from livecc_jax.evaluate.benchmarks.questions import VideoSource
    from livecc_jax.evaluate.run.sampled_video import sample_video
    from livecc_jax.media.budget import PixelBudget
    from livecc_jax.model.vision import PIXEL_MEAN, PIXEL_STD

    span = [None if t is None else round(1e6 * t) for t in (start, end)]
    watched = sample_video(
        VideoSource(str(clip), *span, clamp="ovobench" in str(clip)),
        PixelBudget.parse(str(tokens)),
        most,
    )
    patches = watched.patches.reshape(-1, 3, 2 * 14 * 14).astype(np.float32) / 255
    mean, std = (np.array(x, np.float32)[:, None] for x in (PIXEL_MEAN, PIXEL_STD))
    normal = ((patches - mean) / std).reshape(len(patches), -1)
    return {
        "pixel_values_videos": torch.from_numpy(normal),
        "video_grid_thw": torch.tensor([watched.grid]),
    }


CHAT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    "<|vision_start|><|video_pad|><|vision_end|>{text}<|im_end|>\n<|im_start|>assistant\n"
)


def check(args):
    """Compare every question's option logits with OUT's answers.jsonl, and the option chosen."""
    import numpy as np
    import torch
    import transformers
    from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Qwen2VLForConditionalGeneration.from_pretrained(args.model, attn_implementation="eager")
    model = model.to(device, getattr(torch, args.dtype)).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    typed = int(transformers.__version__.split(".")[0]) >= 5  # what is a video must be said
    if args.frames == "decord":
        from transformers import Qwen2VLImageProcessor

        processor = Qwen2VLImageProcessor.from_pretrained(args.model)
        processor.do_resize = False
    print(f"transformers {transformers.__version__}, torch {torch.__version__}, {args.dtype}, {device}")
    answered = {}
    for name in args.benchmarks:
        lines = (args.root / f"out-{name}/answers.jsonl").read_text().splitlines()
        ours = [json.loads(line) for line in lines]
        asked = list(questions(args.root, name))
        # Ours come video by video; a stable sort by what is watched puts theirs in the same order.
        order = list(dict.fromkeys(q[:3] for q in asked))
        asked.sort(key=lambda q: order.index(q[:3]))
        worst = same = 0
        spread, found = [], []
        for row, (clip, start, end, text, prefix, before, options) in zip(ours, asked, strict=True):
            shown = clip, start, end, args.max_frames, args.pixel_budget
            if args.frames == "ours":
                pixels, chat = our_pixels(*shown), CHAT.format(text=text)
            else:
                video = list(frames_of(*shown).permute(0, 2, 3, 1).numpy())
                pixels = processor(images=None, videos=[video], return_tensors="pt")
                content = [{"type": "video"}, {"type": "text", "text": text}]
                chat = tokenizer.apply_chat_template(
                    [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
                )
            pads = int(pixels["video_grid_thw"][0].prod()) // 4
            chat = (chat + prefix).replace("<|video_pad|>", "<|video_pad|>" * pads)
            ids = torch.tensor([tokenizer(chat).input_ids])
            extra = {}
            if args.positions == "sequential":
                extra["position_ids"] = torch.arange(ids.shape[1]).expand(3, 1, -1)
            if typed:
                extra["mm_token_type_ids"] = (ids == tokenizer.vocab["<|video_pad|>"]).int() * 2
            given = {k: v.to(device) for k, v in ({"input_ids": ids} | dict(pixels) | extra).items()}
            given["pixel_values_videos"] = given["pixel_values_videos"].to(model.dtype)
            with torch.no_grad():
                logits = model(**given).logits[0, -1].float().cpu()
            letters = [tokenizer(before + option).input_ids[-1] for option in options]
            theirs = logits[letters].numpy()
            spread.append(theirs.std())
            worst = max(worst, np.abs(theirs - np.array(row["logits"])).max())
            chosen = options[int(theirs.argmax())]
            found.append([chosen, [round(float(x), 6) for x in theirs]])
            same += chosen == row["option"]
        print(
            f"{name}: {same} of {len(asked)} answers are the same; logits differ by {worst:.2g} at "
            f"most (standard deviation over options {np.mean(spread):.2g})",
            flush=True,
        )
        answered[name] = found
    if args.save:
        args.save.write_text(json.dumps(answered) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make")
    making.add_argument("root", type=Path)
    for name in ("ours", "check"):
        asking = commands.add_parser(name)
        asking.add_argument("model")
        asking.add_argument("root", type=Path)
        asking.add_argument("--pixel-budget", type=int, default=48)
        asking.add_argument("--max-frames", type=int, default=12)
        asking.add_argument("--positions", default="mrope", choices=("mrope", "sequential"))
        asking.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
        asking.add_argument("--save", type=Path, help="check only: a file for transformers' answers")
        asking.add_argument("--frames", default="decord", choices=("decord", "ours"), help="check only")
        asking.add_argument(
            "--benchmarks", nargs="+", default=["videomme", "mvbench", "ovobench", "livesports-qa"]
        )
    args = parser.parse_args()
    if args.command == "make":
        make(args.root)
    else:
        {"ours": ours, "check": check}[args.command](args)


if __name__ == "__main__":
    main()
