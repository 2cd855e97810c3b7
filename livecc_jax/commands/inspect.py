"""`livecc inspect`: what the model will see, of one example or of one packed row of an index."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from livecc_jax.commands.options import add_timeline_options, add_tokenizer_options

if TYPE_CHECKING:
    from livecc_jax.data.rows.pipeline import RowSource

SHAPE = {"tokens": "T", "windows": "W", "targets": "N"}


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "inspect", help="show an example's timeline, or a packed row", description=__doc__
    )
    parser.add_argument("annotations", help="JSONL annotation file or dataset; an index, for rows")
    parser.add_argument("--example", type=int, default=0, help="number of the line, from 0 (default 0)")
    add_tokenizer_options(parser)
    add_timeline_options(parser)
    parser.add_argument("--no-context", action="store_true", help="without title or previous text")
    parser.add_argument("--npz", metavar="OUT", help="also write the arrays of the example or row")
    rows = parser.add_argument_group("rows of an index, or of a mixture as data.index has it")
    rows.add_argument("--row", type=int, metavar="R", help="show row R")
    rows.add_argument("--sheet", metavar="PNG", help="also draw its frames with their words under them")
    rows.add_argument(
        "--throughput", type=float, metavar="SECONDS", help="build rows for so long, and say how fast"
    )
    rows.add_argument(
        "--workers", type=int, default=0, help="processes that build rows (default: none)"
    )
    rows.add_argument("--threads", type=int, default=8, help="without workers (default 8)")
    rows.add_argument(
        "--step-seconds",
        type=float,
        default=0.0,
        metavar="S",
        help="seconds that a training step would take a row, for the share of waiting",
    )
    rows.add_argument("--config", metavar="FILE", help="training config whose rows are meant")
    for name, letter in SHAPE.items():
        rows.add_argument(
            f"--row-{name}", type=int, metavar=letter, help=f"{name} a row (default: the config's)"
        )
    rows.add_argument("--seed", type=int, help="of the packing (default: the config's)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the timeline, the row or the figures."""
    if args.sheet and args.row is None:
        from livecc_jax.errors import ConfigError

        raise ConfigError("--sheet draws a row of an index: give --row R too")
    if args.row is not None or args.throughput is not None:
        return _rows(args)
    from pathlib import Path

    from livecc_jax.commands.options import timeline_settings
    from livecc_jax.data.annotations.datasets import open_annotations
    from livecc_jax.data.examples.example import plan_example
    from livecc_jax.data.inspect.inspect import describe, save_npz
    from livecc_jax.errors import ConfigError, ExampleError
    from livecc_jax.timeline.chat import ChatTemplate

    if (Path(args.annotations) / "meta.json").is_file():
        raise ConfigError(
            f"{args.annotations}: is an index; show a row with --row R, or rows a second with "
            "--throughput SECONDS"
        )
    tokenizer, budget, mode = timeline_settings(args)
    file = open_annotations(args.annotations)
    example = file[args.example]
    try:
        plan = plan_example(example, ChatTemplate(tokenizer), budget, not args.no_context)
    except ExampleError as error:
        raise ExampleError(f"{args.annotations} line {args.example + 1}: {error}") from None
    print(describe(plan, tokenizer, budget, mode))
    if args.npz:
        save_npz(plan, tokenizer, mode, args.npz)
        print(f"arrays written to {args.npz}")
    return 0


def _rows(args: argparse.Namespace) -> int:
    from livecc_jax.data.inspect.sheet import describe_row, draw_sheet, see
    from livecc_jax.data.inspect.throughput import measure
    from livecc_jax.errors import ConfigError

    for option, value, least in (
        ("throughput", args.throughput, 1e-3),
        ("threads", args.threads, 1),
        ("workers", args.workers, 0),
        ("step-seconds", args.step_seconds, 0),
    ):
        if value is not None and not least <= value < float("inf"):
            raise ConfigError(f"--{option} must be at least {least}, not {value}")
    source = _source(args)
    if args.row is not None:
        seen = see(source, args.row)
        print(describe_row(source, seen))
        if args.sheet:
            draw_sheet(source, seen, args.sheet)
            print(f"contact sheet written to {args.sheet}")
        if args.npz:
            import numpy as np

            with open(args.npz, "wb") as file:
                np.savez_compressed(file, **seen.row)
            print(f"arrays written to {args.npz}")
    if args.throughput is not None:
        found = measure(source, args.throughput, args.workers, args.threads, args.step_seconds)
        print("\n".join(found.lines()))
    return 0


def _source(args: argparse.Namespace) -> RowSource:
    """The rows that training with the config, or with its defaults, would have."""
    from livecc_jax.commands.options import timeline_settings
    from livecc_jax.data.rows.pipeline import RowSource
    from livecc_jax.errors import ConfigError
    from livecc_jax.train.config import Config, load_config

    config = load_config(args.config) if args.config else Config()
    _, _, mode = timeline_settings(args)
    shape = {}
    for name in SHAPE:
        asked = getattr(args, f"row_{name}")
        if asked is not None and asked < 1:
            raise ConfigError(f"--row-{name} must be at least 1, not {asked}")
        shape[name] = getattr(config.data, name) if asked is None else asked
    return RowSource(
        args.annotations,
        tokenizer_path=args.model or args.tokenizer,
        **shape,
        positions=mode,
        weighting=config.data.weighting,
        seed=config.seed if args.seed is None else args.seed,
        epochs=config.data.epochs,
        root=config.data.root,
        cache=config.data.cache,
        cache_gb=config.data.cache_gb,
    )
