"""`livecc verify`: check that two checkpoints, or a checkpoint and transformers, compute the same.

It compares the weights tensor by tensor, then the activations of every layer and the logits on a
streaming conversation. Exit code 0: equal within the tolerance; 1: they differ; 2: they cannot be
compared.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from livecc_jax.commands.options import add_timeline_options

if TYPE_CHECKING:
    import numpy as np

    from livecc_jax.checkpoints.open import Checkpoint
    from livecc_jax.data.inspect.conversation_row import ConversationRow
    from livecc_jax.text.tokenizer import Tokenizer
    from livecc_jax.verify.configs import ConfigDifference
    from livecc_jax.verify.difference import Difference
    from livecc_jax.verify.tensors import TensorReport
    from livecc_jax.verify.traces import TraceReport
    from livecc_jax.verify.transformers import TransformersModel

    Trace = Iterable[tuple[str, np.ndarray]]

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
    import math

    import jax

    from livecc_jax.checkpoints.open import open_checkpoint
    from livecc_jax.checkpoints.weight_source import CheckpointWeights
    from livecc_jax.commands.verify_positions import show_their_positions
    from livecc_jax.errors import ConfigError
    from livecc_jax.verify.configs import compare_configs
    from livecc_jax.verify.difference import STATISTIC, TOLERANCES
    from livecc_jax.verify.tensors import compare_tensors
    from livecc_jax.verify.traces import compare_traces

    if (args.b is None) == (args.against is None):
        raise ConfigError("give either a second checkpoint or --against transformers")
    if args.their_positions and args.against is None:
        raise ConfigError("--their-positions needs --against transformers")
    if args.turns < 1:
        raise ConfigError(f"--turns must be at least 1, not {args.turns}")
    tolerance = TOLERANCES[args.dtype] if args.tolerance is None else args.tolerance
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise ConfigError(f"--tolerance must be a finite number of at least 0, not {tolerance}")
    statistic = STATISTIC[args.dtype]
    a = open_checkpoint(args.a)
    b = open_checkpoint(args.b) if args.b else None
    probe, tokenizer, positions = _probe(args, [a] if b is None else [a, b])
    with contextlib.ExitStack() as stack:
        if b is None:
            weights_a = CheckpointWeights(a, jax.numpy.dtype(args.dtype))
            model = _transformers(stack, a, args.dtype)
            weights_b, trace_b = model, _transformers_trace(model, a)
            label = f"transformers {model.version}"
        else:
            weights_a, weights_b = CheckpointWeights(a), CheckpointWeights(b)
            label = f"{b.path} ({b.kind})"

            def trace_b(probe: ConversationRow) -> Trace:
                return _checkpoint_trace(b, probe, args.dtype)

        print(f"A: {a.path} ({a.kind})\nB: {label}")
        _show_checksums({"A": a, "B": b})
        differs = b is not None and _show_configs(compare_configs(a, b))
        tensors = compare_tensors(weights_a, weights_b)
        differs |= _show_tensors(tensors, tolerance)
        if tensors.mismatched:
            print("\nA and B differ: their architectures are different, so layers are not compared")
            return 1
        print(f"\nlayers, on {_describe(probe, args.clip)}, {positions}, {args.dtype}")
        # By default, accelerators compute float32 products in lower precision.
        with jax.default_matmul_precision("highest" if args.dtype == "float32" else "default"):
            report = compare_traces(trace_b(probe), _checkpoint_trace(a, probe, args.dtype))
        _show_trace(report)
        moved = args.their_positions and show_their_positions(
            args, model, a, probe, tokenizer, positions
        )
    criterion = f"{statistic}/std of each layer at most {tolerance:g}"
    first = report.first_beyond(tolerance, statistic)
    if first is not None:
        print(f"\nA and B differ: they part at {first.name} ({criterion})")
    elif differs:
        print(f"\nA and B differ, though no layer does here ({criterion})")
    else:
        print(f"\nA and B are equal ({criterion})")
    if moved:
        print("That is with our positions; those that transformers itself gives differ, as shown above")
    return int(differs or moved or first is not None)


def _transformers(stack: contextlib.ExitStack, a: Checkpoint, dtype: str) -> TransformersModel:
    """Loads the model in transformers, which is also a weight source."""
    from livecc_jax.verify.transformers import TransformersModel, hf_directory, import_optional

    for name in ("torch", "transformers"):
        import_optional(name)  # fail before the export, which takes long
    return TransformersModel(stack.enter_context(hf_directory(a)), a.config, dtype)


def _transformers_trace(model: TransformersModel, a: Checkpoint) -> Callable[[ConversationRow], Trace]:
    def trace(probe: ConversationRow) -> Trace:
        import numpy as np

        from livecc_jax.model.vision import normalize

        pixels = np.array(normalize(probe.patches, a.config.vision))
        return model.trace(probe.row["tokens"], probe.row["positions"], pixels, probe.grids)

    return trace


def _probe(
    args: argparse.Namespace, checkpoints: Sequence[Checkpoint]
) -> tuple[ConversationRow, Tokenizer, str]:
    """Returns (conversation to run on, tokenizer, position mode). Settings and tokenizer are A's."""
    from livecc_jax.data.inspect.conversation_row import (
        clip_turn_frames,
        conversation_row,
        noise_turn_frames,
    )
    from livecc_jax.errors import CheckpointError, TokenizerError
    from livecc_jax.media.budget import PixelBudget

    a = checkpoints[0]
    try:
        tokenizer = a.open_tokenizer()
    except TokenizerError:
        # A converted copy may lack the tokenizer.
        tokenizer = checkpoints[-1].open_tokenizer()
    positions = args.positions or a.livecc.positions
    budget = PixelBudget.parse(args.pixel_budget or a.livecc.pixel_budget)
    if args.clip:
        frames = clip_turn_frames(args.clip, budget, args.turns)
    else:
        frames = noise_turn_frames(budget, args.turns)
    probe = conversation_row(frames, tokenizer, positions)
    tokens = probe.row["tokens"]
    for checkpoint in checkpoints:
        if tokens.max() >= checkpoint.config.text.vocab_size:
            raise CheckpointError(
                f"{checkpoint.root}: its tokenizer has id {tokens.max()}, but its config.json only "
                f"{checkpoint.config.text.vocab_size} tokens"
            )
    return probe, tokenizer, positions


