"""`livecc convert`: convert a checkpoint from HuggingFace layout to an Orbax run, or back."""

from __future__ import annotations

import argparse


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declares the command."""
    parser = subparsers.add_parser(
        "convert", help="convert a checkpoint between HuggingFace and Orbax", description=__doc__
    )
    parser.add_argument("src", metavar="SRC", help="HuggingFace directory, run, or step folder")
    parser.add_argument("dst", metavar="DST", help="directory to write")
    parser.add_argument("--to", required=True, choices=("hf", "orbax"), help="layout to write")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="dtype to cast to (default: as stored; for a training run, that of its base model)",
    )
    parser.add_argument(
        "--config-layout",
        choices=("flat", "nested"),
        default="flat",
        help="layout of config.json: flat loads everywhere, nested is what newer transformers write",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a checkpoint at DST")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Converts, and prints what was written."""
    from livecc_jax.checkpoints.convert import convert

    result = convert(args.src, args.dst, args.to, args.dtype, args.config_layout, args.overwrite)
    suffix = "with its tokenizer" if result.tokenizer else "without a tokenizer, as its source"
    print(f"{result.path}: {result.parameters:,} parameters, {result.dtype}, {result.kind}, {suffix}")
    return 0
