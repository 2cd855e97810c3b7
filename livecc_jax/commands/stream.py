"""`livecc stream`: comment on a video file, a camera or a network stream while watching it."""

from __future__ import annotations

import argparse
import math

from livecc_jax.commands.options import (
    add_cache_precision_option,
    add_decoding_options,
    add_device_options,
    add_media_options,
    add_span_options,
    add_timeline_options,
    check_span,
    decoding_options,
    media_rules,
    open_command_model,
)


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser("stream", help="comment on a video", description=__doc__)
    parser.add_argument("model", help="checkpoint: HuggingFace directory, run, or step of a run")
    parser.add_argument(
        "source", help="video file, camera number (0 or camera:0), or rtsp:// or http:// address"
    )
    parser.add_argument("--query", default="", help="what to do, in words")
    parser.add_argument("--title", default="", help="title of the video")
    parser.add_argument("--previous", default="", help="commentary that came before")
    add_span_options(parser)
    add_timeline_options(parser)
    add_media_options(parser)
    parser.add_argument(
        "--cache",
        choices=("full", "rolling"),
        default="full",
        help="what stays in the context: everything, until it is full, or the first turn, the latest "
        "turns and the words between them, for streams of any length (default: full)",
    )
    parser.add_argument(
        "--pace",
        choices=("fast", "own"),
        default="fast",
        help="how a file is read: as fast as it is decoded, or as if it were live (default: fast)",
    )
    add_decoding_options(parser)
    add_cache_precision_option(parser, "a rolling cache")
    add_device_options(parser)
    parser.add_argument(
        "--warm-up", action="store_true", help="compile before the first turn rather than during it"
    )
    parser.add_argument(
        "--ask",
        action="append",
        default=[],
        metavar="S:QUESTION",
        help="ask this once the source was shown up to second S; repeat for more",
    )
    for name in ("jsonl", "vtt", "srt"):
        parser.add_argument(f"--{name}", metavar="OUT", help=f"also write {name} as it happens")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Streams to the terminal and to the requested files."""
    import numpy as np

    from livecc_jax.api.comments import comment, reads_ahead
    from livecc_jax.errors import ConfigError
    from livecc_jax.stream.turn import Answer

    check_span(args)
    if args.cache_precision != "weights" and args.cache != "rolling":
        raise ConfigError(f"--cache-precision {args.cache_precision} needs --cache rolling")
    results = comment(
        open_command_model(args),
        args.source,
        query=args.query,
        title=args.title,
        previous=args.previous,
        start=args.start,
        end=args.end,
        questions=parse_questions(args.ask),
        jsonl=args.jsonl,
        vtt=args.vtt,
        srt=args.srt,
        cache=args.cache,
        cache_precision=args.cache_precision,
        pace=args.pace,
        pixel_budget=args.pixel_budget,
        rules=media_rules(args),
        warm_up=args.warm_up,
        **decoding_options(args),
    )
    latencies = []
    for result in results:
        if isinstance(result, Answer):
            print(f"{result.at:7.1f} ? {result.question}\n        > {result.text.strip()}", flush=True)
            continue
        print(f"{result.start:7.1f} - {result.stop:<7.1f} {result.words or '...'}", flush=True)
        latencies.append(result.latency)
    if len(latencies) > 2:
        ms = 1000 * np.array(latencies[2:])  # the first two turns may compile
        print(
            f"{len(latencies)} turns; after the first two, {np.median(ms):.0f} ms a turn "
            f"(median), {ms.max():.0f} ms at most"
            + ", with prefetched frames"
            * reads_ahead(args.source, args.pace)
        )
    return 0


def parse_questions(texts: list[str]) -> list[tuple[float, str]]:
    """Returns `--ask 12:what?` as (12.0, "what?"). Raises ConfigError for any other form."""
    from livecc_jax.errors import ConfigError

    questions = []
    for text in texts:
        seconds, _, question = text.partition(":")
        try:
            at = float(seconds)
        except ValueError:
            at = math.nan
        if not math.isfinite(at) or not question.strip():
            raise ConfigError(f"--ask {text!r} is not of the form SECONDS:QUESTION")
        questions.append((at, question.strip()))
    return questions
