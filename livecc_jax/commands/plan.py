"""`livecc plan`: what training or streaming takes on a TPU slice, before paying for one."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from livecc_jax.errors import ConfigError

if TYPE_CHECKING:
    from livecc_jax.model.config import ModelConfig
    from livecc_jax.planning.search import Outcome
    from livecc_jax.planning.streaming import StreamPlan
    from livecc_jax.planning.training import Plan
    from livecc_jax.train.config import Config

GIB = 2**30


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "plan",
        help="compile training or streaming for a TPU slice, and say what it takes",
        description="Compile the training step of a config (with --stream, an engine's tick) ahead of "
        "time for a TPU slice that need not be there, and print memory, arithmetic, traffic and the "
        "time they allow.",
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
    parser.add_argument("--slices", type=int, default=1, help="so many of them (default: 1)")
    parser.add_argument(
        "--tokens", type=float, default=1e11, help="tokens of the whole training (default: 1e11)"
    )
    parser.add_argument("--pixel-budget", default="384", help="of the rows' windows (default: 384)")
    parser.add_argument(
        "--segments", type=int, default=1, help="examples a row holds, for useful FLOPs (default: 1)"
    )
    parser.add_argument("--search", action="store_true", help="try mesh shapes and remat policies")
    parser.add_argument(
        "--compile", type=int, default=4, help="most that --search compiles (default: 4)"
    )
    parser.add_argument("--json", metavar="FILE", help="write every figure there too")
    stream = parser.add_argument_group("with --stream")
    stream.add_argument("--stream", action="store_true", help="plan streaming instead")
    stream.add_argument(
        "--mesh",
        metavar="AXIS=N,...",
        help="such as data=2,tensor=4 (default: as many chips a model as its heads divide over)",
    )
    stream.add_argument("--sessions", type=int, default=16, help="conversations at once (default: 16)")
    stream.add_argument("--batch", type=int, default=8, help="turns a tick (default: 8)")
    stream.add_argument("--max-new-tokens", type=int, default=16, help="a turn (default: 16)")
    stream.add_argument(
        "--spoken", type=int, default=6, help="tokens of an ordinary turn, for the time (default: 6)"
    )


def run(args: argparse.Namespace) -> int:
    """Plan, or search."""
    import os

    # Before jax starts: the devices to compile for are not here.
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_STDERR_LOG_LEVEL", "3")
    os.environ.setdefault("TPU_MIN_LOG_LEVEL", "3")

    from livecc_jax.commands.options import pairs
    from livecc_jax.train.config import load_config, override

    # What follows the config is all left to us: our own options and the config's fields.
    more = argparse.ArgumentParser(prog="livecc plan", add_help=False, allow_abbrev=False)
    _add_options(more)
    args, rest = more.parse_known_args(args.overrides, args)
    if args.stream:
        return plan_stream(args, rest)
    config = override(load_config(args.config), pairs(rest))
    if not args.topology:
        raise ConfigError("--topology is needed, such as v5p:4x4x4")

    from livecc_jax.media.budget import PixelBudget
    from livecc_jax.planning.chips import Topology

    topology = Topology.parse(args.topology, args.slices)
    model = _model(config)
    window = PixelBudget.parse(args.pixel_budget).max_pair_patches
    if args.search:
        from livecc_jax.planning.search import search

        print(_HEADER, flush=True)
        outcomes = search(
            config, model, topology,
            window=window, compile_most=args.compile, segments=args.segments,
            on_outcome=lambda o: print(_row(o, args.tokens), flush=True),
        )  # fmt: skip
        print(f"\n{'fastest first':13s}\n{_HEADER}")
        for outcome in outcomes:
            print(_row(outcome, args.tokens))
        plans = [o.plan for o in outcomes if o.plan]
    else:
        from livecc_jax.planning.training import make_plan

        plans = [make_plan(config, model, topology, window=window, segments=args.segments)]
        print(_described(plans[0], args.tokens))
    if args.json:
        _write(args.json, [plan.to_json() for plan in plans])
    return 0


def plan_stream(args: argparse.Namespace, rest: list[str]) -> int:
    """Plan an engine."""
    from livecc_jax.commands.options import pairs
    from livecc_jax.media.budget import PixelBudget
    from livecc_jax.parallel.mesh import parse_mesh
    from livecc_jax.planning.chips import Topology
    from livecc_jax.planning.streaming import Load, default_mesh, plan_stream
    from livecc_jax.train.config import load_config, override

    if not args.topology:
        raise ConfigError("--topology is needed, such as v5e:2x4")
    topology = Topology.parse(args.topology, args.slices)
    if args.config.endswith(".py"):
        model = _model(override(load_config(args.config), pairs(rest)))
    elif rest:
        raise ConfigError(f"{rest[0]} is not an option of `livecc plan {args.config} --stream`")
    else:
        model = _named(args.config)
    budget = PixelBudget.parse(args.pixel_budget)
    if budget.tokens is None:
        raise ConfigError("streaming is planned for a fixed --pixel-budget, not `reference`")
    load = Load(args.sessions, args.batch, budget.tokens, args.max_new_tokens, args.spoken)
    sizes = parse_mesh(args.mesh) if args.mesh else default_mesh(model, topology.chips)
    plan = plan_stream(model, topology, sizes, load)
    print(_streaming(plan))
    if args.json:
        _write(args.json, [plan.to_json()])
    return 0


def _named(name: str) -> ModelConfig:
    """The architecture of a preset or a checkpoint."""
    from livecc_jax.checkpoints.open import open_checkpoint
    from livecc_jax.model.presets import PRESETS

    return PRESETS[name] if name in PRESETS else open_checkpoint(name).config


def _mesh(plan: Plan | StreamPlan) -> str:
    return " x ".join(f"{axis} {n}" for axis, n in plan.mesh.items() if n > 1) or "one chip"


def _memory(plan: Plan | StreamPlan) -> list[str]:
    """What a chip holds, line by line."""
    whole = f"HBM a chip: {plan.used / GIB:.2f} of {plan.hbm / GIB:.2f} GiB"
    parts = [f"  {name:28s} {size / GIB:9.2f} GiB" for name, size in plan.memory.items()]
    return [whole + ("" if plan.fits else "  DOES NOT FIT"), *parts]


def _streaming(plan: StreamPlan) -> str:
    """Everything about a plan of streaming."""
    load = plan.load
    lines = [
        f"{plan.topology}: {plan.chips} chips as {_mesh(plan)}, {load.sessions} sessions of up to "
        f"{plan.context:,} tokens, {load.batch} turns a tick",
        f"compiled in {plan.compile_seconds:.0f} s",
        "",
        *_memory(plan),
        "",
        f"{'':12s} {'FLOPs':>9s} {'GB moved':>9s} {'GB sent':>8s} {'computing':>10s} {'memory':>9s} "
        f"{'network':>9s}   (FLOPs of all chips, the rest of one; ms)",
    ]
    for name, part in (("vision", plan.vision), ("prompt", plan.prompt), ("a token", plan.token)):
        lines.append(
            f"  {name:10s} {part.flops:9.3g} {part.memory_bytes / 1e9:9.2f} "
            f"{part.sent_bytes / 1e9:8.3f} "
            f"{1e3 * part.computing:10.2f} {1e3 * part.memory:9.2f} {1e3 * part.network:9.2f}"
        )
    lines += [
        "",
        f"a tick of {load.spoken} tokens: {1e3 * plan.tick_seconds:.0f} ms by the program's text, "
        "where an array read in part counts whole;",
        f"a token's weights alone take {1e3 * plan.weights_seconds:.1f} ms to read",
    ]
    return "\n".join(lines)


def _model(config: Config) -> ModelConfig:
    """The architecture, from a preset or a checkpoint's config; weights are not read."""
    from livecc_jax.model.presets import preset

    if config.init:
        from livecc_jax.checkpoints.open import open_checkpoint

        return open_checkpoint(config.init).config
    if not config.preset:
        raise ConfigError(
            "the config must set one of init (a checkpoint) and preset, such as --preset 7b"
        )
    return preset(config.preset)


