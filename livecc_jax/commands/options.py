"""Options and defaults that several commands share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from livecc_jax.errors import ConfigError
from livecc_jax.timeline.modes import MODES

if TYPE_CHECKING:
    from livecc_jax.media.budget import PixelBudget
    from livecc_jax.text.tokenizer import Tokenizer


def add_timeline_options(parser: argparse.ArgumentParser) -> None:
    """--positions and --pixel-budget; without them the checkpoint's own apply."""
    parser.add_argument(
        "--positions", choices=MODES, help="rotary position mode (default: the checkpoint's)"
    )
    parser.add_argument(
        "--pixel-budget",
        metavar="reference|TOKENS",
        help="most vision tokens a frame pair, or `reference` for the published rule "
        "that depends on the clip's length (default: the checkpoint's)",
    )


def add_tokenizer_options(parser: argparse.ArgumentParser) -> None:
    """--model or --tokenizer, one of which is needed."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="checkpoint whose tokenizer and settings apply")
    source.add_argument("--tokenizer", help="tokenizer file or directory, when there is no model yet")


def timeline_settings(args: argparse.Namespace) -> tuple[Tokenizer, PixelBudget, str]:
    """Tokenizer, pixel budget and position mode that the options of both functions above ask for."""
    from livecc_jax.checkpoints.hf_config import LiveCCBlock
    from livecc_jax.media.budget import PixelBudget
    from livecc_jax.text.tokenizer import open_tokenizer

    if args.model:
        from livecc_jax.checkpoints.open import open_checkpoint

        checkpoint = open_checkpoint(args.model)
        tokenizer, block = checkpoint.open_tokenizer(), checkpoint.livecc
    else:
        tokenizer, block = open_tokenizer(args.tokenizer), LiveCCBlock()
    budget = PixelBudget.parse(args.pixel_budget or block.pixel_budget)
    return tokenizer, budget, getattr(args, "positions", None) or block.positions


def pairs(rest: list[str]) -> list[tuple[str, str]]:
    """`--field.sub value ...` as [("field.sub", "value"), ...]. Raises ConfigError for odd ones."""
    found = []
    items = iter(rest)
    for item in items:
        name, equals, value = item.removeprefix("--").partition("=")
        if not item.startswith("--") or not name:
            raise ConfigError(f"{item!r} is not an option of the form --field value")
        if not equals:
            value = next(items, None)
            if value is None:
                raise ConfigError(f"--{name} has no value")
        found.append((name, value))
    return found
