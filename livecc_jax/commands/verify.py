"""`livecc verify`: whether two checkpoints, or a checkpoint and transformers, compute the same.

Compares the weights tensor by tensor, then what every layer holds and the logits on a streaming
conversation. Exit code 0: equal within the tolerance; 1: they differ; 2: they cannot be compared.
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
    from livecc_jax.checkpoints.stored import Weights
    from livecc_jax.data.inspect.probe import Probe
    from livecc_jax.verify.verify import ConfigGap, Gap, TensorReport, TraceReport

    Trace = Iterable[tuple[str, np.ndarray]]

SHOWN = 10  # differing tensors


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "verify", help="prove that two checkpoints compute the same", description=__doc__
    )
    parser.add_argument("a", metavar="A", help="checkpoint: HuggingFace directory, run, or step")
    parser.add_argument("b", metavar="B", nargs="?", help="the checkpoint to compare it with")
    parser.add_argument(
        "--against", choices=("transformers",), help="compare A with transformers' model of it"
    )
    parser.add_argument("--clip", metavar="VIDEO", help="what to run on (default: made-up noise)")
    add_timeline_options(parser)
    parser.add_argument("--turns", type=int, default=4, help="of the conversation (default 4)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="default float32"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="T",
        help="relative to the spread of the values: of the largest difference (default 1e-4), "
        "or with --dtype bfloat16 of a layer's mean one (default 5e-2)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Compare, table by table."""
    import math

    import jax

    from livecc_jax.checkpoints.open import open_checkpoint
    from livecc_jax.checkpoints.stored import StoredWeights
    from livecc_jax.errors import ConfigError
    from livecc_jax.verify.verify import (
        JUDGED_BY,
        TOLERANCES,
        compare_configs,
        compare_tensors,
        compare_traces,
    )

    if (args.b is None) == (args.against is None):
        raise ConfigError("give either a second checkpoint or --against transformers")
    if args.turns < 1:
        raise ConfigError(f"--turns must be at least 1, not {args.turns}")
    tolerance = TOLERANCES[args.dtype] if args.tolerance is None else args.tolerance
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise ConfigError(f"--tolerance must be a number from 0 on, not {tolerance}")
    by = JUDGED_BY[args.dtype]
    a = open_checkpoint(args.a)
    b = open_checkpoint(args.b) if args.b else None
    probe, shown = _probe(args, [a] if b is None else [a, b])
    with contextlib.ExitStack() as stack:
        if b is None:
            weights = StoredWeights(a, jax.numpy.dtype(args.dtype))
            their_weights, their_trace, label = _transformers(stack, a, args.dtype)
        else:
            weights, their_weights = StoredWeights(a), StoredWeights(b)
            label = f"{b.path} ({b.kind})"

            def their_trace(probe: Probe) -> Trace:
                return _our_trace(b, probe, args.dtype)

        print(f"A: {a.path} ({a.kind})\nB: {label}")
        differs = b is not None and _show_configs(compare_configs(a, b))
        tensors = compare_tensors(weights, their_weights)
        differs |= _show_tensors(tensors, tolerance)
        if tensors.mismatched:
            print("\nA and B differ: they are not of one architecture, so layers are not compared")
            return 1
        print(f"\nlayers, on {shown}, {args.dtype}")
        # Accelerators round float32 products to fewer bits unless told not to.
        with jax.default_matmul_precision("highest" if args.dtype == "float32" else "default"):
            report = compare_traces(their_trace(probe), _our_trace(a, probe, args.dtype))
        _show_trace(report)
    judged = f"{by}/std of each layer at most {tolerance:g}"
    first = report.first_beyond(tolerance, by)
    if first is not None:
        print(f"\nA and B differ: they part at {first.name} ({judged})")
    elif differs:
        print(f"\nA and B differ, though no layer does here ({judged})")
    else:
        print(f"\nA and B are equal ({judged})")
    return int(differs or first is not None)


