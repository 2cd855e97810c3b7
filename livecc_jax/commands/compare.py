"""`livecc compare`: two runs on one benchmark, item by item, with paired significance."""

from __future__ import annotations

import argparse


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declare the command."""
    from livecc_jax.evaluate.benchmarks.catalog import LAYOUTS

    parser = subparsers.add_parser("compare", help="compare two runs", description=__doc__)
    parser.add_argument("a", help="results file, or folder that `livecc evaluate` wrote")
    parser.add_argument("b", help="the other; differences are B - A")
    parser.add_argument(
        "--benchmark", choices=tuple(LAYOUTS), help="of results files (folders say it themselves)"
    )
    parser.add_argument("--model", help="judge: the model whose wins count")
    parser.add_argument("--full", action="store_true", help="also the crossed tables")
    parser.add_argument("--json", metavar="OUT", help="also write everything as JSON")
    parser.add_argument("--resamples", type=int, default=2000, help="of the bootstrap (default 2000)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default 0)")
    parser.add_argument(
        "--reference",
        metavar="FILE",
        help="transcripts, for two files of commentary (folders of `livecc evaluate` know theirs)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the comparison."""
    import json
    from pathlib import Path

    from livecc_jax.evaluate.benchmarks.catalog import LAYOUTS
    from livecc_jax.evaluate.metrics.compare import compare
    from livecc_jax.evaluate.metrics.paired import compare_commentary, paired_text, to_json
    from livecc_jax.evaluate.metrics.score import find_commentaries, find_results, score
    from livecc_jax.evaluate.metrics.text import comparison_text

    runs = find_commentaries([args.a, args.b], args.reference)
    if runs is not None:
        files, reference = runs
        paired = compare_commentary(*files, reference, args.resamples, args.seed)
        print(paired_text(paired, args.a, args.b))
        if args.json:
            told = {"a": args.a, "b": args.b} | to_json(paired)
            Path(args.json).write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")
        return 0
    paths, benchmark = find_results([args.a, args.b], args.benchmark)
    options = {"resamples": 1, "seed": args.seed, "model": args.model}
    a, b = (score(benchmark, path, **options).entries for path in paths)
    found = compare(LAYOUTS[benchmark], a, b, args.resamples, args.seed)
    print(comparison_text(found, args.a, args.b, full=args.full))
    if args.json:
        written = {
            "benchmark": benchmark,
            "a": args.a,
            "b": args.b,
            "common": found.common,
            "alone_a": found.alone_a,
            "alone_b": found.alone_b,
            "rows": [row.to_json() for row in found.rows],
        }
        Path(args.json).write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n")
    return 0
