"""The command-line parser. A command's libraries are imported when it runs, not before."""

from __future__ import annotations

import argparse
import importlib

from livecc_jax.version import __version__

COMMANDS = (
    "captions",
    "produce",
    "world",
    "dataset",
    "index",
    "inspect",
    "train",
    "plan",
    "stream",
    "ask",
    "watch",
    "convert",
    "verify",
    "tokenizer",
    "score",
    "compare",
    "judge",
    "evaluate",
    "demo",
)


def build_parser() -> argparse.ArgumentParser:
    """Builds the parser with all commands."""
    parser = argparse.ArgumentParser(
        prog="livecc", description="Streaming video-language models in JAX."
    )
    parser.add_argument("--version", action="version", version=f"livecc {__version__}")
    parser.add_argument("-v", "--verbose", action="store_true", help="log progress")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        importlib.import_module(f"livecc_jax.commands.{name}").add_parser(subparsers)
    return parser