def _describe(probe: ConversationRow, clip: str | None) -> str:
    turns = f"{probe.turns} turn{'s' if probe.turns > 1 else ''}"
    return f"{turns} of {clip or 'noise'}: {len(probe.row['tokens'])} tokens"


def _checkpoint_trace(
    checkpoint: Checkpoint, probe: ConversationRow, dtype: str
) -> Iterator[tuple[str, np.ndarray]]:
    import jax

    from livecc_jax.verify.layers import trace_layers

    yield from trace_layers(
        checkpoint.config, checkpoint.load_params(jax.numpy.dtype(dtype)), probe.row
    )


def _show_checksums(checkpoints: dict[str, Checkpoint | None]) -> None:
    """Compares the files of training steps with their checksums, and prints how many there are.

    Raises CheckpointError when a file is damaged.
    """
    for name, checkpoint in checkpoints.items():
        if checkpoint is None or checkpoint.kind == "hf":
            continue
        count = checkpoint.check_files()
        if count is None:
            print(f"checksums: {name} has none, as an earlier version has written it")
        else:
            print(f"checksums: all {count} files of {name} are as they were written")


def _show_configs(differences: list[ConfigDifference]) -> bool:
    """Prints the differences; returns whether one of them changes a result."""
    for difference in differences:
        note = " (changes no value)" if difference.harmless else ""
        print(f"config: {difference.field} is {difference.a} in A, {difference.b} in B{note}")
    return any(not difference.harmless for difference in differences)


def _show_tensors(report: TensorReport, tolerance: float) -> bool:
    """Prints the table; returns whether weights differ by more than the tolerance."""
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
    return bool(report.mismatched) or not all(d.within(tolerance) for d in report.differences)


def _show_trace(report: TraceReport) -> None:
    def line(d: Difference) -> str:
        numbers = (d.max_abs, d.mean_abs, d.scale, d.relative("max"), d.relative("mean"))
        return f"  {d.name:18}" + "".join(f"  {n:9.3g}" for n in numbers)

    heads = ("max |a-b|", "mean", "std", "max/std", "mean/std")
    print(f"  {'':18}" + "".join(f"  {head:>9}" for head in heads))
    for difference in (*report.layers, report.logits):
        print(line(difference))
    print(f"  the same most likely token at {report.agreement:.2%} of {report.positions} positions")
