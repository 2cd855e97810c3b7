"""`livecc judge`: which of two commentaries is closer to the human one, by a judge model.

Asks any endpoint with OpenAI's protocol, or a checkpoint on this machine, in both orders, and keeps
every answer in OUT/answers.jsonl: a run that was stopped goes on, and a repeated one costs nothing.
Verdicts are written in the published layout, with the judge, date and prompt beside them.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from livecc_jax.evaluate.judge.endpoint import Endpoint
    from livecc_jax.evaluate.judge.local_judge import LocalJudge


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declare the command."""
    parser = subparsers.add_parser("judge", help="have commentary judged", description=__doc__)
    parser.add_argument("predictions", help="JSON lines of {video_id, event_id, pred}")
    parser.add_argument("--baseline", required=True, metavar="FILE", help="the other's predictions")
    parser.add_argument(
        "--reference", required=True, metavar="FILE", help="LiveSports-3K-CC.json, or lines with gt_asr"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="where everything is written")
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--endpoint", metavar="URL", help="such as https://host/v1")
    asked.add_argument(
        "--checkpoint",
        metavar="MODEL",
        help="a checkpoint on this machine as judge: HuggingFace directory, run, or step of a run",
    )
    parser.add_argument("--judge", metavar="MODEL", help="as the endpoint calls it")
    parser.add_argument(
        "--key-env", default="OPENAI_API_KEY", metavar="NAME", help="variable that holds the key"
    )
    parser.add_argument("--prompt-file", metavar="FILE", help="a prompt in place of ours")
    parser.add_argument("--name", help="of the model (default: its file's name)")
    parser.add_argument("--baseline-name", help="of the baseline (default: its file's name)")
    parser.add_argument(
        "--field",
        action="append",
        default=[],
        metavar="NAME=JSON",
        help="of the request, such as max_tokens=null (left out) or max_completion_tokens=64; with "
        "--checkpoint max_tokens alone",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of a checkpoint's weights and cache (default: float32 on a CPU, bfloat16 elsewhere)",
    )
    parser.add_argument("--workers", type=int, default=8, help="requests at once (default 8)")
    parser.add_argument("--per-minute", type=float, default=0, help="most requests (default: any)")
    parser.add_argument("--retries", type=int, default=6, help="of a request (default 6)")
    parser.add_argument("--timeout", type=float, default=60, help="seconds a request (default 60)")
    parser.add_argument(
        "--first-delay", type=float, default=1, help="seconds before a retry (default 1)"
    )
    parser.add_argument("--price-in", type=float, default=0, help="of a million tokens in")
    parser.add_argument("--price-out", type=float, default=0, help="of a million tokens out")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Judge, then print and write the win rate."""
    import json
    import sys
    from pathlib import Path

    from livecc_jax.errors import ConfigError
    from livecc_jax.evaluate.judge.judge_files import judge_files
    from livecc_jax.evaluate.metrics.text import scored_text
    from livecc_jax.evaluate.report.report import write_report

    if args.workers < 1 or args.retries < 0 or args.timeout <= 0 or args.per_minute < 0:
        raise ConfigError(
            "--workers and --timeout must be positive, --retries and --per-minute not below 0"
        )
    judge = _checkpoint(args) if args.checkpoint else _endpoint(args)

    def progress(done: int, of: int) -> None:
        if done == of or done % 50 == 0:
            print(f"{done:,} of {of:,} verdicts", file=sys.stderr, flush=True)

    scored, record = judge_files(
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
    kept = {k: v for k, v in record.items() if k != "result"}
    write_report(args.out, scored, kept, results_file=Path(scored.path).name)
    print(scored_text(scored))
    for name in ("judge", "dates", "prompt_sha256", "answers", "tokens", "cost", "faults"):
        print(f"{name}: {json.dumps(record[name], ensure_ascii=False)}")
    print(f"written to {Path(args.out)}")
    return 0


def _fields(args: argparse.Namespace) -> dict[str, Any]:
    """Of --field; a value that is no JSON is a string."""
    import json

    fields = {}
    for item in args.field:
        name, equals, value = item.partition("=")
        try:
            fields[name] = json.loads(value) if equals else None
        except ValueError:
            fields[name] = value
    return fields


def _endpoint(args: argparse.Namespace) -> Endpoint:
    import os

    from livecc_jax.errors import ConfigError
    from livecc_jax.evaluate.judge.endpoint import Endpoint, Patience

    if not args.judge:
        raise ConfigError("--endpoint needs --judge, the model as the endpoint calls it")
    return Endpoint(
        args.endpoint,
        args.judge,
        os.environ.get(args.key_env),
        _fields(args),
        Patience(args.retries, args.first_delay, 60.0, args.timeout),
        args.per_minute,
    )


def _checkpoint(args: argparse.Namespace) -> LocalJudge:
    from livecc_jax.errors import ConfigError
    from livecc_jax.evaluate.judge.local_judge import MAX_TOKENS, LocalJudge

    if args.judge:
        raise ConfigError("--judge is what an endpoint calls its model; --checkpoint needs none")
    fields = _fields(args)
    tokens = fields.pop("max_tokens", MAX_TOKENS)
    if fields or not isinstance(tokens, int):
        raise ConfigError("with --checkpoint, --field can only be max_tokens=N")
    return LocalJudge(args.checkpoint, args.dtype, tokens)
