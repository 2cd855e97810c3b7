"""`livecc plan`: what training or streaming takes on a TPU slice, before paying for one."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from livecc_jax.errors import ConfigError

if TYPE_CHECKING:
    from livecc_jax.model.config import ModelConfig
    from livecc_jax.planning.chips import Topology
    from livecc_jax.planning.compiled_plan import CompiledPlan
    from livecc_jax.planning.search import Outcome
    from livecc_jax.train.config import Config


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "plan",
        help="compile training or streaming for a TPU slice, and say what it takes",
        description="Compile the training step of a config (with --stream, a step of an engine) ahead "
        "of time for a TPU slice that need not be there, and print memory, arithmetic, traffic and "
        "the time they allow.",
        epilog="Any field of the config can be set: --preset 7b --mesh.context 4 ...",
    )
    parser.add_argument(
        "config",
        help="Python file that defines `config`; with --stream also a checkpoint, or a preset (72b)",
    )
    _add_options(parser)
    parser.add_argument(
        "overrides", nargs=argparse.REMAINDER, metavar="--field.sub value", help="changes to the config"
    )
    parser.set_defaults(run=run)


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--topology", help="such as v5p:4x4x4, v5e:16x16 or v6e:8x8")
    parser.add_argument("--slices", type=int, default=1, help="number of slices (default: 1)")
    parser.add_argument(
        "--tokens", type=float, default=1e11, help="tokens of the whole training (default: 1e11)"
    )
    parser.add_argument("--pixel-budget", default="384", help="of the rows' windows (default: 384)")
    parser.add_argument(
        "--segments", type=int, default=1, help="examples of a row, for useful FLOPs (default: 1)"
    )
    parser.add_argument("--search", action="store_true", help="try mesh shapes and remat policies")
    parser.add_argument(
        "--compile", type=int, default=4, help="maximum that --search compiles (default: 4)"
    )
    parser.add_argument("--json", metavar="FILE", help="also write every value to a file")
    stream = parser.add_argument_group("with --stream")
    stream.add_argument("--stream", action="store_true", help="plan streaming instead")
    stream.add_argument(
        "--mesh",
        metavar="AXIS=N,...",
        help="such as data=2,tensor=4 (default: as many chips for a model as its heads divide over)",
    )
    stream.add_argument(
        "--sessions", type=int, default=16, help="concurrent conversations (default: 16)"
    )
    stream.add_argument("--batch", type=int, default=8, help="turns of an engine step (default: 8)")
    stream.add_argument(
        "--max-new-tokens", type=int, default=16, help="maximum tokens of a turn (default: 16)"
    )
    stream.add_argument(
        "--spoken", type=int, default=6, help="tokens of an ordinary turn, for the time (default: 6)"
    )


def run(args: argparse.Namespace) -> int:
    """Compiles, and prints one plan or those of a search."""
    import os

    # Before JAX starts: the devices to compile for are not here.
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_STDERR_LOG_LEVEL", "3")
    os.environ.setdefault("TPU_MIN_LOG_LEVEL", "3")

    from livecc_jax.commands.options import write_json
    from livecc_jax.planning.chips import Topology

    # argparse passes on everything after the config: options of the command and fields of the config.
    options = argparse.ArgumentParser(prog="livecc plan", add_help=False, allow_abbrev=False)
    _add_options(options)
    args, overrides = options.parse_known_args(args.overrides, args)
    if not args.topology:
        example = "v5e:2x4" if args.stream else "v5p:4x4x4"
        raise ConfigError(f"--topology is needed, such as {example}")
    topology = Topology.parse(args.topology, args.slices)
    plans = (_plan_streaming if args.stream else _plan_training)(args, topology, overrides)
    if args.json:
        write_json(args.json, [plan.to_json() for plan in plans])
    return 0


def _plan_training(
    args: argparse.Namespace, topology: Topology, overrides: list[str]
) -> list[CompiledPlan]:
    """Plans the training step, or searches; prints and returns the plans."""
    from livecc_jax.commands.options import parse_overrides
    from livecc_jax.media.budget import PixelBudget
    from livecc_jax.planning.search import search
    from livecc_jax.planning.training import plan_training
    from livecc_jax.train.config import load_config
    from livecc_jax.train.overrides import override

    config = override(load_config(args.config), parse_overrides(overrides))
    model = _model_of_config(config)
    window = PixelBudget.parse(args.pixel_budget).max_pair_patches
    if not args.search:
        plan = plan_training(config, model, topology, window=window, segments=args.segments)
        print(plan.describe())
        print(f"{args.tokens:.3g} tokens: at least {plan.days(args.tokens):.1f} days")
        return [plan]
    print(_SEARCH_HEADER, flush=True)
    outcomes = search(
        config, model, topology,
        window=window, max_compiled=args.compile, segments=args.segments,
        on_outcome=lambda outcome: print(_search_line(outcome, args.tokens), flush=True),
    )  # fmt: skip
    print(f"\n{'fastest first':13s}\n{_SEARCH_HEADER}")
    for outcome in outcomes:
        print(_search_line(outcome, args.tokens))
    return [outcome.plan for outcome in outcomes if outcome.plan]


def _plan_streaming(
    args: argparse.Namespace, topology: Topology, overrides: list[str]
) -> list[CompiledPlan]:
    """Plans an engine, prints the plan and returns it."""
    from livecc_jax.commands.options import parse_overrides
    from livecc_jax.media.budget import PixelBudget
    from livecc_jax.parallel.mesh import parse_mesh
    from livecc_jax.planning.streaming import StreamingLoad, default_mesh, plan_streaming
    from livecc_jax.train.config import load_config
    from livecc_jax.train.overrides import override

    if args.config.endswith(".py"):
        model = _model_of_config(override(load_config(args.config), parse_overrides(overrides)))
    elif overrides:
        raise ConfigError(f"{overrides[0]} is not an option of `livecc plan {args.config} --stream`")
    else:
        model = _named_model(args.config)
    budget = PixelBudget.parse(args.pixel_budget)
    if budget.tokens is None:
        raise ConfigError("streaming is planned for a fixed --pixel-budget, not `reference`")
    load = StreamingLoad(args.sessions, args.batch, budget.tokens, args.max_new_tokens, args.spoken)
    sizes = parse_mesh(args.mesh) if args.mesh else default_mesh(model, topology.chips)
    plan = plan_streaming(model, topology, sizes, load)
    print(plan.describe())
    return [plan]


def _named_model(name: str) -> ModelConfig:
    """Returns the architecture of a preset or a checkpoint."""
    from livecc_jax.checkpoints.open import open_checkpoint
    from livecc_jax.model.presets import PRESETS

    return PRESETS[name] if name in PRESETS else open_checkpoint(name).config


def _model_of_config(config: Config) -> ModelConfig:
    """Returns the architecture of a config, from its preset or checkpoint; weights are not read."""
    from livecc_jax.model.presets import preset

    if config.init:
        from livecc_jax.checkpoints.open import open_checkpoint

        return open_checkpoint(config.init).config
    if not config.preset:
        raise ConfigError(
            "the config must set one of init (a checkpoint) and preset, such as --preset 7b"
        )
    return preset(config.preset)


_SEARCH_HEADER = (
    f"{'data':>5s} {'fsdp':>5s} {'ctx':>4s} {'tens':>5s} {'remat':>10s} {'micro':>6s} "
    f"{'GiB/chip':>9s} {'step s':>8s} {'MFU <=':>7s} {'serial':>7s} {'days':>8s}  bound by"
)


def _search_line(outcome: Outcome, tokens: float) -> str:
    """Returns one line of the table of a search."""
    from livecc_jax.planning.chips import GIB

    mesh, config = outcome.config.mesh, outcome.config
    line = (
        f"{mesh.data:5d} {mesh.fsdp:5d} {mesh.context:4d} {mesh.tensor:5d} "
        f"{config.compute.remat:>10s} {config.optim.accumulate:6d} "
    )
    plan = outcome.plan
    if plan is None:
        return f"{line}{outcome.reason}"
    return line + (
        f"{plan.used / GIB:9.2f} {plan.step_seconds:8.2f} {plan.mfu:7.1%} {plan.mfu_serial:7.1%} "
        f"{plan.days(tokens):8.1f}  {plan.bound}{'' if plan.fits else ', DOES NOT FIT'}"
    )
