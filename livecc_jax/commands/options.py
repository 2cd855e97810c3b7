"""Options and defaults that several commands share."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from livecc_jax.errors import ConfigError, LiveCCError
from livecc_jax.timeline.position_modes import POSITION_MODES

if TYPE_CHECKING:
    from livecc_jax.checkpoints.open import Checkpoint
    from livecc_jax.decoding.options import StreamOptions
    from livecc_jax.media.budget import PixelBudget
    from livecc_jax.stream.model import StreamModel
    from livecc_jax.text.tokenizer import Tokenizer


def add_timeline_options(parser: argparse.ArgumentParser) -> None:
    """--positions and --pixel-budget; without them the checkpoint's own apply."""
    parser.add_argument(
        "--positions", choices=POSITION_MODES, help="rotary position mode (default: the checkpoint's)"
    )
    parser.add_argument(
        "--pixel-budget",
        metavar="reference|TOKENS",
        help="most vision tokens a frame pair, or `reference` for the published rule "
        "that depends on the clip's length (default: the checkpoint's)",
    )


def add_span_options(parser: argparse.ArgumentParser) -> None:
    """--start and --end, seconds of a source; see `check_span`."""
    parser.add_argument("--start", type=float, metavar="S", help="second of the source to start at")
    parser.add_argument("--end", type=float, metavar="S", help="second of the source to end at")


def check_span(args: argparse.Namespace) -> None:
    """Raise ConfigError unless --start and --end make a span."""
    for name in ("start", "end"):
        value = getattr(args, name)
        if value is not None and not 0 <= value < math.inf:  # which NaN is not, either
            raise ConfigError(f"--{name} must be a number of seconds from 0 on, not {value:g}")
    if args.end is not None and args.end <= (args.start or 0.0):
        raise ConfigError(f"--end {args.end:g} is not after --start {args.start or 0.0:g}")


def add_decoding_options(parser: argparse.ArgumentParser) -> None:
    """Sampling, silence control and precision of a stream."""
    add_sampling_options(parser, 16, "a turn")
    parser.add_argument(
        "--silence-base", type=float, metavar="B", help="ban ' ...' while its probability <= B + S*n"
    )
    parser.add_argument("--silence-step", type=float, default=0.0, metavar="S", help="default 0")


def add_sampling_options(parser: argparse.ArgumentParser, tokens: int, of: str) -> None:
    """How tokens are chosen, and how many at most of what; and precision."""
    parser.add_argument("--max-new-tokens", type=int, default=tokens, help=f"{of} (default {tokens})")
    parser.add_argument("--repetition-penalty", type=float, default=1.05, help="default 1.05; 1: none")
    parser.add_argument("--temperature", type=float, default=0.0, help="default 0, greedy")
    parser.add_argument("--seed", type=int, default=0, help="of sampling (default 0)")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of weights and cache (default: float32 on a CPU, bfloat16 elsewhere)",
    )
    parser.add_argument(
        "--precision",
        choices=("weights", "fp8"),
        default="weights",
        help="of matrix products: that of the weights, or 8-bit floats, which is faster on a GPU of "
        "Hopper's generation and nearly the same (default weights)",
    )


def add_cache_precision(parser: argparse.ArgumentParser, of: str) -> None:
    """--cache-precision, of which cache."""
    parser.add_argument(
        "--cache-precision",
        choices=("weights", "int8"),
        default="weights",
        help=f"of the keys and values that {of} keeps: that of the weights, or eight bits, in half the "
        "memory and nearly the same (default weights)",
    )


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """--mesh and --compile-cache, for `load_stream_model`."""
    parser.add_argument(
        "--mesh",
        metavar="AXIS=N,...",
        help="split over this host's devices: weights and heads over `tensor`, and the sources of "
        "`livecc watch` over `data`, such as data=2,tensor=2 (default: one device)",
    )
    parser.add_argument(
        "--compile-cache",
        metavar="DIR|none",
        help="where compiled programs are kept for the next run (default: "
        "~/.cache/livecc/programs, on a CPU none)",
    )


def keep_programs(where: str | None) -> None:
    """Have jax keep what it compiles in a folder, or not for `none`.

    By default beside other caches of the user's, unless jax was told already (by its own variable
    JAX_COMPILATION_CACHE_DIR). Not on a CPU: programs for one may not run on another that shares the
    home directory.
    """
    import os

    import jax

    if where is None:
        if jax.config.jax_compilation_cache_dir or jax.default_backend() == "cpu":
            return
        home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        where = str(Path(home).expanduser() / "livecc" / "programs")
    jax.config.update("jax_compilation_cache_dir", None if where == "none" else where)


def decoding_options(args: argparse.Namespace, checkpoint: Checkpoint) -> StreamOptions:
    """How a stream decodes, by --positions and the options above; answers know no silence control."""
    from livecc_jax.decoding.options import StreamOptions

    return StreamOptions(
        positions=args.positions or checkpoint.livecc.positions,
        max_new_tokens=args.max_new_tokens,
        repetition_penalty=args.repetition_penalty,
        temperature=args.temperature,
        silence_base=getattr(args, "silence_base", None),
        silence_step=getattr(args, "silence_step", 0.0),
        context=checkpoint.config.text.max_positions,
        seed=args.seed,
    )


def load_stream_model(args: argparse.Namespace, checkpoint: Checkpoint) -> StreamModel:
    """A checkpoint's weights where --mesh says or on the first device, by --dtype and --precision."""
    import jax

    from livecc_jax.commands.processes import local_mesh
    from livecc_jax.stream.model import StreamModel

    keep_programs(args.compile_cache)
    dtype = args.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    mesh = local_mesh(args.mesh)
    if mesh is not None:
        # From the host, a layer at a time: the devices never hold two copies.
        params = checkpoint.load_params(jax.numpy.dtype(dtype))
        return StreamModel(checkpoint.config, params, checkpoint.open_tokenizer(), args.precision, mesh)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shardings = jax.tree.map(lambda _: device, checkpoint.abstract_params())
    params = checkpoint.load_params(jax.numpy.dtype(dtype), shardings)
    return StreamModel(checkpoint.config, params, checkpoint.open_tokenizer(), args.precision)


def add_tokenizer_options(parser: argparse.ArgumentParser) -> None:
    """--model or --tokenizer, one of which is needed."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="checkpoint whose tokenizer and settings apply")
    source.add_argument("--tokenizer", help="tokenizer file or directory, when there is no model yet")


def timeline_settings(args: argparse.Namespace) -> tuple[Tokenizer, PixelBudget, str]:
    """Tokenizer, pixel budget and position mode that the options of both functions above ask for."""
    from livecc_jax.checkpoints.hf_config import LiveCCBlock
    from livecc_jax.media.budget import PixelBudget
    from livecc_jax.text.open import open_tokenizer

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


@contextlib.contextmanager
def one_of_several(command: str) -> Iterator[None]:
    """Where an error of one of several processes ends it at once, so that the others learn of it."""
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
    """Writes what `--json OUT` asks for."""
    Path(path).write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
