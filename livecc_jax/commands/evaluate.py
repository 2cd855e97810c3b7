"""`livecc evaluate`: a benchmark, from its authors' files to a report.

Multiple choice compares the logits of the options after a fixed answer prefix, as LiveCC's published
numbers do; a video is encoded once for all its questions. livesports-cc streams commentary on each
event, and world on the held-out matches of a synthetic world, whose facts are known. Running the same
command again resumes the run.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from livecc_jax.commands.evaluation_run import open_run, print_summary, run_details, settings_rules
from livecc_jax.commands.media_root import add_media_root_options, media_root
from livecc_jax.commands.options import add_media_options, add_timeline_options
from livecc_jax.commands.processes import gather_answers, local_mesh, parse_shard, progress_printer
from livecc_jax.commands.world_evaluation import add_world_options, evaluate_world
from livecc_jax.writing import write_text

if TYPE_CHECKING:
    from livecc_jax.evaluate.metrics.commentary import Reference

COMMENTARY, WORLD = "livesports-cc", "world"
STREAMED = (COMMENTARY, WORLD)  # commentary; all others are multiple choice
BENCHMARKS = ("videomme", "mvbench", "ovobench", "livesports-qa", *STREAMED)


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declare the command."""
    parser = subparsers.add_parser("evaluate", help="run a benchmark", description=__doc__)
    parser.add_argument(
        "benchmark", choices=BENCHMARKS, metavar="BENCHMARK", help=", ".join(BENCHMARKS)
    )
    parser.add_argument("model", help="checkpoint: HuggingFace directory, run, or step of a run")
    parser.add_argument("--data", required=True, metavar="PATH", help="folder of the benchmark")
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="folder for answers, results and report"
    )
    parser.add_argument("--subtitles", action="store_true", help="Video-MME with subtitles")
    parser.add_argument(
        "--wordings", metavar="FILE", help="OVO-Bench: JSON file with the questions of REC, SSR and CRR"
    )
    add_timeline_options(parser)
    add_media_options(parser, gaps=False)
    add_media_root_options(parser)
    parser.add_argument(
        "--max-frames",
        type=int,
        metavar="N",
        help="maximum number of frames of a video (default 480, as published)",
    )
    parser.add_argument(
        "--last-frames",
        type=int,
        metavar="N",
        help="multiple choice: answer also from the last N frames alone, and print that score beside "
        "the whole video's",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N questions")
    parser.add_argument(
        "--share",
        metavar="I/N",
        help="answer only every N-th video from the I-th (0 to N - 1), for N processes that are not "
        "connected (connected processes divide the videos by themselves)",
    )
    parser.add_argument(
        "--mesh",
        metavar="AXIS=N,...",
        help="shard the model and the videos over the devices of this host; axes are data, fsdp and "
        "tensor, as in data=2,tensor=2; -1 takes the remaining devices (default: one device; multiple "
        "choice only)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="data type of weights and cache (default: float32 on a CPU, bfloat16 elsewhere)",
    )
    group = parser.add_argument_group(", ".join(STREAMED))
    group.add_argument(
        "--prompting",
        choices=("instruct", "base"),
        default="instruct",
        help=f"{COMMENTARY}: default instruct",
    )
    group.add_argument(
        "--max-new-tokens", type=int, default=32, help="maximum tokens of a turn (default 32)"
    )
    group.add_argument(
        "--repetition-penalty", type=float, help=f"default 1.15, as published; {WORLD}: 1"
    )
    group.add_argument("--temperature", type=float, default=0.0, help="default 0, greedy")
    group.add_argument("--seed", type=int, default=0, help="seed of sampling (default 0)")
    group.add_argument(
        "--memory",
        type=int,
        metavar="FRAMES",
        help="a baseline without history: each turn sees only this many latest frames",
    )
    group.add_argument(
        "--perplexity",
        action=argparse.BooleanOptionalAction,
        help="also compute the perplexity of the transcripts under teacher forcing (default: if the "
        "annotation has transcripts and --memory is not given)",
    )
    add_world_options(parser.add_argument_group(WORLD))
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the benchmark, score it and write the report."""
    from livecc_jax.commands.last_frames import check_last_frames
    from livecc_jax.commands.options import fail_fast
    from livecc_jax.errors import ConfigError
    from livecc_jax.parallel.processes import initialize_processes

    if args.limit is not None and args.limit < 1:
        raise ConfigError(f"--limit must be at least 1, not {args.limit}")
    if args.max_frames is not None and args.max_frames < 2:
        raise ConfigError(f"--max-frames must be at least 2, not {args.max_frames}")
    if args.mesh and args.benchmark in STREAMED:
        raise ConfigError(
            f"{args.benchmark} runs on one device a process: --mesh is for multiple choice"
        )
    check_last_frames(args.last_frames)
    if args.last_frames and args.benchmark in STREAMED:
        raise ConfigError("--last-frames is for multiple choice; the same of commentary is --memory")
    initialize_processes()
    with fail_fast("evaluate"):
        kinds = {COMMENTARY: _evaluate_commentary, WORLD: evaluate_world}
        return kinds.get(args.benchmark, _evaluate_choice)(args)


def _evaluate_choice(args: argparse.Namespace) -> int:
    import jax

    from livecc_jax.commands.last_frames import LastFrames
    from livecc_jax.evaluate.benchmarks.annotations import PROMPT_TEMPLATES, read_questions
    from livecc_jax.evaluate.benchmarks.ovobench import read_wordings
    from livecc_jax.evaluate.benchmarks.results_writer import write_results_file
    from livecc_jax.evaluate.metrics.score import score_benchmark
    from livecc_jax.evaluate.report.report import write_report
    from livecc_jax.evaluate.report.terminal import format_score
    from livecc_jax.evaluate.run.choice import ChoiceScorer
    from livecc_jax.evaluate.run.multiple_choice import answer_questions

    shard, mesh = parse_shard(args.share), local_mesh(args.mesh)
    wordings = read_wordings(args.wordings)
    root = media_root(args)
    question_set = read_questions(args.benchmark, args.data, args.subtitles, wordings, root)
    question_set.questions = question_set.questions[: args.limit]
    prompt_template = PROMPT_TEMPLATES[args.benchmark]
    choice_settings = {
        "questions": len(question_set.questions),
        "max_frames": args.max_frames or 480,
        "subtitles": args.subtitles,
        "answer_prefix": prompt_template.answer_prefix,
        "wordings": wordings or ("ours" if args.benchmark == "ovobench" else None),
    }
    folder, settings, checkpoint, budget = open_run(args, question_set.annotation, choice_settings)
    params = checkpoint.load_params(dtype=jax.numpy.dtype(settings["dtype"]))
    scorer = ChoiceScorer(
        checkpoint.config,
        params,
        checkpoint.open_tokenizer(),
        settings["positions"],
        prompt_template,
        mesh=mesh,
    )
    del params  # the scorer has its own copy on the devices
    options = {
        "shard": shard,
        "max_frames": args.max_frames,
        "rules": settings_rules(settings, folder),
    }
    last_frames = None
    if args.last_frames:
        last_frames = LastFrames(question_set, folder, settings, args.last_frames)
        last_frames.answer(scorer, budget, **options)
    with progress_printer("questions") as printer:
        progress = answer_questions(
            scorer, question_set, folder, budget, on_progress=printer, **options
        )
    ids = [q.id for q in question_set.questions]
    answers = gather_answers(progress, "questions", folder, ids)
    if answers is None:
        return 0
    results = folder / "results.json"
    write_results_file(args.benchmark, question_set, answers, results)
    expected = len(ids) if args.limit or args.benchmark == "ovobench" else None
    scored = score_benchmark(args.benchmark, results, expected=expected)
    context = checkpoint.config.text.max_positions
    longer = sum(answer.get("tokens", 0) > context for answer in answers.values())
    settings |= run_details(question_set.problem_log, answers, mesh)
    settings |= {"longer_than_the_context": longer}
    print(format_score(scored))
    comparison = last_frames and last_frames.compare(scored)
    named = (comparison, last_frames.name) if last_frames and comparison else None
    sources = {question.id: question.source for question in question_set.questions}
    write_report(folder, scored, settings, named, results_file=results.name, sources=sources)
    if longer:
        print(f"Longer than the model's context of {context:,} tokens: {longer:,} conversations.")
    print_summary(folder, results.name, settings)
    return 0


def _evaluate_commentary(args: argparse.Namespace) -> int:
    import json

    import jax

    from livecc_jax.decoding.options import StreamOptions
    from livecc_jax.errors import ConfigError
    from livecc_jax.evaluate.benchmarks.livesports_cc import read_events
    from livecc_jax.evaluate.metrics.commentary_score import score_commentary
    from livecc_jax.evaluate.report.report import write_report
    from livecc_jax.evaluate.report.terminal import format_commentary
    from livecc_jax.evaluate.run.commentary import comment_events
    from livecc_jax.stream.model import StreamModel

    if args.memory is not None and (args.memory < 2 or args.memory % 2):
        raise ConfigError(f"--memory must be an even number of frames, not {args.memory}")
    shard = parse_shard(args.share)
    root = media_root(args)
    event_set = read_events(args.data, root)
    event_set.events = event_set.events[: args.limit]
    transcripts = _read_transcripts(event_set.annotation)
    can_teacher_force = bool(transcripts) and args.memory is None
    teacher_forces = can_teacher_force if args.perplexity is None else args.perplexity
    if teacher_forces and not can_teacher_force:
        raise ConfigError("--perplexity needs transcripts (event_asr) and does not go with --memory")
    decoding = {
        "max_new_tokens": args.max_new_tokens,
        "repetition_penalty": 1.15 if args.repetition_penalty is None else args.repetition_penalty,
        "temperature": args.temperature,
        "seed": args.seed,
    }
    commentary_settings = {
        "events": len(event_set.events),
        "prompting": args.prompting,
        "memory": args.memory,
    } | decoding
    if teacher_forces:  # absent otherwise, so that older run folders resume with --no-perplexity
        commentary_settings["perplexity"] = True
    folder, settings, checkpoint, budget = open_run(args, event_set.annotation, commentary_settings)
    context = checkpoint.config.text.max_positions
    options = StreamOptions(positions=settings["positions"], context=context, **decoding)
    params = checkpoint.load_params(dtype=jax.numpy.dtype(settings["dtype"]))
    model = StreamModel(checkpoint.config, params, checkpoint.open_tokenizer())
    del params  # the model has prepared its own copy
    with progress_printer("events") as printer:
        progress = comment_events(
            model,
            event_set,
            folder,
            budget,
            options,
            args.prompting,
            memory_frames=args.memory,
            references=transcripts if teacher_forces else None,
            shard=shard,
            on_progress=printer,
            rules=settings_rules(settings, folder),
        )
    answers = gather_answers(progress, "events", folder, [e.id for e in event_set.events])
    if answers is None:
        return 0
    results = folder / "predictions.jsonl"
    predictions = [answers[e.id] for e in event_set.events if "turns" in answers[e.id]]
    lines = [
        json.dumps({k: v for k, v in prediction.items() if k != "id"}, ensure_ascii=False)
        for prediction in predictions
    ]
    write_text(results, "".join(line + "\n" for line in lines))
    settings |= run_details(event_set.problem_log, answers)
    if predictions and transcripts:
        scored = score_commentary(results, event_set.annotation, media_root=root)
        write_report(folder, scored, settings, results_file=results.name)
        print(format_commentary(scored))
    print_summary(folder, results.name, settings)
    return 0


def _read_transcripts(annotation: Path) -> dict[str, Reference]:
    """Returns the transcripts by event; empty if the annotation has none."""
    import logging

    from livecc_jax.errors import DataError
    from livecc_jax.evaluate.metrics.references import read_references

    if annotation.suffix != ".json":
        return {}
    try:
        return read_references(annotation)
    except DataError as error:
        logging.getLogger(__name__).warning("commentary is not scored: %s", error)
        return {}
