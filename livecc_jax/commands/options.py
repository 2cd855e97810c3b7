"""Command-line options, their defaults and their checks, for several commands."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from livecc_jax.errors import ConfigError, LiveCCError
from livecc_jax.media.rules import ASPECTS, GAPS
from livecc_jax.timeline.position_modes import POSITION_MODES
from livecc_jax.writing import write_text

if TYPE_CHECKING:
    from livecc_jax.api.indexing import TimelineSettings
    from livecc_jax.api.models import Model
    from livecc_jax.media.rules import MediaRules


def add_timeline_options(parser: argparse.ArgumentParser) -> None:
    """Adds --positions and --pixel-budget; their defaults are the checkpoint's."""
    parser.add_argument(
        "--positions", choices=POSITION_MODES, help="rotary position mode (default: the checkpoint's)"
    )
    parser.add_argument(
        "--pixel-budget",
        metavar="reference|TOKENS",
        help="maximum number of vision tokens of a frame pair, or `reference` for the published rule "
        "that depends on the clip's length (default: the checkpoint's)",
    )


def add_span_options(parser: argparse.ArgumentParser) -> None:
    """Adds --start and --end, in seconds of the source; `check_span` checks them."""
    parser.add_argument("--start", type=float, metavar="S", help="second of the source to start at")
    parser.add_argument("--end", type=float, metavar="S", help="second of the source to end at")


def add_media_options(parser: argparse.ArgumentParser, gaps: bool = True) -> None:
    """Adds --video-track, --pixel-aspect and --gap-picture, which `media_rules` reads.

    Args:
        parser: Parser of the command.
        gaps: Whether the command samples frames at fixed moments, so that --gap-picture applies.
    """
    parser.add_argument(
        "--video-track",
        type=int,
        metavar="N",
        help="video track of files that hold several, from 0 (default: the main one, and not a cover, "
        "a thumbnail or a small preview)",
    )
    parser.add_argument(
        "--pixel-aspect",
        choices=ASPECTS,
        default="displayed",
        help="shape of pictures whose pixels are not square: as players show them, or as stored, like "
        "the released reader (default: displayed)",
    )
    if gaps:
        parser.add_argument(
            "--gap-picture",
            choices=GAPS,
            default="next",
            help="picture in a gap between two frames of a video file: the next one, like the "
            "published rule, or the previous one until the next exists (default: next)",
        )


def media_rules(args: argparse.Namespace) -> MediaRules:
    """Returns the media rules that the options of `add_media_options` choose."""
    from livecc_jax.media.rules import MediaRules

    if args.video_track is not None and args.video_track < 0:
        raise ConfigError(f"--video-track must be at least 0, not {args.video_track}")
    gap = getattr(args, "gap_picture", "next")
    return MediaRules(track=args.video_track, aspect=args.pixel_aspect, gap=gap)


def check_span(args: argparse.Namespace) -> None:
    """Raises ConfigError unless --start and --end form a span."""
    from livecc_jax.api import spans

    spans.check_span(args.start, args.end, "--")


