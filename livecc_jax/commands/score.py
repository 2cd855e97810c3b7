"""`livecc score`: the table of existing predictions, by the benchmark's own scoring.

Recomputes published numbers from result files in published layouts, without a model, and states what
every denominator leaves out. docs/evaluation.md has the layouts and rules.
"""

from __future__ import annotations

import argparse

COMMENTARY = "commentary"


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declare the command."""
    from livecc_jax.evaluate.benchmarks.catalog import LAYOUTS

    parser = subparsers.add_parser("score", help="score existing predictions", description=__doc__)
    known = (*LAYOUTS, COMMENTARY)
    parser.add_argument("benchmark", choices=known, metavar="BENCHMARK", help=", ".join(known))
    parser.add_argument("predictions", help="results file in a published layout")
    parser.add_argument(
        "--baseline",
        metavar="FILE",
        help="other results, compared item by item (commentary: beside the baselines)",
    )
    parser.add_argument(
        "--reference", metavar="FILE", help="commentary: annotations or LiveSports-3K-CC.json"
    )
    parser.add_argument("--model", help="judge: the model whose wins count")
    parser.add_argument(
        "--expected", type=int, metavar="N", help="answers there should be (default: the benchmark's)"
    )
    parser.add_argument("--full", action="store_true", help="also the crossed tables")
    parser.add_argument("--json", metavar="OUT", help="also write everything as JSON")
    parser.add_argument("--report", metavar="DIR", help="also write a report, Markdown and HTML")
    parser.add_argument("--resamples", type=int, default=2000, help="of the bootstrap (default 2000)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default 0)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the table, and the comparison with a baseline."""
    import json
    from pathlib import Path

    from livecc_jax.evaluate.metrics.compare import compare
    from livecc_jax.evaluate.metrics.score import score
    from livecc_jax.evaluate.metrics.text import comparison_text, scored_text
    from livecc_jax.evaluate.report.report import write_report

    if args.benchmark == COMMENTARY:
        return _commentary(args)
    options = {"expected": args.expected, "resamples": args.resamples, "seed": args.seed}
    scored = score(args.benchmark, args.predictions, model=args.model, **options)
    print(scored_text(scored, full=args.full))
    written, beside = scored.to_json(), None
    if args.baseline:
        other = score(args.benchmark, args.baseline, model=args.model, **options)
        found = compare(scored.layout, other.entries, scored.entries, args.resamples, args.seed)
        print()
        print(comparison_text(found, args.baseline, args.predictions, full=args.full))
        written["baseline"] = other.to_json()
        beside = found, args.baseline
        written["difference"] = [row.to_json() for row in found.rows]
    if args.report:
        write_report(args.report, scored, {"command": "livecc score"}, beside)
    if args.json:
        Path(args.json).write_text(json.dumps(written, indent=1, ensure_ascii=False) + "\n")
    return 0


def _commentary(args: argparse.Namespace) -> int:
    """Timed predictions against transcripts, beside the baselines."""
    import json
    from pathlib import Path

    from livecc_jax.errors import ConfigError
    from livecc_jax.evaluate.metrics.text import commentary_text
    from livecc_jax.evaluate.metrics.timed import score_commentary, to_json
    from livecc_jax.evaluate.report.report import write_report

    if not args.reference:
        raise ConfigError("commentary is scored against transcripts: give --reference FILE")
    found = score_commentary(args.predictions, args.reference, args.baseline, args.resamples, args.seed)
    print(commentary_text(found))
    if args.report:
        write_report(args.report, found, {"command": "livecc score", "reference": args.reference})
    if args.json:
        Path(args.json).write_text(json.dumps(to_json(found), indent=1, ensure_ascii=False) + "\n")
    return 0
