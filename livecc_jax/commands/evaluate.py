"""`livecc evaluate`: a multiple-choice benchmark, from its authors' files to a report.

Compares the logits of the options after a fixed answer prefix, as LiveCC's published numbers do; a
video is seen once for all its questions. Running the same command again goes on where it stopped.
"""

from __future__ import annotations

import argparse

from livecc_jax.commands.options import add_timeline_options

CHOICES = ("videomme", "mvbench", "ovobench", "livesports-qa")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declare the command."""
    parser = subparsers.add_parser("evaluate", help="run a benchmark", description=__doc__)
    parser.add_argument("benchmark", choices=CHOICES, metavar="BENCHMARK", help=", ".join(CHOICES))
    parser.add_argument("model", help="checkpoint: HuggingFace directory, run, or step of a run")
    parser.add_argument("--data", required=True, metavar="PATH", help="the benchmark's folder")
    parser.add_argument("--out", required=True, metavar="DIR", help="answers, results and report")
    parser.add_argument("--subtitles", action="store_true", help="Video-MME with subtitles")
    parser.add_argument("--wordings", metavar="FILE", help="OVO-Bench: JSON of REC, SSR and CRR")
    add_timeline_options(parser)
    parser.add_argument(
        "--max-frames", type=int, metavar="N", help="of a video (default 480, as published)"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N questions")
    parser.add_argument(
        "--share",
        metavar="I/N",
        help="only every N-th video from the I-th (0 to N - 1): for N processes",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of weights and cache (default: float32 on a CPU, bfloat16 elsewhere)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Ask, score, report."""
    import sys
    from pathlib import Path

    import jax

    from livecc_jax.checkpoints.open import open_checkpoint
    from livecc_jax.evaluate.annotations import ASKING, read_questions
    from livecc_jax.evaluate.choice import Chooser
    from livecc_jax.evaluate.ovobench import read_wordings
    from livecc_jax.evaluate.report import write_report
    from livecc_jax.evaluate.running import (
        Asked,
        all_answers,
        ask_all,
        file_hash,
        settle,
        write_results,
    )
    from livecc_jax.evaluate.score import score
    from livecc_jax.evaluate.text import scored_text
    from livecc_jax.media.budget import PixelBudget

    share = _share(args.share)
    wordings = read_wordings(args.wordings)
    questions = read_questions(args.benchmark, args.data, args.subtitles, wordings)
    if args.limit:
        questions.questions = questions.questions[: args.limit]
    checkpoint = open_checkpoint(args.model)
    budget = PixelBudget.parse(args.pixel_budget or "reference")
    positions = args.positions or checkpoint.livecc.positions
    dtype = args.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    asking = ASKING[args.benchmark]
    setting = {
        "benchmark": args.benchmark,
        "model": str(checkpoint.path),
        "annotation": str(questions.annotation.absolute()),
        "annotation_sha256": file_hash(questions.annotation),
        "questions": len(questions.questions),
        "positions": positions,
        "pixel_budget": str(budget),
        "max_frames": args.max_frames or 480,
        "dtype": dtype,
        "subtitles": args.subtitles,
        "answer_prefix": asking.prefix,
        "wordings": wordings or ("ours" if args.benchmark == "ovobench" else None),
    }
    folder = Path(args.out)
    settle(folder, setting)
    params = checkpoint.load_params(dtype=jax.numpy.dtype(dtype))
    params = jax.tree.map(jax.numpy.asarray, params)
    chooser = Chooser(checkpoint.config, params, checkpoint.open_tokenizer(), positions, asking)
    del params

    def progress(asked: Asked, of: int) -> None:
        if sys.stderr.isatty() or asked.videos % 20 == 0:
            done = asked.before + asked.now + asked.failed
            rate = 60 * (asked.now + asked.failed) / max(asked.seconds, 1e-9)
            print(f"{done:,} of {of:,} questions, {rate:.1f} a minute", file=sys.stderr, flush=True)

    asked = ask_all(
        chooser, questions, folder, budget,
        share=share, max_frames=args.max_frames, progress=progress,
    )  # fmt: skip
    answers = all_answers(folder)
    print(
        f"{asked.now:,} questions answered in {asked.seconds:.0f} s, {asked.before:,} before, "
        f"{asked.failed:,} could not be asked"
    )
    left = sum(q.id not in answers for q in questions.questions)
    if left:
        print(f"{left:,} questions are in other shares; the last one to finish writes the report")
        return 0
    results = folder / "results.json"
    write_results(args.benchmark, questions, answers, results)
    expected = len(questions.questions) if args.limit or args.benchmark == "ovobench" else None
    scored = score(args.benchmark, results, expected=expected)
    unusable = {k: v for k, v in questions.entries.problems.items() if v}
    extra = {
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "annotation_problems": unusable,
        "annotation_notes": questions.entries.notes,
        "failed": [f"{k}: {v['error']}" for k, v in answers.items() if "error" in v][:20],
    }
    write_report(folder, scored, setting | extra, results_file=results.name)
    print(scored_text(scored))
    if unusable:
        print(f"Of the annotation: {', '.join(f'{v:,} {k}' for k, v in unusable.items())}.")
    print(f"written to {folder}: results.json, report.md, report.html, report.json")
    return 0


def _share(text: str | None) -> tuple[int, int]:
    from livecc_jax.errors import ConfigError

    if text is None:
        return 0, 1
    first, _, of = text.partition("/")
    if not (first.isdecimal() and of.isdecimal() and int(first) < int(of)):
        raise ConfigError(f"--share {text}: must be I/N with I from 0 to N - 1")
    return int(first), int(of)
