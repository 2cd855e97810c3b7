"""`livecc score`: score existing predictions by the benchmark's own rule.

It recomputes published numbers from results files in published layouts, without a model, and states
what every denominator leaves out. docs/evaluation.md has the layouts and rules.
"""

from __future__ import annotations

import argparse

from livecc_jax.commands.options import write_json

COMMENTARY, WORLD = "commentary", "world"


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declares the command."""
    from livecc_jax.evaluate.benchmarks.catalog import TABLE_LAYOUTS

    parser = subparsers.add_parser("score", help="score existing predictions", description=__doc__)
    benchmarks = (*TABLE_LAYOUTS, COMMENTARY, WORLD)
    parser.add_argument(
        "benchmark", choices=benchmarks, metavar="BENCHMARK", help=", ".join(benchmarks)
    )
    parser.add_argument("predictions", help="results file in a published layout")
    parser.add_argument(
        "--baseline",
        metavar="FILE",
        help="other results to compare with, item by item (commentary: shown with the baselines)",
    )
    parser.add_argument(
        "--reference",
        metavar="FILE",
        help="commentary: annotations or LiveSports-3K-CC.json; world: the folder of the world",
    )
    parser.add_argument("--model", help="judge: the model whose wins count")
    parser.add_argument(
        "--expected",
        type=int,
        metavar="N",
        help="number of answers there should be (default: the benchmark's)",
    )
    parser.add_argument("--full", action="store_true", help="also show the crossed tables")
    parser.add_argument("--json", metavar="OUT", help="also write everything as JSON")
    parser.add_argument("--report", metavar="DIR", help="also write a report, Markdown and HTML")
    parser.add_argument(
        "--resamples", type=int, default=2000, help="number of bootstrap resamples (default 2000)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap (default 0)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the table, and the comparison with a baseline if one is named."""
    from livecc_jax.evaluate.metrics.paired_accuracy import compare_accuracy
    from livecc_jax.evaluate.metrics.score import score_benchmark
    from livecc_jax.evaluate.report.report import write_report
    from livecc_jax.evaluate.report.terminal import format_comparison, format_score

    if args.benchmark == COMMENTARY:
        return _score_commentary(args)
    if args.benchmark == WORLD:
        return _score_world(args)
    options = {"expected": args.expected, "resamples": args.resamples, "seed": args.seed}
    score = score_benchmark(args.benchmark, args.predictions, model=args.model, **options)
    print(format_score(score, full=args.full))
    record, named_comparison = score.to_json(), None
    if args.baseline:
        baseline = score_benchmark(args.benchmark, args.baseline, model=args.model, **options)
        comparison = compare_accuracy(
            score.layout, baseline.answers, score.answers, args.resamples, args.seed
        )
        print()
        print(format_comparison(comparison, args.baseline, args.predictions, full=args.full))
        record["baseline"] = baseline.to_json()
        record["difference"] = [difference.to_json() for difference in comparison.differences]
        named_comparison = comparison, args.baseline
    if args.report:
        write_report(args.report, score, {"command": "livecc score"}, named_comparison)
    if args.json:
        write_json(args.json, record)
    return 0


def _score_commentary(args: argparse.Namespace) -> int:
    """Scores timed predictions against references, together with the baselines."""
    from livecc_jax.errors import ConfigError
    from livecc_jax.evaluate.metrics.commentary_score import score_commentary
    from livecc_jax.evaluate.report.report import write_report
    from livecc_jax.evaluate.report.terminal import format_commentary

    if not args.reference:
        raise ConfigError("commentary is scored against transcripts: give --reference FILE")
    score = score_commentary(args.predictions, args.reference, args.baseline, args.resamples, args.seed)
    print(format_commentary(score))
    if args.report:
        write_report(args.report, score, {"command": "livecc score", "reference": args.reference})
    if args.json:
        write_json(args.json, score.to_json())
    return 0


def _score_world(args: argparse.Namespace) -> int:
    """Scores timed predictions of a synthetic world's matches by facts, together with the baselines."""
    from pathlib import Path

    from livecc_jax.errors import ConfigError
    from livecc_jax.evaluate.metrics.world_score import score_world
    from livecc_jax.evaluate.report.report import write_report
    from livecc_jax.evaluate.report.world_terminal import format_world

    if not args.reference:
        raise ConfigError("a world's commentary is scored by its truth: give --reference FOLDER")
    baselines = {Path(args.baseline).name: args.baseline} if args.baseline else None
    score = score_world(args.predictions, args.reference, baselines, args.resamples, args.seed)
    print(format_world(score))
    if args.report:
        write_report(args.report, score, {"command": "livecc score", "reference": args.reference})
    if args.json:
        write_json(args.json, score.to_json())
    return 0
