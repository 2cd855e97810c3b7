"""`livecc inspect`: shows what the model sees of one example, or of one packed row of an index."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from livecc_jax.commands.media_root import add_media_root_options, media_root
from livecc_jax.commands.options import (
    add_media_options,
    add_timeline_options,
    add_tokenizer_options,
    media_rules,
)

if TYPE_CHECKING:
    from livecc_jax.data.rows.pipeline import RowSource

ROW_LIMITS = {"tokens": "T", "windows": "W", "targets": "N"}


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declares the command."""
    parser = subparsers.add_parser(
        "inspect", help="show an example's timeline, or a packed row", description=__doc__
    )
    parser.add_argument("annotations", help="JSONL annotation file or dataset; to show rows, an index")
    parser.add_argument("--example", type=int, default=0, help="number of the line, from 0 (default 0)")
    add_tokenizer_options(parser)
    add_timeline_options(parser)
    add_media_options(parser)
    add_media_root_options(parser)
    parser.add_argument(
        "--no-context", action="store_true", help="show neither title nor previous commentary"
    )
    parser.add_argument("--npz", metavar="OUT", help="also write the arrays of the example or row")
    rows = parser.add_argument_group("rows of an index, or of a mixture as in data.index")
    rows.add_argument("--row", type=int, metavar="R", help="show row R")
    rows.add_argument(
        "--sheet", metavar="PNG", help="also draw its frames with their words as a picture"
    )
    rows.add_argument(
        "--throughput",
        type=float,
        metavar="SECONDS",
        help="build rows for this long, and print how fast",
    )
    rows.add_argument(
        "--workers", type=int, default=0, help="worker processes that build rows (default: none)"
    )
    rows.add_argument(
        "--threads", type=int, default=8, help="rows built in parallel without workers (default 8)"
    )
    rows.add_argument(
        "--step-seconds",
        type=float,
        default=0.0,
        metavar="S",
        help="seconds that a training step takes for a row, to measure the share of waiting",
    )
    rows.add_argument("--config", metavar="FILE", help="training config that the rows belong to")
    for name, letter in ROW_LIMITS.items():
        rows.add_argument(
            f"--row-{name}", type=int, metavar=letter, help=f"{name} of a row (default: the config's)"
        )
    rows.add_argument("--seed", type=int, help="seed of the packing (default: the config's)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the timeline, the row or the throughput."""
    if args.sheet and args.row is None:
        from livecc_jax.errors import ConfigError

        raise ConfigError("--sheet draws a row of an index: give --row R too")
    if args.row is not None or args.throughput is not None:
        return _inspect_rows(args)
    from pathlib import Path

    from livecc_jax.commands.options import resolve_timeline_settings
    from livecc_jax.data.annotations.datasets import open_annotations
    from livecc_jax.data.examples.encode import encode_example
    from livecc_jax.data.examples.media_files import MediaFiles
    from livecc_jax.data.inspect.example import describe_example, save_example
    from livecc_jax.errors import ConfigError, ExampleError
    from livecc_jax.timeline.chat import ChatTemplate

    if (Path(args.annotations) / "meta.json").is_file():
        raise ConfigError(
            f"{args.annotations}: is an index; show a row with --row R, or rows a second with "
            "--throughput SECONDS"
        )
    settings = resolve_timeline_settings(args)
    tokenizer, budget = settings.tokenizer, settings.budget
    file = open_annotations(args.annotations)
    example = file[args.example]
    root = media_root(args)
    root = root and root.with_datasets([file.path])
    try:
        encoded = encode_example(
            example,
            ChatTemplate(tokenizer, settings.family),
            budget,
            not args.no_context,
            files=MediaFiles(rules=media_rules(args), media_root=root),
        )
    except ExampleError as error:
        raise ExampleError(f"{args.annotations} line {args.example + 1}: {error}") from None
    family, pairs = settings.family, settings.pair_positions
    print(describe_example(encoded, tokenizer, budget, settings.positions, family, pairs))
    if args.npz:
        save_example(encoded, tokenizer, settings.positions, args.npz, family, pairs)
        print(f"arrays written to {args.npz}")
    return 0


def _inspect_rows(args: argparse.Namespace) -> int:
    from livecc_jax.data.inspect.contact_sheet import draw_contact_sheet
    from livecc_jax.data.inspect.row import describe_row, inspect_row
    from livecc_jax.data.inspect.throughput import measure
    from livecc_jax.errors import ConfigError
    from livecc_jax.media.rules import DEFAULT

    for option, value, minimum in (
        ("throughput", args.throughput, 1e-3),
        ("threads", args.threads, 1),
        ("workers", args.workers, 0),
        ("step-seconds", args.step_seconds, 0),
    ):
        if value is not None and not minimum <= value < float("inf"):
            raise ConfigError(f"--{option} must be at least {minimum}, not {value}")
    if media_rules(args) != DEFAULT:
        raise ConfigError(
            "an index keeps to the rules that it was made with: --video-track, --pixel-aspect and "
            "--gap-picture are options of `livecc index`"
        )
    source = _row_source(args)
    if args.row is not None:
        inspected = inspect_row(source, args.row)
        print(describe_row(source, inspected))
        if args.sheet:
            draw_contact_sheet(source, inspected, args.sheet)
            print(f"contact sheet written to {args.sheet}")
        if args.npz:
            from livecc_jax.writing import write_npz

            write_npz(args.npz, inspected.row)
            print(f"arrays written to {args.npz}")
    if args.throughput is not None:
        result = measure(source, args.throughput, args.workers, args.threads, args.step_seconds)
        print("\n".join(result.lines()))
    return 0


def _row_source(args: argparse.Namespace) -> RowSource:
    """Returns the rows of a training run with the config, or with the default config."""
    from livecc_jax.commands.options import resolve_timeline_settings
    from livecc_jax.data.rows.pipeline import RowSource
    from livecc_jax.errors import ConfigError
    from livecc_jax.train.config import Config, load_config

    config = load_config(args.config) if args.config else Config()
    settings = resolve_timeline_settings(args)
    limits = {}
    for name in ROW_LIMITS:
        limit = getattr(args, f"row_{name}")
        if limit is not None and limit < 1:
            raise ConfigError(f"--row-{name} must be at least 1, not {limit}")
        limits[name] = getattr(config.data, name) if limit is None else limit
    return RowSource(
        args.annotations,
        tokenizer_path=args.model or args.tokenizer,
        **limits,
        positions=settings.positions,
        pair_positions=settings.pair_positions,
        weighting=config.data.weighting,
        seed=config.seed if args.seed is None else args.seed,
        epochs=config.data.epochs,
        root=config.data.root,
        cache=config.data.cache,
        cache_gb=config.data.cache_gb,
        media_root=args.media_root or config.data.media_root,
        allow_hosts=(*args.allow_host, *config.data.allow_hosts),
    )
