"""`livecc demo`: train on the shipped clip, stream it back and export, with ordinary commands."""

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
END = "27"  # end of the last word's turn: training ends with the last word, so streaming does too


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declares the command."""
    parser = subparsers.add_parser(
        "demo", help="train on a shipped clip, stream it back, export", description=__doc__
    )
    parser.add_argument("--out", default="demo_out", help="output directory (default demo_out)")
    parser.add_argument("--data", help="folder of clip, annotations and tokenizer (default: shipped)")
    parser.add_argument(
        "--config", default="demo", help="training config (default: the shipped one, `demo`)"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Indexes, inspects, trains, streams and converts; then compares commentary and annotation."""
    import shutil

    from livecc_jax.bounded_json import parse_json
    from livecc_jax.errors import DataError
    from livecc_jax.shipped import EXAMPLE_ANNOTATIONS, EXAMPLE_CLIP, shipped_data
    from livecc_jax.writing import make_folder, write_text

    out, data = Path(args.out), _from_here(Path(args.data) if args.data else shipped_data())
    annotations, tokenizer, clip = data / EXAMPLE_ANNOTATIONS, data / "tokenizer", data / EXAMPLE_CLIP
    for path in (annotations, clip):
        if not path.is_file():
            raise DataError(f"{path}: the demo needs this file, which does not exist")
    if (out / "demo.json").exists():
        shutil.rmtree(out)  # output of an earlier demo
    elif out.exists():
        raise DataError(f"{out}: exists already and is not the output of an earlier demo")
    make_folder(out)
    write_text(out / "demo.json", "{}\n")

    seconds: dict[str, float] = {}
    shared = ["--tokenizer", tokenizer, "--pixel-budget", BUDGET]
    index, run_folder, exported = out / "index", out / "run", out / "hf"
    steps = {
        "index": [annotations, "--out", index, *shared],
        "inspect": [annotations, "--example", "0", *shared],
        "train": [args.config, "--data.index", index, "--tokenizer", tokenizer, "--run", run_folder],
        "stream": [
            run_folder, clip, "--title", TITLE, "--end", END,
            "--jsonl", out / "commentary.jsonl", "--vtt", out / "commentary.vtt",
            "--srt", out / "commentary.srt",
        ],
        "convert": [run_folder, exported, "--to", "hf"],
    }  # fmt: skip
    for command, options in steps.items():
        seconds[command] = _run_command(command, [str(o) for o in options])

    expected = _expected_turns(annotations, tokenizer)
    streamed = [parse_json(line) for line in (out / "commentary.jsonl").read_text().splitlines()]
    summary = _compare(expected, streamed)
    summary["seconds"] = {k: round(v, 1) for k, v in seconds.items()}
    write_text(out / "demo.json", json.dumps(summary, indent=2) + "\n")
    _print_summary(summary, out, data)
    return 0 if summary["in_their_second"] >= 0.9 and not summary["words_in_silence"] else 1


def _from_here(path: Path) -> Path:
    """Returns a path relative to the working directory if it lies in it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _run_command(command: str, options: list[str]) -> float:
    """Runs one command as a user would, and returns the seconds that it took.

    Raises:
        LiveCCError: The command failed.
    """
    from livecc_jax.commands.parser import build_parser

    print(f"\n$ livecc {shlex.join([command, *options])}", flush=True)
    args = build_parser().parse_args([command, *options])
    start = time.perf_counter()
    args.run(args)
    return time.perf_counter() - start


def _expected_turns(annotations: Path, tokenizer: Path) -> list[Turn]:
    """Returns the turns of the annotated example, with their words."""
    from livecc_jax.data.annotations.records import AnnotationFile
    from livecc_jax.data.examples.encode import encode_example
    from livecc_jax.media.budget import PixelBudget
    from livecc_jax.text.open import open_tokenizer
    from livecc_jax.timeline.chat import ChatTemplate

    template = ChatTemplate(open_tokenizer(tokenizer))
    encoded = encode_example(AnnotationFile(annotations)[0], template, PixelBudget.parse(BUDGET))
    return list(encoded.turns)


def _compare(expected: list[Turn], streamed: list[dict]) -> dict:
    """Prints expected and streamed words turn by turn, and returns the counts of demo.json."""
    from collections import Counter

    from livecc_jax.text.tokenizer import SILENCE

    print(f"\n{'second':>13}   {'expected':<34} spoken")
    words = correct_words = silent_turns = words_in_silence = extra_words = 0
    for i, line in enumerate(streamed):
        expected_words = expected[i].text.split() if i < len(expected) else []
        streamed_words = line["text"].replace(SILENCE, " ").split()
        matching = sum((Counter(expected_words) & Counter(streamed_words)).values())
        words, correct_words = words + len(expected_words), correct_words + matching
        extra_words += len(streamed_words) - matching
        if not expected_words:
            silent_turns += 1
            words_in_silence += len(streamed_words)
        mark = " " if expected_words == streamed_words else "x"
        span = f"{line['start']:.1f} - {line['stop']:.1f}"
        print(
            f"{span:>13} {mark} {' '.join(expected_words) or '...':<34} "
            f"{' '.join(streamed_words) or '...'}"
        )
    return {
        "words": words,
        "words_in_their_second": correct_words,
        "in_their_second": correct_words / max(words, 1),
        "words_not_expected": extra_words,
        "silent_turns": silent_turns,
        "words_in_silence": words_in_silence,
        "latency_ms": sorted(line["latency_ms"] for line in streamed)[len(streamed) // 2],
    }


def _print_summary(summary: dict, out: Path, data: Path) -> None:
    """Prints the counts, the written files, and commands to try next."""
    from livecc_jax.shipped import EXAMPLE_CLIP

    clip = data / EXAMPLE_CLIP
    seconds = summary["seconds"]
    rows = [
        ("words in their own second", f"{summary['words_in_their_second']} of {summary['words']} "
                                      f"({summary['in_their_second']:.0%})"),
        ("words that were not expected", str(summary["words_not_expected"])),
        ("words in a silent second", f"{summary['words_in_silence']} "
                                     f"(in {summary['silent_turns']} silent turns)"),
        ("latency, frames prefetched", f"{summary['latency_ms']:.0f} ms a turn (median)"),
        ("time", ", ".join(f"{name} {s:.0f} s" for name, s in seconds.items())),
    ]  # fmt: skip
    print()
    for name, value in rows:
        print(f"  {name:<28} {value}")
    print(
        f"""
  {out}/commentary.vtt       subtitles for {clip}
  {out}/commentary.jsonl     every turn with its tokens and latency
  {out}/hf                   the weights as transformers loads them
  {out}/run/tensorboard      loss, tokens/s, packing density, MFU

What to try next
  livecc stream {out}/hf {clip} --title "{TITLE}" --start 7    from another second
  livecc stream {out}/hf 0                                     your camera
  livecc inspect {data}/annotations/windows.jsonl --model {out}/hf
  livecc train demo --data.index {out}/index --run {out}/run2 --seed 1"""
    )
