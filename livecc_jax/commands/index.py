"""`livecc index`: read annotations and their videos' timestamps once, for packing."""

from __future__ import annotations

import argparse
import sys
import time

from livecc_jax.commands.options import add_tokenizer_options


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "index", help="index annotation files for training", description=__doc__
    )
    parser.add_argument("annotations", nargs="+", help="JSONL annotation files")
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
    parser.add_argument("--overwrite", action="store_true", help="replace an index that is there")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Index, with progress on a terminal and a summary."""
    from livecc_jax.commands.options import timeline_settings
    from livecc_jax.data.index import build_index

    tokenizer, budget, _ = timeline_settings(args)
    began = time.perf_counter()

    def progress(done: int, total: int) -> None:
        if sys.stderr.isatty():
            rate = done / (time.perf_counter() - began)
            print(f"\r{done}/{total} examples, {rate:.0f}/s", end="", file=sys.stderr, flush=True)

    index = build_index(
        args.annotations,
        args.out,
        tokenizer,
        budget,
        context=not args.no_context,
        row_tokens=args.row_tokens,
        overwrite=args.overwrite,
        progress=progress,
    )
    if sys.stderr.isatty():
        print(file=sys.stderr)
    tokens, targets, windows = (
        (int(c.sum()), int(c.max())) for c in (index.tokens, index.targets, index.windows)
    )
    pieces = f", {index.pieces} of them pieces of longer clips" if index.pieces else ""
    print(f"{args.out}: {len(index)} examples at pixel budget {budget}{pieces}")
    print(f"  tokens  {tokens[0]} in all, the longest example {tokens[1]}")
    print(f"  targets {targets[0]} in all, at most {targets[1]} an example")
    print(f"  windows {windows[0]} of {index.window} patches, at most {windows[1]} an example")
    if index.rejected:
        counts = ", ".join(f"{n} {kind}" for kind, n in sorted(index.rejected.items()))
        print(f"  rejected: {counts}; each with its reason in {args.out}/rejected.jsonl")
    return 0
