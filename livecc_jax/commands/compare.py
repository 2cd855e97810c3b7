"""`livecc compare`: compare two runs on one benchmark, item by item, with paired tests."""

from __future__ import annotations

import argparse

from livecc_jax.commands.options import write_json


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declares the command."""
    from livecc_jax.evaluate.benchmarks.catalog import TABLE_LAYOUTS

    parser = subparsers.add_parser("compare", help="compare two runs", description=__doc__)
    parser.add_argument("a", help="results file, or folder that `livecc evaluate` wrote")
    parser.add_argument("b", help="the other run; differences are B - A")
    parser.add_argument(
        "--benchmark",
        choices=tuple(TABLE_LAYOUTS),
        help="benchmark of results files (a folder names its own)",
    )
    parser.add_argument("--model", help="judge: the model whose wins count")
    parser.add_argument("--full", action="store_true", help="also show the crossed tables")
    parser.add_argument("--json", metavar="OUT", help="also write everything as JSON")
    parser.add_argument(
        "--resamples", type=int, default=2000, help="number of bootstrap resamples (default 2000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (default 0)")
    parser.add_argument(
        "--reference",
        metavar="FILE",
        help="transcripts, for two files of commentary (a folder of `livecc evaluate` names its own)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the comparison."""
    from livecc_jax.evaluate.benchmarks.catalog import TABLE_LAYOUTS
    from livecc_jax.evaluate.metrics.paired_accuracy import compare_accuracy
    from livecc_jax.evaluate.metrics.paired_commentary import compare_commentary
    from livecc_jax.evaluate.metrics.run_results import (
        find_benchmark_results,
        find_commentary_results,
    )
    from livecc_jax.evaluate.metrics.score import score_benchmark
    from livecc_jax.evaluate.report.terminal import format_commentary_comparison, format_comparison

    commentary = find_commentary_results([args.a, args.b], args.reference)
    if commentary is not None:
        files, reference = commentary
        comparison = compare_commentary(*files, reference, args.resamples, args.seed)
        print(format_commentary_comparison(comparison, args.a, args.b))
        if args.json:
            write_json(args.json, {"a": args.a, "b": args.b} | comparison.to_json())
        return 0
    paths, benchmark = find_benchmark_results([args.a, args.b], args.benchmark)
    options = {"resamples": 1, "seed": args.seed, "model": args.model}
    a, b = (score_benchmark(benchmark, path, **options).answers for path in paths)
    comparison = compare_accuracy(TABLE_LAYOUTS[benchmark], a, b, args.resamples, args.seed)
    print(format_comparison(comparison, args.a, args.b, full=args.full))
    if args.json:
        record = {
            "benchmark": benchmark,
            "a": args.a,
            "b": args.b,
            "common": comparison.common_items,
            "alone_a": comparison.unpaired_a,
            "alone_b": comparison.unpaired_b,
            "rows": [difference.to_json() for difference in comparison.differences],
        }
        write_json(args.json, record)
    return 0