def _described(plan: Plan, tokens: float) -> str:
    """Everything about one plan."""
    lines = [
        f"{plan.topology}: {plan.chips} chips as {_mesh(plan)}, remat {plan.remat}, "
        f"{plan.tokens:,} tokens a step in {plan.accumulate} micro-batches",
        f"compiled in {plan.compile_seconds:.0f} s, {plan.host_bytes / GIB:.1f} GiB of host memory",
        "",
        *_memory(plan),
        "",
        f"FLOPs a step: {sum(plan.flops.values()):.3g} counted, {plan.model_flops:.3g} needed",
    ]
    lines += [f"  {name:28s} {n:9.3g}" for name, n in plan.flops.items()]
    lines += ["", "sent by a chip in a step"]
    lines += [f"  {name:28s} {n / 1e9:9.2f} GB" for name, n in plan.exchanged.items()]
    lines += ["", f"step: at least {plan.step_seconds:.2f} s, bound by {plan.bound}"]
    lines += [f"  {name:28s} {n:9.2f} s" for name, n in plan.seconds.items()]
    lines += [
        f"MFU: at most {plan.mfu:.1%} ({plan.mfu_serial:.1%} if none of these overlapped)",
        f"{tokens:.3g} tokens: at least {plan.days(tokens):.1f} days",
    ]
    return "\n".join(lines)


_HEADER = (
    f"{'data':>5s} {'fsdp':>5s} {'ctx':>4s} {'tens':>5s} {'remat':>10s} {'micro':>6s} "
    f"{'GiB/chip':>9s} {'step s':>8s} {'MFU <=':>7s} {'serial':>7s} {'days':>8s}  bound by"
)


def _row(outcome: Outcome, tokens: float) -> str:
    """One line of a search."""
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


def _write(path: str, figures: list[dict[str, Any]]) -> None:
    import json
    from pathlib import Path

    Path(path).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
