"""Compare the option logits of `livecc evaluate` with those of the released evaluation.

The released side runs in this script: decord decodes, torch resizes, transformers' processor, template
and tokenizer make the inputs of each full prompt, and one forward pass gives the logits after the
answer prefix. `make` writes four small benchmarks in their authors' layouts, with the clips of this
repository.

    python benchmarks/released_choice.py make /tmp/small
    python benchmarks/random_checkpoint.py /tmp/wild
    for b in videomme mvbench ovobench livesports-qa; do
        livecc evaluate $b /tmp/wild --data /tmp/small/$b --out /tmp/small/out-$b --positions mrope \\
            --dtype float32 --pixel-budget 48 --max-frames 12 --wordings /tmp/small/wordings.json
    done
    # where these are installed: transformers==4.50.0 torch==2.13.0 decord==0.6.0 pillow jinja2
    python benchmarks/released_choice.py check /tmp/wild /tmp/small --pixel-budget 48 --max-frames 12

For a real size on a GPU, with any version of transformers and without decord (the frames are ours, and
everything else is theirs); `ours` does what `livecc evaluate` does, and reads the weights once for all
four benchmarks:

    python benchmarks/released_choice.py make /tmp/small
    python benchmarks/random_checkpoint.py /tmp/real --preset 2b --layout nested
    JAX_DEFAULT_MATMUL_PRECISION=highest python benchmarks/released_choice.py ours /tmp/real /tmp/small
    python benchmarks/released_choice.py check /tmp/real /tmp/small --frames ours

With `--positions sequential` on both sides, transformers gets the positions 0, 1, 2, ..., as in the
patched forward pass of the published runs.
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


def write_benchmarks(root):
    """Write four benchmarks of a few questions each."""
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
    records = [
        {
            "video_id": f"{v:03}", "videoID": clip.removesuffix(".mp4"), "duration": "short",
            "domain": "Knowledge", "sub_category": "Law", "question_id": f"{v:03}-{q}",
            "task_type": "OCR Problems", "question": text, "answer": "ABC"[q],
            "options": ["A. Rabbits.", "B. 1,000 bikes.", "C. Nothing.", "D. Snow."],
        }
        for v, clip in enumerate(NAMES)
        for q, text in enumerate(("What is seen?", "Who isn't there, then?", "How many — in all?"))
    ]  # fmt: skip
    (root / "videomme/videomme.jsonl").write_text("\n".join(map(json.dumps, records)))
    (root / "mvbench/json").mkdir(exist_ok=True)
    record = {
        "candidates": ["He sat.", "He ran.", "Both"],
        "answer": "He ran.",
        "start": 1.0,
        "end": 6.5,
    }
    records = [
        record | {"video": clip, "question": q} for clip in NAMES for q in ("What next?", "And before?")
    ]
    (root / "mvbench/json/action_sequence.json").write_text(json.dumps(records))
    item = {"video": f"v/{NAMES[0]}"}
    choices = {"question": "What?", "options": ["a fox", "a hare"], "gt": 1, "realtime": 4}
    counts = [{"realtime": t, "count": 1} for t in (5, 12)]
    step = {"realtime": 7, "step": "Stretch.", "type": 1}
    records = [
        item | choices | {"id": 0, "task": "OJR"},
        item | {"id": 1, "task": "REC", "activity": "jump", "test_info": counts},
        item | {"id": 2, "task": "SSR", "test_info": [step]},
        item | {"id": 3, "task": "CRR", "question": "Why?", "ask_time": 3, "test_info": [step]},
    ]
    (root / "ovobench/ovo_bench_new.json").write_text(json.dumps(records))
    (root / "wordings.json").write_text(json.dumps(WORDINGS))
    options = ["A. x", "B. y", "C. z", "D. w"]
    record = {"video_id": "b", "video": NAMES[1], "q_type": "Who", "OCR": 0, "options": options}
    records = [record | {"question": f"Who {i}?", "answer": "A"} for i in range(2)]
    (root / "livesports-qa/LiveSports-3K-QA.json").write_text(json.dumps(records))


def read_questions_plainly(root, name):
    """Yield (video, start, end, text, answer prefix, option prefix, options), without livecc_jax."""
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
        template = ("The answer is:\n", "\n", OVO_OPTIONS)
        for r in json.loads((root / "ovobench/ovo_bench_new.json").read_text()):
            video = root / "ovobench" / r["video"]
            if "gt" in r:
                options = [f"{c}. {o}" for c, o in zip("ABCDE", r["options"])]
                text = r["question"] + "\n" + "\n".join(options) + POSTFIX
                yield video, 0, r["realtime"], text, *template
            for t in r.get("test_info", ()):
                values = {
                    "activity": r.get("activity"),
                    "step": t.get("step"),
                    "question": r.get("question"),
                }
                text = WORDINGS[r["task"]].format(**values)
                yield video, r.get("ask_time", 0), t["realtime"], text, *template


def sample_frames_as_released(clip, start, end, max_frames, tokens):
    """uint8 [F, 3, h, w]: frames spread evenly over the span, as the released reader samples them."""
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
    count = max(int(len(inside) / reader.get_avg_fps() * 2), 4)
    count = min(count, max_frames, len(inside)) // 2 * 2
    selected = inside[np.linspace(0, len(inside) - 1, count).round().astype(int)]
    frames = torch.from_numpy(reader.get_batch(selected).asnumpy()).permute(0, 3, 1, 2)
    size = smart_resize(*frames.shape[2:], 28, min(100, tokens // 2) * 784, tokens * 784)
    frames = torch.nn.functional.interpolate(frames.float(), size, mode="bicubic", antialias=True)
    return frames.clamp(0, 255).round().to(torch.uint8)


def answer(args):
    """Answer all benchmarks as `livecc evaluate` does, and write each one's answers.jsonl."""
    import jax

    from livecc_jax.checkpoints.open import open_checkpoint
    from livecc_jax.evaluate.benchmarks.annotations import PROMPT_TEMPLATES, read_questions
    from livecc_jax.evaluate.run.choice import ChoiceScorer
    from livecc_jax.evaluate.run.multiple_choice import answer_questions
    from livecc_jax.evaluate.run.prompt_encoder import PromptEncoder
    from livecc_jax.media.budget import PixelBudget

    checkpoint, budget = open_checkpoint(args.model), PixelBudget.parse(str(args.pixel_budget))
    params, tokenizer = checkpoint.load_params(jax.numpy.dtype(args.dtype)), checkpoint.open_tokenizer()
    scorer = ChoiceScorer(
        checkpoint.config, params, tokenizer, args.positions, PROMPT_TEMPLATES["videomme"]
    )
    for name in args.benchmarks:
        scorer.prompt_encoder = PromptEncoder(tokenizer, PROMPT_TEMPLATES[name])
        question_set = read_questions(name, args.root / name, wordings=WORDINGS)
        folder = args.root / f"out-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        progress = answer_questions(scorer, question_set, folder, budget, max_frames=args.max_frames)
        device = jax.devices()[0].device_kind
        print(
            f"{name}: {progress.answered} answers by jax {jax.__version__}, {args.dtype}, {device}",
            flush=True,
        )


