"""`livecc index`: reads annotations and timestamps of their videos once, for packing."""

from __future__ import annotations

import argparse
import os
import sys

from livecc_jax.commands.media_root import add_media_root_options, media_root
from livecc_jax.commands.options import add_media_options, add_tokenizer_options, media_rules

MAX_REASONS_SHOWN = 12


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declares the command."""
    parser = subparsers.add_parser(
        "index", help="index annotation files for training", description=__doc__
    )
    parser.add_argument(
        "annotations",
        nargs="+",
        help="JSONL annotation files, local or in a bucket (gs://...), or datasets",
    )
    parser.add_argument("--out", required=True, help="directory of the index, which is created")
    add_tokenizer_options(parser)
    parser.add_argument(
        "--pixel-budget",
        metavar="reference|TOKENS",
        help="maximum vision tokens of a frame pair, or `reference` (default: the model's, else 384)",
    )
    parser.add_argument(
        "--no-context",
        action="store_true",
        help="show neither title nor previous commentary (as the released script does)",
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
        help="put all words of a clip after all its frames, instead of second by second",
    )
    parser.add_argument(
        "--silent-tail",
        type=int,
        default=0,
        metavar="K",
        help="keep up to K silent seconds at the end of a streaming clip, so that a model learns to "
        "stay silent there (default 0, as published)",
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
        help="root of relative paths in the index (default: the folder that contains all annotations)",
    )
    parser.add_argument(
        "--timestamps",
        default="",
        metavar="FILE",
        help="keep timestamps of videos in this file, for other indexes",
    )
    parser.add_argument(
        "--cache",
        default="",
        metavar="DIR",
        help="folder for copies of videos in buckets (default: ~/.cache)",
    )
    parser.add_argument(
        "--cache-gb",
        type=float,
        default=50.0,
        metavar="GB",
        help="maximum size of the cache (default 50)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="worker processes; 0 works in this process (default: one for each core)",
    )
    add_media_options(parser)
    add_media_root_options(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing index")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Builds the index, with progress on a terminal, and prints a summary."""
    from livecc_jax.commands.console import progress_bar
    from livecc_jax.commands.options import resolve_timeline_settings
    from livecc_jax.data.index.build import build_index
    from livecc_jax.timeline.turns import MAX_BACKWARD_US

    settings = resolve_timeline_settings(args)
    tokenizer, budget = settings.tokenizer, settings.budget
    with progress_bar(sys.stderr, "examples") as progress:
        index = build_index(
            args.annotations,
            args.out,
            tokenizer,
            budget,
            family=settings.family,
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
            rules=media_rules(args),
            media_root=media_root(args),
            silent_tail=args.silent_tail,
        )
    tokens, targets, windows = (
        (int(c.sum()), int(c.max())) for c in (index.tokens, index.targets, index.windows)
    )
    kinds = ", ".join(f"{n} {kind}" for kind, n in index.kind_counts.items())
    slices = f", {index.num_slices} of them slices of longer clips" if index.num_slices else ""
    print(f"{args.out}: {len(index)} examples ({kinds}) at pixel budget {budget}{slices}")
    print(f"  tokens  {tokens[0]} in total, at most {tokens[1]} an example")
    print(f"  targets {targets[0]} in total, at most {targets[1]} an example")
    print(f"  windows {windows[0]} of {index.window} patches, at most {windows[1]} an example")
    if index.reordered["words"]:
        print(
            f"  words put in order: {index.reordered['words']} in {index.reordered['conversations']} "
            f"conversations (they ran backwards by less than {MAX_BACKWARD_US / 1e6:g} s)"
        )
    if index.rejected:
        print(f"  rejected: {sum(index.rejected.values())}, each in {args.out}/rejected.jsonl:")
        for reason, n in list(index.reasons.items())[:MAX_REASONS_SHOWN]:
            print(f"    {n:>8}  {reason}")
    return 0
