"""`livecc verify`: check that two checkpoints, or a checkpoint and transformers, compute the same.

It compares the weights tensor by tensor, then the activations of every layer and the logits on a
streaming conversation. Exit code 0: equal within the tolerance; 1: they differ; 2: they cannot be
compared.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from livecc_jax.commands.options import add_timeline_options

if TYPE_CHECKING:
    from livecc_jax.data.inspect.conversation_row import ConversationRow
    from livecc_jax.verify.configs import ConfigDifference
    from livecc_jax.verify.difference import Difference
    from livecc_jax.verify.tensors import TensorReport
    from livecc_jax.verify.traces import TraceReport

MAX_TENSORS_SHOWN = 10  # differing tensors


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declares the command."""
    parser = subparsers.add_parser(
        "verify", help="check that two checkpoints compute the same", description=__doc__
    )
    parser.add_argument("a", metavar="A", help="checkpoint: HuggingFace directory, run, or step")
    parser.add_argument("b", metavar="B", nargs="?", help="the checkpoint to compare it with")
    parser.add_argument(
        "--against", choices=("transformers",), help="compare A with transformers' model of it"
    )
    parser.add_argument(
        "--their-positions",
        action="store_true",
        help="with --against transformers: also show where the rotary positions that transformers "
        "itself gives differ from ours (docs/positions.md)",
    )
    parser.add_argument("--clip", metavar="VIDEO", help="video to run on (default: synthetic noise)")
    add_timeline_options(parser)
    parser.add_argument("--turns", type=int, default=4, help="turns of the conversation (default 4)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="default float32"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="T",
        help="tolerance relative to the standard deviation of the values: of the largest difference "
        "(default 1e-4), or with --dtype bfloat16 of a layer's mean difference (default 5e-2)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compares configs, tensors and layers, and prints a table of each."""
    from livecc_jax.commands.verify_positions import show_their_positions
    from livecc_jax.errors import ConfigError
    from livecc_jax.verify.compare import Verification, open_comparison

    if (args.b is None) == (args.against is None):
        raise ConfigError("give either a second checkpoint or --against transformers")
    if args.their_positions and args.against is None:
        raise ConfigError("--their-positions needs --against transformers")
    with open_comparison(
        args.a,
        args.b,
        clip=args.clip,
        turns=args.turns,
        positions=args.positions,
        pixel_budget=args.pixel_budget,
        dtype=args.dtype,
        tolerance=args.tolerance,
    ) as comparison:
        criterion, labels = comparison.criterion, comparison.labels
        print(f"A: {labels[0]}\nB: {labels[1]}")
        checksums, configs = comparison.checksums(), comparison.configs()
        _show_checksums(checksums)
        _show_configs(configs)
        tensors = comparison.tensors()
        _show_tensors(tensors)
        if tensors.mismatched:
            print("\nA and B differ: their architectures are different, so layers are not compared")
            return 1
        row = _describe(comparison.probe, args.clip)
        print(f"\nlayers, on {row}, {comparison.positions}, {args.dtype}")
        report = comparison.layers()
        _show_trace(report)
        moved = args.their_positions and show_their_positions(args, comparison)
    found = Verification(*labels, checksums, configs, tensors, report, criterion)
    limit = f"{criterion.statistic}/std of each layer at most {criterion.tolerance:g}"
    if found.first_difference is not None:
        print(f"\nA and B differ: they part at {found.first_difference.name} ({limit})")
    elif found.weights_differ:
        print(f"\nA and B differ, though no layer does here ({limit})")
    else:
        print(f"\nA and B are equal ({limit})")
    if moved:
        print("That is with our positions; those that transformers itself gives differ, as shown above")
    return int(moved or not found.equal)


def _describe(probe: ConversationRow, clip: str | None) -> str:
    turns = f"{probe.turns} turn{'s' if probe.turns > 1 else ''}"
    return f"{turns} of {clip or 'noise'}: {len(probe.row['tokens'])} tokens"


def _show_checksums(checksums: dict[str, int | None]) -> None:
    """Prints how many files of training steps have been compared with their checksums."""
    for name, count in checksums.items():
        if count is None:
            print(f"checksums: {name} has none, as an earlier version has written it")
        else:
            print(f"checksums: all {count} files of {name} are as they were written")


def _show_configs(differences: Sequence[ConfigDifference]) -> None:
    """Prints the differences."""
    for difference in differences:
        note = " (changes no value)" if difference.harmless else ""
        print(f"config: {difference.field} is {difference.a} in A, {difference.b} in B{note}")


def _show_tensors(report: TensorReport) -> None:
    """Prints the table."""
    print(f"\ntensors: {report.equal} of {report.total} are equal bit for bit")
    for x, y in report.dtypes:
        if x != y:
            print(f"  {x} in A and {y} in B are compared in the wider dtype")
    for mismatch in report.mismatched[:MAX_TENSORS_SHOWN]:
        print(f"  {mismatch}")
    if report.differences:
        width = max(len(d.name) for d in report.differences[:MAX_TENSORS_SHOWN])
        print(f"  {'differing':{width}}  {'max |a-b|':>10}  {'/ rms':>10}")
        for d in report.differences[:MAX_TENSORS_SHOWN]:
            print(f"  {d.name:{width}}  {d.max_abs:10.3g}  {d.relative():10.3g}")
    lists = (report.differences, report.mismatched)
    hidden = sum(max(0, len(entries) - MAX_TENSORS_SHOWN) for entries in lists)
    if hidden:
        print(f"  and {hidden} more")


def _show_trace(report: TraceReport) -> None:
    def line(d: Difference) -> str:
        numbers = (d.max_abs, d.mean_abs, d.scale, d.relative("max"), d.relative("mean"))
        return f"  {d.name:18}" + "".join(f"  {n:9.3g}" for n in numbers)

    heads = ("max |a-b|", "mean", "std", "max/std", "mean/std")
    print(f"  {'':18}" + "".join(f"  {head:>9}" for head in heads))
    for difference in (*report.layers, report.logits):
        print(line(difference))
    print(f"  the same most likely token at {report.agreement:.2%} of {report.positions} positions")
