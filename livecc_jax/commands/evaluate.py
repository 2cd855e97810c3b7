"""`livecc evaluate`: a benchmark, from its authors' files to a report.

Multiple choice compares the logits of the options after a fixed answer prefix, as LiveCC's published
numbers do; a video is seen once for all its questions. livesports-cc streams commentary on each event.
Running the same command again goes on where it stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from livecc_jax.commands.options import add_timeline_options
from livecc_jax.commands.processes import gather_answers, local_mesh, parse_shard, progress_printer

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from livecc_jax.checkpoints.open import Checkpoint
    from livecc_jax.evaluate.benchmarks.scored_answers import ScoredAnswers
    from livecc_jax.evaluate.metrics.commentary import Reference
    from livecc_jax.media.budget import PixelBudget

COMMENTARY = "livesports-cc"
BENCHMARKS = ("videomme", "mvbench", "ovobench", "livesports-qa", COMMENTARY)


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declare the command."""
    parser = subparsers.add_parser("evaluate", help="run a benchmark", description=__doc__)
    parser.add_argument(
        "benchmark", choices=BENCHMARKS, metavar="BENCHMARK", help=", ".join(BENCHMARKS)
    )
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
        help="only every N-th video from the I-th (0 to N - 1): for N processes that do not find each "
        "other (those that do share the videos by themselves)",
    )
    parser.add_argument(
        "--mesh",
        metavar="AXIS=N,...",
        help="split the model over this host's devices, and videos: data, fsdp, tensor, such as "
        "data=2,tensor=2; -1 takes the rest (default: one device; multiple choice only)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of weights and cache (default: float32 on a CPU, bfloat16 elsewhere)",
    )
    group = parser.add_argument_group(COMMENTARY)
    group.add_argument(
        "--prompting", choices=("instruct", "base"), default="instruct", help="default: instruct"
    )
    group.add_argument("--max-new-tokens", type=int, default=32, help="a turn (default 32)")
    group.add_argument("--repetition-penalty", type=float, default=1.15, help="default 1.15")
    group.add_argument("--temperature", type=float, default=0.0, help="default 0, greedy")
    group.add_argument("--seed", type=int, default=0, help="of sampling (default 0)")
    group.add_argument(
        "--memory",
        type=int,
        metavar="FRAMES",
        help="a baseline: before each turn forget all but the last so many frames",
    )
    group.add_argument(
        "--perplexity",
        action=argparse.BooleanOptionalAction,
        help="of the transcript under teacher forcing (default: where the annotation has transcripts, "
        "but not with --memory)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Ask or comment, score, report."""
    from livecc_jax.commands.options import one_of_several
    from livecc_jax.errors import ConfigError
    from livecc_jax.parallel.processes import start_processes

    if args.limit is not None and args.limit < 1:
        raise ConfigError(f"--limit must be at least 1, not {args.limit}")
    if args.max_frames is not None and args.max_frames < 2:
        raise ConfigError(f"--max-frames must be at least 2, not {args.max_frames}")
    if args.mesh and args.benchmark == COMMENTARY:
        raise ConfigError(f"{COMMENTARY} runs on one device a process: --mesh is for multiple choice")
    start_processes()
    with one_of_several("evaluate"):
        return _comment(args) if args.benchmark == COMMENTARY else _ask(args)


def _ask(args: argparse.Namespace) -> int:
    import jax

    from livecc_jax.evaluate.benchmarks.annotations import PROMPT_TEMPLATES, read_questions
    from livecc_jax.evaluate.benchmarks.ovobench import read_wordings
    from livecc_jax.evaluate.metrics.score import score_benchmark
    from livecc_jax.evaluate.report.report import write_report
    from livecc_jax.evaluate.report.terminal import scored_text
    from livecc_jax.evaluate.run.choice import ChoiceScorer
    from livecc_jax.evaluate.run.run_folder import answer_questions, write_results_file

    share, mesh = parse_shard(args.share), local_mesh(args.mesh)
    wordings = read_wordings(args.wordings)
    questions = read_questions(args.benchmark, args.data, args.subtitles, wordings)
    questions.questions = questions.questions[: args.limit]
    asking = PROMPT_TEMPLATES[args.benchmark]
    own = {
        "questions": len(questions.questions),
        "max_frames": args.max_frames or 480,
        "subtitles": args.subtitles,
        "answer_prefix": asking.prefix,
        "wordings": wordings or ("ours" if args.benchmark == "ovobench" else None),
    }
    folder, setting, checkpoint, budget = _begin(args, questions.annotation, own)
    params = checkpoint.load_params(dtype=jax.numpy.dtype(setting["dtype"]))
    chooser = ChoiceScorer(
        checkpoint.config, params, checkpoint.open_tokenizer(), setting["positions"], asking, mesh=mesh
    )
    del params  # the chooser has them on the devices
    asked = answer_questions(
        chooser,
        questions,
        folder,
        budget,
        share=share,
        max_frames=args.max_frames,
        progress=progress_printer("questions"),
    )
    answers = gather_answers(asked, "questions", folder, [q.id for q in questions.questions])
    if answers is None:
        return 0
    results = folder / "results.json"
    write_results_file(args.benchmark, questions, answers, results)
    expected = len(questions.questions) if args.limit or args.benchmark == "ovobench" else None
    scored = score_benchmark(args.benchmark, results, expected=expected)
    context = checkpoint.config.text.max_positions
    beyond = sum(row.get("tokens", 0) > context for row in answers.values())
    setting |= _found(questions.entries, answers, mesh) | {"longer_than_the_context": beyond}
    write_report(folder, scored, setting, results_file=results.name)
    print(scored_text(scored))
    if beyond:
        print(f"Longer than the model's context of {context:,} tokens: {beyond:,} conversations.")
    _tell(folder, results.name, setting)
    return 0


def _comment(args: argparse.Namespace) -> int:
    import json

    import jax

    from livecc_jax.decoding.options import StreamOptions
    from livecc_jax.errors import ConfigError
    from livecc_jax.evaluate.metrics.commentary_score import score_commentary
    from livecc_jax.evaluate.report.report import write_report
    from livecc_jax.evaluate.report.terminal import commentary_text
    from livecc_jax.evaluate.run.commentary import comment_events, read_events
    from livecc_jax.stream.session import StreamModel

    if args.memory is not None and (args.memory < 2 or args.memory % 2):
        raise ConfigError(f"--memory must be an even number of frames, not {args.memory}")
    share = parse_shard(args.share)
    events = read_events(args.data)
    events.events = events.events[: args.limit]
    transcripts = _transcripts(events.annotation)
    possible = bool(transcripts) and args.memory is None
    forcing = possible if args.perplexity is None else args.perplexity
    if forcing and not possible:
        raise ConfigError("--perplexity needs transcripts (event_asr) and does not go with --memory")
    decoding = {
        k: getattr(args, k) for k in ("max_new_tokens", "repetition_penalty", "temperature", "seed")
    }
    own = {"events": len(events.events), "prompting": args.prompting, "memory": args.memory} | decoding
    if forcing:  # a folder begun without is gone on with by --no-perplexity
        own["perplexity"] = True
    folder, setting, checkpoint, budget = _begin(args, events.annotation, own)
    context = checkpoint.config.text.max_positions
    options = StreamOptions(positions=setting["positions"], context=context, **decoding)
    params = checkpoint.load_params(dtype=jax.numpy.dtype(setting["dtype"]))
    model = StreamModel(checkpoint.config, params, checkpoint.open_tokenizer())
    del params  # laid out anew: what they held is free
    asked = comment_events(
        model,
        events,
        folder,
        budget,
        options,
        args.prompting,
        memory=args.memory,
        references=transcripts if forcing else None,
        share=share,
        progress=progress_printer("events"),
    )
    answers = gather_answers(asked, "events", folder, [e.id for e in events.events])
    if answers is None:
        return 0
    results = folder / "predictions.jsonl"
    said = [answers[e.id] for e in events.events if "turns" in answers[e.id]]
    lines = [
        json.dumps({k: v for k, v in row.items() if k != "id"}, ensure_ascii=False) for row in said
    ]
    results.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    setting |= _found(events.entries, answers)
    if said and transcripts:
        scored = score_commentary(results, events.annotation)
        write_report(folder, scored, setting, results_file=results.name)
        print(commentary_text(scored))
    _tell(folder, results.name, setting)
    return 0


def _transcripts(annotation: Path) -> dict[str, Reference]:
    """By event; empty when the annotation has none."""
    import logging

    from livecc_jax.errors import DataError
    from livecc_jax.evaluate.metrics.commentary_score import read_references

    if annotation.suffix != ".json":
        return {}
    try:
        return read_references(annotation)
    except DataError as error:
        logging.getLogger(__name__).warning("commentary is not scored: %s", error)
        return {}


def _begin(
    args: argparse.Namespace, annotation: Path, own: dict[str, Any]
) -> tuple[Path, dict[str, Any], Checkpoint, PixelBudget]:
    """The run folder, begun or gone on with: (folder, settings, checkpoint, budget)."""
    import jax

    from livecc_jax.checkpoints.open import open_checkpoint
    from livecc_jax.evaluate.run.run_folder import file_hash, lock_settings
    from livecc_jax.media.budget import PixelBudget

    checkpoint = open_checkpoint(args.model)
    budget = PixelBudget.parse(args.pixel_budget or "reference")
    setting = {
        "benchmark": args.benchmark,
        "model": str(checkpoint.path),
        "annotation": str(annotation.absolute()),
        "annotation_sha256": file_hash(annotation),
        "positions": args.positions or checkpoint.livecc.positions,
        "pixel_budget": str(budget),
        "dtype": args.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16"),
    }
    folder = Path(args.out)
    lock_settings(folder, setting | own)
    return folder, setting | own, checkpoint, budget


def _found(
    entries: ScoredAnswers, answers: dict[str, dict[str, Any]], mesh: Mesh | None = None
) -> dict[str, Any]:
    """What a report says beside the settings: the devices, and what could not be used."""
    import jax

    failed = [f"{k}: {v['error']}" for k, v in answers.items() if "error" in v]
    return {
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "mesh": {axis: n for axis, n in mesh.shape.items() if n > 1} if mesh else None,
        "processes": jax.process_count(),
        "annotation_problems": {k: v for k, v in entries.problems.items() if v},
        "annotation_notes": entries.notes,
        "could_not_be_asked": len(failed),
        "failures": failed[:20],
    }


def _tell(folder: Path, results: str, setting: dict[str, Any]) -> None:
    if problems := setting["annotation_problems"]:
        print(f"Of the annotation: {', '.join(f'{v:,} {k}' for k, v in problems.items())}.")
    if failed := setting["could_not_be_asked"]:
        print(f"Could not be asked: {failed:,}, the first: {setting['failures'][0]}")
    print(f"written to {folder}: {results}, report.md, report.html, report.json")
