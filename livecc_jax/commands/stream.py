"""`livecc stream`: comment on a video file, a camera or a network stream while watching it."""

from __future__ import annotations

import argparse
import math

from livecc_jax.commands.options import (
    add_cache_precision,
    add_decoding_options,
    add_device_options,
    add_span_options,
    add_timeline_options,
    check_span,
    decoding_options,
    load_stream_model,
)


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declare the command."""
    parser = subparsers.add_parser("stream", help="comment on a video", description=__doc__)
    parser.add_argument("model", help="checkpoint: HuggingFace directory, run, or step of a run")
    parser.add_argument("source", help="video file, camera number, or rtsp:// or http:// address")
    parser.add_argument("--query", default="", help="what to do, in words")
    parser.add_argument("--title", default="", help="title of the video")
    parser.add_argument("--previous", default="", help="commentary that came before")
    add_span_options(parser)
    add_timeline_options(parser)
    parser.add_argument(
        "--cache",
        choices=("full", "rolling"),
        default="full",
        help="what the context keeps: everything, until it is full, or the first turn, the latest "
        "turns and the words between, for streams without an end (default: full)",
    )
    parser.add_argument(
        "--pace",
        choices=("fast", "own"),
        default="fast",
        help="of a file: as fast as it is decoded, or as if it were live (default: fast)",
    )
    add_decoding_options(parser)
    add_cache_precision(parser, "a rolling cache")
    add_device_options(parser)
    parser.add_argument(
        "--warm-up", action="store_true", help="compile before the first turn rather than during it"
    )
    parser.add_argument(
        "--ask",
        action="append",
        default=[],
        metavar="S:QUESTION",
        help="once the source has been seen up to second S, ask this; repeat for more",
    )
    for name in ("jsonl", "vtt", "srt"):
        parser.add_argument(f"--{name}", metavar="OUT", help=f"also write {name} as it happens")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Stream to the terminal and to the files asked for."""
    import itertools

    import numpy as np

    from livecc_jax.checkpoints.open import open_checkpoint
    from livecc_jax.errors import ConfigError
    from livecc_jax.media.budget import PixelBudget
    from livecc_jax.media.ingest import is_live, turns
    from livecc_jax.serving.commentary import comment
    from livecc_jax.serving.sinks import JsonLines, Srt, WebVtt
    from livecc_jax.stream.rolling import RollingSession
    from livecc_jax.stream.session import Answer, Session
    from livecc_jax.timeline.example import microseconds
    from livecc_jax.timeline.turns import stream_prompt

    check_span(args)
    if args.cache_precision != "weights" and args.cache != "rolling":
        raise ConfigError(f"--cache-precision {args.cache_precision} needs --cache rolling")
    checkpoint = open_checkpoint(args.model)
    options = decoding_options(args, checkpoint)
    asked = questions(args.ask)
    budget = PixelBudget.parse(args.pixel_budget or checkpoint.livecc.pixel_budget)
    # Opened before the weights are loaded: a source that cannot be read should be said at once.
    watched = turns(args.source, budget, start=args.start, end=args.end, pace=args.pace)
    first = next(watched, None)
    model = load_stream_model(args, checkpoint)
    prompt = stream_prompt(args.query, args.title, args.previous)
    offset = microseconds(args.start or 0.0)
    if args.cache == "rolling":
        session = RollingSession(model, options, prompt, offset, cache_precision=args.cache_precision)
    else:
        session = Session(model, options, prompt, offset)
    if args.warm_up and first:
        session.warm_up(first.frames.shape[1:3])
    kinds = {JsonLines: args.jsonl, WebVtt: args.vtt, Srt: args.srt}
    sinks = [kind(path) for kind, path in kinds.items() if path]

    latencies = []
    frames = itertools.chain([first] if first else [], watched)
    ahead = args.pace == "fast" and not is_live(args.source)
    for spoken in comment(session, frames, sinks, asked, ahead=ahead):
        if isinstance(spoken, Answer):
            print(f"{spoken.at:7.1f} ? {spoken.question}\n        > {spoken.text.strip()}", flush=True)
            continue
        print(f"{spoken.start:7.1f} - {spoken.stop:<7.1f} {spoken.words or '...'}", flush=True)
        latencies.append(spoken.latency)
    if len(latencies) > 2:
        ms = 1000 * np.array(latencies[2:])  # the first two turns may compile
        print(
            f"{len(latencies)} turns; after the first two, {np.median(ms):.0f} ms a turn "
            f"(median), {ms.max():.0f} ms at most" + ", their frames seen ahead" * ahead
        )
    return 0


def questions(texts: list[str]) -> list[tuple[float, str]]:
    """`--ask 12:what?` as (12.0, "what?"). Raises ConfigError for anything else."""
    from livecc_jax.errors import ConfigError

    found = []
    for text in texts:
        at, _, question = text.partition(":")
        try:
            found.append((float(at), question.strip()))
        except ValueError:
            found.append((math.nan, ""))
        if not math.isfinite(found[-1][0]) or not question.strip():
            raise ConfigError(f"--ask {text!r} is not of the form SECONDS:QUESTION")
    return found
