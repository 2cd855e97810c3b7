"""`livecc convert`: a checkpoint from HuggingFace layout to an Orbax run, or back."""

from __future__ import annotations

import argparse


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "convert", help="convert a checkpoint between HuggingFace and Orbax", description=__doc__
    )
    parser.add_argument("src", metavar="SRC", help="HuggingFace directory, run, or step folder")
    parser.add_argument("dst", metavar="DST", help="directory to write")
    parser.add_argument("--to", required=True, choices=("hf", "orbax"), help="layout to write")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="cast the weights (default: as stored; a training run: as the model it started from)",
    )
    parser.add_argument(
        "--config-layout",
        choices=("flat", "nested"),
        default="flat",
        help="layout of config.json: flat loads everywhere, nested is that of newer transformers",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a checkpoint at DST")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Convert, then say what came out."""
    from livecc_jax.checkpoints.convert import convert

    done = convert(args.src, args.dst, args.to, args.dtype, args.config_layout, args.overwrite)
    words = "with its tokenizer" if done.tokenizer else "without a tokenizer, as its source"
    print(f"{done.path}: {done.parameters:,} parameters, {done.dtype}, {done.kind}, {words}")
    return 0