def sample_pixels_of_ours(clip, start, end, max_frames, tokens):
    """Inputs of transformers for the frames that livecc_jax samples, as its processor makes them."""
    import numpy as np
    import torch

    from livecc_jax.evaluate.benchmarks.questions import VideoSource
    from livecc_jax.evaluate.run.sampled_video import sample_video
    from livecc_jax.families.qwen2_vl import IMAGE_MEAN, IMAGE_STD
    from livecc_jax.media.budget import PixelBudget

    span = [None if t is None else round(1e6 * t) for t in (start, end)]
    source = VideoSource(str(clip), *span, clamp="ovobench" in str(clip))
    video = sample_video(source, PixelBudget.parse(str(tokens)), max_frames)
    patches = video.patches.reshape(-1, 3, 2 * 14 * 14).astype(np.float32) / 255
    mean, std = (np.array(x, np.float32)[:, None] for x in (IMAGE_MEAN, IMAGE_STD))
    normalized = ((patches - mean) / std).reshape(len(patches), -1)
    return {
        "pixel_values_videos": torch.from_numpy(normalized),
        "video_grid_thw": torch.tensor([video.grid]),
    }


CHAT = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    "<|vision_start|><|video_pad|><|vision_end|>{text}<|im_end|>\n<|im_start|>assistant\n"
)