def _transformers(
    stack: contextlib.ExitStack, a: Checkpoint, dtype: str
) -> tuple[Weights, Callable[[Probe], Trace], str]:
    """transformers' side: (its weights, how to run it, its name)."""
    from livecc_jax.verify.transformers import Peer, needed
    from livecc_jax.verify.verify import in_hf_layout

    for name in ("torch", "transformers"):
        needed(name)  # before a run is exported
    peer = Peer(stack.enter_context(in_hf_layout(a)), a.config, dtype)

    def trace(probe: Probe) -> Trace:
        import numpy as np

        from livecc_jax.model.vision import normalize

        pixels = np.array(normalize(probe.patches, a.config.vision))
        return peer.trace(probe.row["tokens"], probe.row["positions"], pixels, probe.grids)

    return peer, trace, f"transformers {peer.version}"


def _probe(args: argparse.Namespace, checkpoints: Sequence[Checkpoint]) -> tuple[Probe, str]:
    """The conversation to run on, and what to call it. Settings and tokenizer are those of A."""
    from livecc_jax.data.inspect.probe import clip_frames, make_probe, noise_frames
    from livecc_jax.errors import CheckpointError, TokenizerError
    from livecc_jax.media.budget import PixelBudget

    a = checkpoints[0]
    try:
        tokenizer = a.open_tokenizer()
    except TokenizerError:
        # One of two layouts may have lost it.
        tokenizer = checkpoints[-1].open_tokenizer()
    positions = args.positions or a.livecc.positions
    budget = PixelBudget.parse(args.pixel_budget or a.livecc.pixel_budget)
    if args.clip:
        frames = clip_frames(args.clip, budget, args.turns)
    else:
        frames = noise_frames(budget, args.turns)
    probe = make_probe(frames, tokenizer, positions)
    tokens = probe.row["tokens"]
    for checkpoint in checkpoints:
        if tokens.max() >= checkpoint.config.text.vocab_size:
            raise CheckpointError(
                f"{checkpoint.root}: its tokenizer has id {tokens.max()}, but its config.json only "
                f"{checkpoint.config.text.vocab_size} tokens"
            )
    turns = f"{probe.turns} turn{'s' if probe.turns > 1 else ''}"
    return probe, f"{turns} of {args.clip or 'noise'}: {len(tokens)} tokens, {positions}"


def _our_trace(checkpoint: Checkpoint, probe: Probe, dtype: str) -> Iterator[tuple[str, np.ndarray]]:
    import jax

    from livecc_jax.verify.layers import trace

    yield from trace(checkpoint.config, checkpoint.load_params(jax.numpy.dtype(dtype)), probe.row)


def _show_configs(gaps: list[ConfigGap]) -> bool:
    """Print them; whether one of them matters."""
    for gap in gaps:
        note = " (changes no value)" if gap.harmless else ""
        print(f"config: {gap.field} is {gap.a} in A, {gap.b} in B{note}")
    return any(not gap.harmless for gap in gaps)


def _show_tensors(report: TensorReport, tolerance: float) -> bool:
    """Print the table; whether weights differ by more than the tolerance."""
    print(f"\ntensors: {report.same} of {report.total} are equal bit for bit")
    for x, y in report.dtypes:
        if x != y:
            print(f"  {x} in A and {y} in B are compared after widening")
    for sentence in report.mismatched[:SHOWN]:
        print(f"  {sentence}")
    if report.gaps:
        width = max(len(gap.name) for gap in report.gaps[:SHOWN])
        print(f"  {'differing':{width}}  {'max |a-b|':>10}  {'/ rms':>10}")
        for gap in report.gaps[:SHOWN]:
            print(f"  {gap.name:{width}}  {gap.largest:10.3g}  {gap.relative():10.3g}")
    rest = max(0, len(report.gaps) - SHOWN) + max(0, len(report.mismatched) - SHOWN)
    if rest:
        print(f"  and {rest} more")
    return bool(report.mismatched) or not all(gap.within(tolerance) for gap in report.gaps)


def _show_trace(report: TraceReport) -> None:
    def line(gap: Gap) -> str:
        numbers = (gap.largest, gap.mean, gap.scale, gap.relative("max"), gap.relative("mean"))
        return f"  {gap.name:18}" + "".join(f"  {n:9.3g}" for n in numbers)

    heads = ("max |a-b|", "mean", "std", "max/std", "mean/std")
    print(f"  {'':18}" + "".join(f"  {head:>9}" for head in heads))
    for gap in (*report.layers, report.logits):
        print(line(gap))
    print(f"  the same most likely token at {report.agreement:.2%} of {report.positions} positions")
