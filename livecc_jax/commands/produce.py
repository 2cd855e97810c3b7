"""`livecc produce`: makes training clips of videos and their captions."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from livecc_jax.produce.parameters import Parameters

KINDS = ("pretrain", "sft")
MAX_SHARDS = 10_000


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declares the command."""
    parser = subparsers.add_parser(
        "produce", help="make training clips of videos and their captions", description=__doc__
    )
    parser.add_argument(
        "kind",
        choices=KINDS,
        help="`pretrain`: clips with what was said before; `sft`: clips that begin with a sentence",
    )
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCES",
        help="folders as yt-dlp leaves them, JSON lists (.jsonl), videos, globs, or addresses of these",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="directory of the results")
    add_parameter_options(parser)
    add_line_options(parser)
    parser.add_argument(
        "--to",
        choices=("jsonl", "tfds"),
        default="jsonl",
        help="annotations.jsonl alone, or a tensorflow-datasets dataset too (default jsonl)",
    )
    parser.add_argument(
        "--frames",
        metavar="reference|TOKENS",
        help="with --to tfds: store the clips' frames at this pixel budget",
    )
    parser.set_defaults(run=run)


def add_line_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `runner` reads."""
    group = parser.add_argument_group("where it runs")
    group.add_argument("--workers", type=int, metavar="N", help="processes (default: one a core)")
    group.add_argument(
        "--model-workers",
        type=int,
        default=1,
        metavar="N",
        help="processes of stages whose model is on this machine (default 1: it takes all cores, or "
        "the accelerator)",
    )
    group.add_argument(
        "--runner",
        metavar="NAME",
        help="run on Apache Beam: FnApiRunner (this machine), PortableRunner, DataflowRunner, "
        "FlinkRunner, SparkRunner; DIR must then be on a file system that all workers share",
    )
    group.add_argument(
        "--beam",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of Beam, such as job_endpoint=localhost:8099; may be repeated",
    )
    group.add_argument(
        "--exchange",
        default="",
        metavar="ADDRESS",
        help="with --runner: a folder such as gs://bucket/produce through which files go to workers "
        "and back, where they do not share DIR",
    )
    group.add_argument(
        "--shards", type=int, default=0, metavar="N", help="shards (default: by the number of sources)"
    )
    group.add_argument(
        "--estimate",
        type=int,
        default=0,
        metavar="VIDEOS",
        help="say what so many videos would take, from what this run measured",
    )
    group.add_argument(
        "--cores", type=int, default=64, metavar="N", help="cores of that estimate (default 64)"
    )
    group.add_argument(
        "--accelerators",
        type=int,
        default=0,
        metavar="M",
        help="accelerators of that estimate, like the one that was measured (default 0)",
    )
    group.add_argument(
        "--timeout",
        type=float,
        default=300,
        metavar="S",
        help="seconds after which a source that is stuck is rejected (default 300)",
    )
    group.add_argument(
        "--model-timeout",
        type=float,
        default=3600,
        metavar="S",
        help="the same where a model runs (default 3600)",
    )
    group.add_argument(
        "--memory",
        type=float,
        default=8,
        metavar="GB",
        help="memory beyond which a worker without a model is ended and its source rejected; 0 for "
        "no limit (default 8)",
    )


def add_parameter_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `parameters` reads."""
    group = parser.add_argument_group("what is kept (defaults: the published numbers)")
    group.add_argument(
        "--filters",
        metavar="none|NAME,...",
        help="filters to run, or `none`; cutting always runs (default: all that need no model, and "
        "those whose model is named)",
    )
    group.add_argument(
        "--trailing-silence",
        type=float,
        default=0.0,
        metavar="S",
        help="show up to S seconds of silence after a clip's last word, never past the next word",
    )
    group.add_argument("--language", metavar="CODE", help="language of the words (default en)")
    group.add_argument(
        "--opt-out",
        action="append",
        default=[],
        metavar="FILE",
        help="ids, channels or addresses that must not be used, one a line; may be repeated",
    )
    group.add_argument(
        "--text-model", metavar="MODEL", help="checkpoint that computes the loss of the words"
    )
    group.add_argument(
        "--face-model",
        metavar="MODEL",
        help="checkpoint, ONNX file or plug-in that finds talking heads",
    )
    group.add_argument(
        "--prompt-model", metavar="MODEL", help="checkpoint or http address of a chat model for queries"
    )
    group.add_argument(
        "--price-in",
        type=float,
        default=0.0,
        metavar="P",
        help="price of a million tokens that --prompt-model takes, for the report",
    )
    group.add_argument(
        "--price-out",
        type=float,
        default=0.0,
        metavar="P",
        help="price of a million tokens that it writes",
    )
    group.add_argument(
        "--speech-model",
        metavar="MODEL",
        help="faster-whisper model for videos without words and captions",
    )
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="another value of a parameter, such as max_silence_ms=2000; docs/produce.md lists them",
    )