def check(args):
    """Compare the option logits of every question, and the option chosen, with each answers.jsonl."""
    import numpy as np
    import torch
    import transformers
    from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Qwen2VLForConditionalGeneration.from_pretrained(args.model, attn_implementation="eager")
    model = model.to(device, getattr(torch, args.dtype)).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    needs_token_types = int(transformers.__version__.split(".")[0]) >= 5
    if args.frames == "decord":
        from transformers import Qwen2VLImageProcessor

        processor = Qwen2VLImageProcessor.from_pretrained(args.model)
        processor.do_resize = False
    print(f"transformers {transformers.__version__}, torch {torch.__version__}, {args.dtype}, {device}")
    answers_of_benchmarks = {}
    for name in args.benchmarks:
        lines = (args.root / f"out-{name}/answers.jsonl").read_text().splitlines()
        ours = [json.loads(line) for line in lines]
        questions = list(read_questions_plainly(args.root, name))
        # Our answers are grouped by video; a stable sort by the video gives both the same order.
        order = list(dict.fromkeys(q[:3] for q in questions))
        questions.sort(key=lambda q: order.index(q[:3]))
        max_difference = same = 0
        deviations, answers = [], []
        for line, question in zip(ours, questions, strict=True):
            clip, start, end, text, answer_prefix, option_prefix, options = question
            sampling = clip, start, end, args.max_frames, args.pixel_budget
            if args.frames == "ours":
                pixels, chat = sample_pixels_of_ours(*sampling), CHAT.format(text=text)
            else:
                video = list(sample_frames_as_released(*sampling).permute(0, 2, 3, 1).numpy())
                pixels = processor(images=None, videos=[video], return_tensors="pt")
                content = [{"type": "video"}, {"type": "text", "text": text}]
                chat = tokenizer.apply_chat_template(
                    [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
                )
            pads = int(pixels["video_grid_thw"][0].prod()) // 4
            chat = (chat + answer_prefix).replace("<|video_pad|>", "<|video_pad|>" * pads)
            ids = torch.tensor([tokenizer(chat).input_ids])
            inputs = {"input_ids": ids} | dict(pixels)
            if args.positions == "sequential":
                inputs["position_ids"] = torch.arange(ids.shape[1]).expand(3, 1, -1)
            if needs_token_types:
                inputs["mm_token_type_ids"] = (ids == tokenizer.vocab["<|video_pad|>"]).int() * 2
            inputs = {k: v.to(device) for k, v in inputs.items()}
            inputs["pixel_values_videos"] = inputs["pixel_values_videos"].to(model.dtype)
            with torch.no_grad():
                logits = model(**inputs).logits[0, -1].float().cpu()
            option_ids = [tokenizer(option_prefix + option).input_ids[-1] for option in options]
            theirs = logits[option_ids].numpy()
            deviations.append(theirs.std())
            difference = np.abs(theirs - np.array(line["logits"])).max()
            max_difference = max(max_difference, difference)
            best = options[int(theirs.argmax())]
            answers.append([best, [round(float(x), 6) for x in theirs]])
            same += best == line["option"]
        print(
            f"{name}: {same} of {len(questions)} answers are the same; logits differ by "
            f"{max_difference:.2g} at most (standard deviation over options {np.mean(deviations):.2g})",
            flush=True,
        )
        answers_of_benchmarks[name] = answers
    if args.save:
        args.save.write_text(json.dumps(answers_of_benchmarks) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    writing = commands.add_parser("make")
    writing.add_argument("root", type=Path)
    for name in ("ours", "check"):
        command = commands.add_parser(name)
        command.add_argument("model")
        command.add_argument("root", type=Path)
        command.add_argument("--pixel-budget", type=int, default=48)
        command.add_argument("--max-frames", type=int, default=12)
        command.add_argument("--positions", default="mrope", choices=("mrope", "sequential"))
        command.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
        command.add_argument("--save", type=Path, help="check only: a file for transformers' answers")
        command.add_argument(
            "--frames", default="decord", choices=("decord", "ours"), help="check only"
        )
        command.add_argument(
            "--benchmarks", nargs="+", default=["videomme", "mvbench", "ovobench", "livesports-qa"]
        )
    args = parser.parse_args()
    if args.command == "make":
        write_benchmarks(args.root)
    else:
        {"ours": answer, "check": check}[args.command](args)


if __name__ == "__main__":
    main()
