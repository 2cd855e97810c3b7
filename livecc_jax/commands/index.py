"""`livecc index`: read annotations and their videos' timestamps once, for packing."""

from __future__ import annotations

import argparse
import os
import sys
import time

from livecc_jax.commands.options import add_tokenizer_options

REASONS_SHOWN = 12


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "index", help="index annotation files for training", description=__doc__
    )
    parser.add_argument(
        "annotations",
        nargs="+",
        help="JSONL annotation files, local or in a bucket (gs://...), or datasets",
    )
    parser.add_argument("--out", required=True, help="directory to make")
    add_tokenizer_options(parser)
    parser.add_argument(
        "--pixel-budget",
        metavar="reference|TOKENS",
        help="most vision tokens a frame pair, or `reference` (default: the model's, else 384)",
    )
    parser.add_argument(
        "--no-context",
        action="store_true",
        help="show neither title nor previous commentary (the released script's setting)",
    )
    parser.add_argument(
        "--row-tokens",
        type=int,
        default=32768,
        metavar="T",
        help="tokens of a training row: longer streaming clips are split at turn boundaries "
        "(default 32768)",
    )
    parser.add_argument(
        "--caption",
        action="store_true",
        help="say all words of a clip after all its frames, instead of second by second",
    )
    parser.add_argument(
        "--provisional",
        action="store_true",
        help="believe annotations that give a file's duration and size, and do not open the file",
    )
    parser.add_argument(
        "--root",
        default="",
        metavar="DIR",
        help="what paths in the index are relative to (default: the folder of all annotations)",
    )
    parser.add_argument(
        "--timestamps",
        default="",
        metavar="FILE",
        help="keep videos' timestamps here for other indexes",
    )
    parser.add_argument(
        "--cache", default="", metavar="DIR", help="for copies of videos in buckets (default: ~/.cache)"
    )
    parser.add_argument(
        "--cache-gb", type=float, default=50.0, metavar="GB", help="most it may hold (default 50)"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes; 0 plans in this one (default: as many as there are cores)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an index that is there")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Index, with progress on a terminal and a summary."""
    from livecc_jax.commands.options import timeline_settings
    from livecc_jax.data.index.build import build_index

    tokenizer, budget, _ = timeline_settings(args)
    began = time.perf_counter()
    before: int | None = None

    def progress(done: int, total: int) -> None:
        nonlocal before
        before = done if before is None else before  # what an earlier build did is no speed
        if sys.stderr.isatty():
            rate = (done - before) / (time.perf_counter() - began)
            left = f", {(total - done) / rate / 60:.0f} min left" if rate else ""
            print(
                f"\r{done}/{total} examples, {rate:.0f}/s{left}  ", end="", file=sys.stderr, flush=True
            )

    index = build_index(
        args.annotations,
        args.out,
        tokenizer,
        budget,
        context=not args.no_context,
        row_tokens=args.row_tokens,
        form="caption" if args.caption else "stream",
        provisional=args.provisional,
        root=args.root,
        timestamps=args.timestamps,
        cache=args.cache,
        cache_gb=args.cache_gb,
        workers=args.workers,
        overwrite=args.overwrite,
        progress=progress,
    )
    if sys.stderr.isatty():
        print(file=sys.stderr)
    tokens, targets, windows = (
        (int(c.sum()), int(c.max())) for c in (index.tokens, index.targets, index.windows)
    )
    kinds = ", ".join(f"{n} {kind}" for kind, n in index.kinds.items())
    pieces = f", {index.pieces} of them pieces of longer clips" if index.pieces else ""
    print(f"{args.out}: {len(index)} examples ({kinds}) at pixel budget {budget}{pieces}")
    print(f"  tokens  {tokens[0]} in all, the longest example {tokens[1]}")
    print(f"  targets {targets[0]} in all, at most {targets[1]} an example")
    print(f"  windows {windows[0]} of {index.window} patches, at most {windows[1]} an example")
    if index.rejected:
        print(f"  rejected: {sum(index.rejected.values())}, each in {args.out}/rejected.jsonl:")
        for reason, n in list(index.reasons.items())[:REASONS_SHOWN]:
            print(f"    {n:>8}  {reason}")
    return 0