def parameters(args: argparse.Namespace) -> Parameters:
    """Returns the parameters that the options choose. Raises ConfigError."""
    import dataclasses

    from livecc_jax.errors import ConfigError
    from livecc_jax.produce.parameters import PUBLISHED, parse_value
    from livecc_jax.produce.stages.select import read_opt_outs

    changes: dict[str, Any] = {}
    for text in args.set:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--set takes NAME=VALUE, not {text!r}")
        changes[name] = parse_value(name, value)
    if not 0 <= args.trailing_silence <= 3600:  # also true of nan
        raise ConfigError(
            f"--trailing-silence must be 0 to 3600 seconds, not {args.trailing_silence:g}"
        )
    if args.trailing_silence:
        changes["trailing_silence_ms"] = round(args.trailing_silence * 1000)
    for name in ("text_model", "face_model", "prompt_model", "speech_model"):
        if getattr(args, name):
            changes[name] = getattr(args, name)
    if args.language:
        changes |= {"language": args.language, "caption_language": args.language}
    if args.opt_out:
        changes["opt_out"] = tuple(sorted({x for path in args.opt_out for x in read_opt_outs(path)}))
    chosen = dataclasses.replace(PUBLISHED[args.kind], **changes)
    if args.filters is None:
        return chosen
    names = [name.strip() for name in args.filters.split(",") if name.strip()]
    if "none" in names and len(names) > 1:
        raise ConfigError(f"--filters takes none or names of filters, not {args.filters!r}")
    return chosen.with_filters(() if names == ["none"] else names)


def run(args: argparse.Namespace) -> int:
    """Produces the clips, and prints what was kept and what was dropped for which reason."""
    import os
    from collections import Counter

    from livecc_jax.commands.produce_progress import ProduceProgress
    from livecc_jax.errors import ConfigError
    from livecc_jax.produce.line.run import produce
    from livecc_jax.produce.report.page import write_report
    from livecc_jax.produce.sources.listing import list_sources

    if args.frames and args.to != "tfds":
        raise ConfigError("--frames goes with --to tfds")
    chosen = parameters(args)
    with ProduceProgress() as progress:
        produced = produce(
            list_sources(args.sources),
            args.out,
            chosen,
            runner(args),
            shards=args.shards,
            report=progress.report,
            say=progress.say,
        )
        progress.say("writing the report")
        data = write_report(produced, prices=(args.price_in, args.price_out))
    target = os.path.join(args.out, "annotations.jsonl")
    count = produced.statistics.clips
    print(f"{target}: {count} clips")
    by_reason = Counter({(r["stage"], r["reason"]): r["count"] for r in data["reasons"]})
    print_reasons(by_reason, os.path.join(args.out, "rejected.jsonl"))
    for row in data["not_run"]:
        if row["published"]:
            print(f"  the published filter {row['filter']} did not run: {row['reason']}")
    if data["prompt_tokens"]["in"]:
        tokens = data["prompt_tokens"]
        paid = f", at a price of {tokens['price']:,.2f}" if tokens["price"] else ""
        print(f"  prompts: {tokens['in']:,} tokens asked, {tokens['out']:,} answered{paid}")
    if args.estimate:
        from livecc_jax.produce.report.estimate import estimate, summary

        rows = estimate(data, args.estimate, args.cores, args.accelerators)
        for sentence in summary(rows, args.estimate, args.cores, args.accelerators):
            print(f"  {sentence}")
    for sentence in data["advice"]:
        print(f"  {sentence}")
    print(f"  {os.path.join(args.out, 'report.html')}")
    if args.to == "tfds" and count:
        write_tfds(target, args.out, args.frames)
    return 0


def runner(args: argparse.Namespace) -> Any:
    """Returns where the phases run. Raises ConfigError."""
    import os

    from livecc_jax.errors import ConfigError
    from livecc_jax.produce.line.limits import Limits
    from livecc_jax.produce.line.local import LocalPool

    workers = args.workers or max(1, os.cpu_count() or 1)
    if args.model_workers < 1:
        raise ConfigError("--model-workers must be at least 1")
    if workers < 1 or args.shards < 0 or args.shards > MAX_SHARDS:
        raise ConfigError(f"--workers must be at least 1, and --shards 1 to {MAX_SHARDS:,}")
    if args.estimate < 0 or args.cores < 1 or args.accelerators < 0:
        raise ConfigError("--cores must be at least 1, --estimate and --accelerators not below 0")
    if args.timeout <= 0 or args.model_timeout <= 0 or args.memory < 0:
        raise ConfigError("--timeout and --model-timeout must be above 0, and --memory not below")
    limits = Limits(args.timeout, args.model_timeout, args.memory)
    if args.runner is None:
        if args.beam or args.exchange:
            raise ConfigError("--beam and --exchange go with --runner, such as --runner FnApiRunner")
        return LocalPool(workers, limits, args.model_workers)
    from livecc_jax.produce.line.beam import BeamRunner

    return BeamRunner(args.runner, tuple(args.beam), workers, limits, args.exchange)


def print_reasons(reasons: Any, path: str, most: int = 15) -> None:
    """Prints how many sources and stretches were dropped, for which reasons."""
    from livecc_jax.redact import displayable

    if not reasons:
        return
    print(f"  dropped: {sum(reasons.values())}, each in {path}:")
    for (stage, reason), number in reasons.most_common(most):
        print(f"    {number:>8}  {stage}: {displayable(reason)}")


def write_tfds(annotations: str, out: str, frames: str | None) -> None:
    """Writes the annotations as a tensorflow-datasets dataset beside them."""
    from livecc_jax.data.examples.tfds_builder import StoredFrameOptions, write_dataset
    from livecc_jax.media.budget import PixelBudget

    options = StoredFrameOptions(PixelBudget.parse(frames)) if frames else None
    folder, left_out = write_dataset([annotations], out, frames=options)
    for file, line, reason in left_out:
        print(f"  left out of the dataset: {file} line {line}: {reason}")
    print(f"{folder}: index it with `livecc index {folder} --out INDEX ...`")
