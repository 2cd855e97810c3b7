"""`livecc demo`: the whole main job on the shipped clip, each step an ordinary command."""

from __future__ import annotations

import argparse
import json
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from livecc_jax.timeline.turns import Turn

TITLE = "Big Buck Bunny"
BUDGET = "24"
END = "27"  # the last word's turn: training clips end with their last word, and so must what is learnt


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "demo", help="train on a shipped clip, stream it back, export", description=__doc__
    )
    parser.add_argument("--out", default="demo_out", help="directory to make (default demo_out)")
    parser.add_argument("--data", default="data", help="the repository's data/ (default data)")
    parser.add_argument(
        "--config", default="configs/demo.py", help="training config (default configs/demo.py)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Index, inspect, train, stream, convert; then compare what was said with what should be."""
    import shutil

    from livecc_jax.errors import DataError

    out, data = Path(args.out), Path(args.data)
    annotations, tokenizer = data / "annotations/narration.jsonl", data / "tokenizer"
    clip = data / "clips/bbb_espeak_narration_30s.mp4"
    for needed in (annotations, clip, Path(args.config)):
        if not needed.is_file():
            raise DataError(f"{needed}: is not there; run the demo in the repository's root")
    if (out / "demo.json").exists():
        shutil.rmtree(out)  # an earlier demo's
    elif out.exists():
        raise DataError(f"{out}: exists already and is not an earlier demo's output")
    out.mkdir(parents=True)
    (out / "demo.json").write_text("{}\n")

    spent: dict[str, float] = {}
    same = ["--tokenizer", tokenizer, "--pixel-budget", BUDGET]
    index, trained, exported = out / "index", out / "run", out / "hf"
    steps = {
        "index": [annotations, "--out", index, *same],
        "inspect": [annotations, "--example", "0", *same],
        "train": [args.config, "--data.index", index, "--tokenizer", tokenizer, "--run", trained],
        "stream": [
            trained, clip, "--title", TITLE, "--end", END,
            "--jsonl", out / "commentary.jsonl", "--vtt", out / "commentary.vtt",
            "--srt", out / "commentary.srt",
        ],
        "convert": [trained, exported, "--to", "hf"],
    }  # fmt: skip
    for command, options in steps.items():
        spent[command] = _step(command, [str(o) for o in options])

    turns = _expected(annotations, tokenizer)
    spoken = [json.loads(line) for line in (out / "commentary.jsonl").read_text().splitlines()]
    summary = _compare(turns, spoken)
    summary["seconds"] = {k: round(v, 1) for k, v in spent.items()}
    (out / "demo.json").write_text(json.dumps(summary, indent=2) + "\n")
    _conclude(summary, out, clip)
    return 0 if summary["in_their_second"] >= 0.9 and not summary["words_in_silence"] else 1


def _step(command: str, options: list[str]) -> float:
    """Run one command as the user would: seconds it took. LiveCCErrors pass through."""
    from livecc_jax.commands.parser import build_parser

    print(f"\n$ livecc {shlex.join([command, *options])}", flush=True)
    args = build_parser().parse_args([command, *options])
    began = time.perf_counter()
    args.run(args)
    return time.perf_counter() - began


def _expected(annotations: Path, tokenizer: Path) -> list[Turn]:
    """The turns that the annotations ask for."""
    from livecc_jax.data.annotations.records import AnnotationFile
    from livecc_jax.data.examples.example import plan_example
    from livecc_jax.media.budget import PixelBudget
    from livecc_jax.text.open import open_tokenizer
    from livecc_jax.timeline.chat import ChatTemplate

    template = ChatTemplate(open_tokenizer(tokenizer))
    plan = plan_example(AnnotationFile(annotations)[0], template, PixelBudget.parse(BUDGET))
    return list(plan.turns)


def _compare(turns: list[Turn], spoken: list[dict]) -> dict:
    """Print the two side by side, second by second, and count."""
    from collections import Counter

    from livecc_jax.text.tokenizer import SILENCE

    print(f"\n{'second':>13}   {'expected':<34} spoken")
    total = right = silent = broken = extra = 0
    for i, line in enumerate(spoken):
        want = turns[i].text.split() if i < len(turns) else []
        said = line["text"].replace(SILENCE, " ").split()
        agree = sum((Counter(want) & Counter(said)).values())
        total, right = total + len(want), right + agree
        extra += len(said) - agree
        if not want:
            silent += 1
            broken += len(said)
        mark = " " if want == said else "x"
        span = f"{line['start']:.1f} - {line['stop']:.1f}"
        print(f"{span:>13} {mark} {' '.join(want) or '...':<34} {' '.join(said) or '...'}")
    return {
        "words": total,
        "words_in_their_second": right,
        "in_their_second": right / max(total, 1),
        "words_not_expected": extra,
        "silent_turns": silent,
        "words_in_silence": broken,
        "latency_ms": sorted(line["latency_ms"] for line in spoken)[len(spoken) // 2],
    }


def _conclude(summary: dict, out: Path, clip: Path) -> None:
    seconds = summary["seconds"]
    rows = [
        ("words in their own second", f"{summary['words_in_their_second']} of {summary['words']} "
                                      f"({summary['in_their_second']:.0%})"),
        ("words nobody expected", str(summary["words_not_expected"])),
        ("words in a silent second", f"{summary['words_in_silence']} "
                                     f"(in {summary['silent_turns']} silent turns)"),
        ("to words, frames seen ahead", f"{summary['latency_ms']:.0f} ms a turn (median)"),
        ("time", ", ".join(f"{name} {s:.0f} s" for name, s in seconds.items())),
    ]  # fmt: skip
    print()
    for name, value in rows:
        print(f"  {name:<28} {value}")
    print(
        f"""
  {out}/commentary.vtt       subtitles to show beside {clip}
  {out}/commentary.jsonl     every turn with its tokens and latency
  {out}/hf                   the weights as transformers loads them
  {out}/run/tensorboard      loss, tokens/s, packing density, MFU

What to try next
  livecc stream {out}/hf {clip} --title "{TITLE}" --start 7    from another second
  livecc stream {out}/hf 0                                     your camera
  livecc inspect data/annotations/windows.jsonl --model {out}/hf
  livecc train {"configs/demo.py"} --data.index {out}/index --run {out}/run2 --seed 1"""
    )