def add_decoding_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a stream: sampling, silence control and precision."""
    add_sampling_options(parser, 16, "a turn")
    parser.add_argument(
        "--silence-base", type=float, metavar="B", help="ban ' ...' while its probability <= B + S*n"
    )
    parser.add_argument("--silence-step", type=float, default=0.0, metavar="S", help="default 0")


def add_sampling_options(parser: argparse.ArgumentParser, max_new_tokens: int, unit: str) -> None:
    """Adds the options of sampling and precision.

    Args:
        parser: Parser of the command.
        max_new_tokens: Default of --max-new-tokens.
        unit: What that limit applies to, such as "a turn".
    """
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=max_new_tokens,
        help=f"maximum number of generated tokens of {unit} (default {max_new_tokens})",
    )
    parser.add_argument("--repetition-penalty", type=float, default=1.05, help="default 1.05; 1: none")
    parser.add_argument("--temperature", type=float, default=0.0, help="default 0, greedy")
    parser.add_argument("--seed", type=int, default=0, help="seed of sampling (default 0)")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="dtype of weights and cache (default: float32 on a CPU, bfloat16 elsewhere)",
    )
    parser.add_argument(
        "--precision",
        choices=("weights", "fp8"),
        default="weights",
        help="precision of matrix products: that of the weights, or 8-bit floats, which are faster on "
        "Hopper GPUs and give nearly the same results (default weights)",
    )


def add_cache_precision_option(parser: argparse.ArgumentParser, cache: str) -> None:
    """Adds --cache-precision.

    Args:
        parser: Parser of the command.
        cache: Name of the cache that is quantized, for the help text.
    """
    parser.add_argument(
        "--cache-precision",
        choices=("weights", "int8"),
        default="weights",
        help=f"precision of the keys and values in {cache}: that of the weights, or 8 bits, which "
        "takes half the memory and gives nearly the same results (default weights)",
    )


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """Adds --mesh and --compile-cache, which `open_command_model` reads."""
    parser.add_argument(
        "--mesh",
        metavar="AXIS=N,...",
        help="device mesh of this host, such as data=2,tensor=2: weights and heads are sharded over "
        "`tensor`, the sources of `livecc watch` over `data` (default: one device)",
    )
    parser.add_argument(
        "--compile-cache",
        metavar="DIR|none",
        help="folder that caches compiled programs for the next run (default: "
        "~/.cache/livecc/programs, on a CPU none)",
    )


def open_command_model(args: argparse.Namespace) -> Model:
    """Opens MODEL with --dtype, --precision, --mesh and --compile-cache."""
    from livecc_jax.api.models import open_model

    return open_model(
        args.model,
        dtype=args.dtype,
        precision=args.precision,
        mesh=args.mesh,
        compile_cache=args.compile_cache or "auto",
    )


def decoding_options(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the fields of `StreamOptions` that options set; an answer has no silence control."""
    return {
        "positions": args.positions,
        "max_new_tokens": args.max_new_tokens,
        "repetition_penalty": args.repetition_penalty,
        "temperature": args.temperature,
        "silence_base": getattr(args, "silence_base", None),
        "silence_step": getattr(args, "silence_step", 0.0),
        "seed": args.seed,
    }


def add_tokenizer_options(parser: argparse.ArgumentParser) -> None:
    """Adds --model and --tokenizer, one of which is required."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="checkpoint whose tokenizer and settings apply")
    source.add_argument("--tokenizer", help="tokenizer file or directory, if there is no model yet")
    parser.add_argument(
        "--family", help="backbone family with --tokenizer: qwen2_vl (default), qwen2_5_vl or qwen3_vl"
    )


def resolve_timeline_settings(args: argparse.Namespace) -> TimelineSettings:
    """Returns tokenizer, pixel budget, positions and family, from the options or the checkpoint."""
    from livecc_jax.api.indexing import timeline_settings

    positions = getattr(args, "positions", None)
    return timeline_settings(args.model, args.tokenizer, args.pixel_budget, positions, args.family)


def parse_overrides(arguments: list[str]) -> list[tuple[str, str]]:
    """Parses `--field.sub value ...` to [("field.sub", "value"), ...].

    Raises:
        ConfigError: An argument has another form, or a value is missing.
    """
    overrides = []
    items = iter(arguments)
    for item in items:
        name, equals, value = item.removeprefix("--").partition("=")
        if not item.startswith("--") or not name:
            raise ConfigError(f"{item!r} is not an option of the form --field value")
        if not equals:
            value = next(items, None)
            if value is None:
                raise ConfigError(f"--{name} has no value")
        overrides.append((name, value))
    return overrides


@contextlib.contextmanager
def fail_fast(command: str) -> Iterator[None]:
    """Exits at once on an error if there are other processes, so that they notice and do not hang.

    Args:
        command: Name of the command, for the error message.
    """
    from livecc_jax.parallel.processes import exit_immediately, other_process_count

    try:
        yield
    except LiveCCError as error:
        if not other_process_count():
            raise
        print(f"livecc {command}: {' '.join(str(error).split())}", file=sys.stderr)
        exit_immediately(2)
    except Exception:
        if not other_process_count():
            raise
        traceback.print_exc()
        exit_immediately(1)


def write_json(path: str, value: Any) -> None:
    """Writes the JSON file that --json names. Raises OutputError when it cannot be written."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")
