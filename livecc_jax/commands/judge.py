"""`livecc judge`: a judge model says which of two commentaries is closer to the human one.

It asks an endpoint with OpenAI's protocol, or a checkpoint on this machine, in both orders. Every
answer is cached in OUT/answers.jsonl, so a stopped run resumes and a repeated one costs nothing.
Verdicts are written in the published layout, together with the judge, the date and the prompt.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from livecc_jax.evaluate.judge.endpoint import Endpoint
    from livecc_jax.evaluate.judge.local_judge import LocalJudge


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declares the command."""
    parser = subparsers.add_parser("judge", help="have commentary judged", description=__doc__)
    parser.add_argument("predictions", help="JSON lines of {video_id, event_id, pred}")
    parser.add_argument("--baseline", required=True, metavar="FILE", help="predictions of the baseline")
    parser.add_argument(
        "--reference", required=True, metavar="FILE", help="LiveSports-3K-CC.json, or lines with gt_asr"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="output folder")
    judge = parser.add_mutually_exclusive_group(required=True)
    judge.add_argument(
        "--endpoint", metavar="URL", help="endpoint of the judge, such as https://host/v1"
    )
    judge.add_argument(
        "--checkpoint",
        metavar="MODEL",
        help="a checkpoint on this machine as judge: HuggingFace directory, run, or step of a run",
    )
    parser.add_argument("--judge", metavar="MODEL", help="name of the judge model at the endpoint")
    parser.add_argument(
        "--key-env",
        default="OPENAI_API_KEY",
        metavar="NAME",
        help="environment variable that holds the API key",
    )
    parser.add_argument(
        "--prompt-file", metavar="FILE", help="prompt to use instead of the default one"
    )
    parser.add_argument("--name", help="name of the model (default: name of its file)")
    parser.add_argument("--baseline-name", help="name of the baseline (default: name of its file)")
    parser.add_argument(
        "--field",
        action="append",
        default=[],
        metavar="NAME=JSON",
        help="field of the request, such as max_tokens=null (removed) or max_completion_tokens=64; "
        "with --checkpoint only max_tokens",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="dtype of a checkpoint's weights and cache (default: float32 on a CPU, else bfloat16)",
    )
    parser.add_argument("--workers", type=int, default=8, help="parallel requests (default 8)")
    parser.add_argument("--per-minute", type=float, default=0, help="rate limit (default: none)")
    parser.add_argument("--retries", type=int, default=6, help="retries of a request (default 6)")
    parser.add_argument(
        "--timeout", type=float, default=60, help="timeout of a request, seconds (default 60)"
    )
    parser.add_argument(
        "--first-delay", type=float, default=1, help="seconds before the first retry (default 1)"
    )
    parser.add_argument("--price-in", type=float, default=0, help="price of a million prompt tokens")
    parser.add_argument(
        "--price-out", type=float, default=0, help="price of a million generated tokens"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Judges, prints the win rate and writes the report."""
    import json
    import sys
    from pathlib import Path

    from livecc_jax.errors import ConfigError
    from livecc_jax.evaluate.judge.run_judge import run_judge
    from livecc_jax.evaluate.report.report import write_report
    from livecc_jax.evaluate.report.terminal import format_score

    if args.workers < 1 or args.retries < 0 or args.timeout <= 0 or args.per_minute < 0:
        raise ConfigError(
            "--workers and --timeout must be positive, --retries and --per-minute not below 0"
        )
    judge = _local_judge(args) if args.checkpoint else _endpoint(args)

    def progress(done: int, total: int) -> None:
        if done == total or done % 50 == 0:
            print(f"{done:,} of {total:,} verdicts", file=sys.stderr, flush=True)

    score, record = run_judge(
        args.predictions,
        args.baseline,
        args.reference,
        args.out,
        judge,
        names=(args.name, args.baseline_name),
        prompt_file=args.prompt_file,
        prices=(args.price_in, args.price_out),
        workers=1 if args.checkpoint else args.workers,
        progress=progress,
    )
    settings = {k: v for k, v in record.items() if k != "result"}
    write_report(args.out, score, settings, results_file=Path(score.path).name)
    print(format_score(score))
    for name in ("judge", "dates", "prompt_sha256", "answers", "tokens", "cost", "faults"):
        print(f"{name}: {json.dumps(record[name], ensure_ascii=False)}")
    print(f"written to {Path(args.out)}")
    return 0


def _request_fields(args: argparse.Namespace) -> dict[str, Any]:
    """Returns the request fields of --field; a value that is not JSON is a string."""
    from livecc_jax.bounded_json import parse_json

    fields = {}
    for item in args.field:
        name, equals, value = item.partition("=")
        try:
            fields[name] = parse_json(value) if equals else None
        except ValueError:
            fields[name] = value
    return fields


def _endpoint(args: argparse.Namespace) -> Endpoint:
    import os

    from livecc_jax.errors import ConfigError
    from livecc_jax.evaluate.judge.endpoint import Endpoint, RetryPolicy

    if not args.judge:
        raise ConfigError("--endpoint needs --judge, the name of the judge model")
    return Endpoint(
        args.endpoint,
        args.judge,
        os.environ.get(args.key_env),
        _request_fields(args),
        RetryPolicy(args.retries, args.first_delay, 60.0, args.timeout),
        args.per_minute,
    )


def _local_judge(args: argparse.Namespace) -> LocalJudge:
    from livecc_jax.errors import ConfigError
    from livecc_jax.evaluate.judge.local_judge import MAX_TOKENS, LocalJudge

    if args.judge:
        raise ConfigError("--judge names the model of an endpoint; it cannot be used with --checkpoint")
    fields = _request_fields(args)
    tokens = fields.pop("max_tokens", MAX_TOKENS)
    if fields or not isinstance(tokens, int):
        raise ConfigError("with --checkpoint, --field can only be max_tokens=N")
    return LocalJudge(args.checkpoint, args.dtype, tokens)
