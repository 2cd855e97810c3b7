"""`livecc dataset`: writes annotation files as a tensorflow-datasets dataset."""

from __future__ import annotations

import argparse
import sys

from livecc_jax.commands.media_root import add_media_root_options, media_root
from livecc_jax.commands.options import add_media_options, media_rules


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declares the command."""
    parser = subparsers.add_parser(
        "dataset", help="make a tensorflow-datasets dataset (ArrayRecord)", description=__doc__
    )
    parser.add_argument("annotations", nargs="+", help="JSONL annotation files")
    parser.add_argument("--out", required=True, help="tensorflow-datasets' data directory")
    parser.add_argument("--split", default="train", help="name of the split (default train)")
    parser.add_argument(
        "--frames",
        metavar="reference|TOKENS",
        help="store streaming clips' sampled frames at this pixel budget, so that training does not "
        "touch the videos",
    )
    parser.add_argument(
        "--quality",
        type=int,
        default=90,
        metavar="Q",
        help="JPEG quality of the frames, 1 to 100 (default 90)",
    )
    add_media_options(parser)
    add_media_root_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Writes the dataset, and prints what was left out and how to index it."""
    from livecc_jax.commands.console import progress_bar
    from livecc_jax.data.examples.tfds_builder import StoredFrameOptions, write_dataset
    from livecc_jax.errors import ConfigError
    from livecc_jax.media.budget import PixelBudget
    from livecc_jax.media.rules import DEFAULT
    from livecc_jax.writing import format_bytes

    if not 1 <= args.quality <= 100:
        raise ConfigError(f"--quality must be between 1 and 100, not {args.quality}")
    rules, frames = media_rules(args), None
    if args.frames:
        frames = StoredFrameOptions(PixelBudget.parse(args.frames), args.quality, rules)
    elif rules != DEFAULT:
        raise ConfigError("--video-track, --pixel-aspect and --gap-picture apply to --frames alone")

    with progress_bar(sys.stderr, "conversations") as progress:
        folder, rejected = write_dataset(
            args.annotations,
            args.out,
            split=args.split,
            frames=frames,
            media_root=media_root(args),
            on_progress=progress,
        )
    for file, line, reason in rejected:
        print(f"left out: {file} line {line}: {reason}", file=sys.stderr)
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{folder}: {format_bytes(size)}; index it with `livecc index {folder} --out INDEX ...`")
    return 0
