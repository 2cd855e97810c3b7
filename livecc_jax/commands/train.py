"""`livecc train`: train from a config file; a run directory that exists is resumed."""

from __future__ import annotations

import argparse
import sys

EPILOG = """Any field of the config can be set: --run DIR --optim.learning_rate 1e-5 ...
--profile 3 traces three steps (or --profile 100-103).

Several processes: on TPU slices and under Slurm or MPI they find each other; elsewhere set
JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID for each.
SIGTERM to any of them lets all save at the same step and end with status 143; run again, they go on."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "train",
        help="train a model from a config file",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", help="Python file that defines `config`")
    parser.add_argument(
        "overrides", nargs=argparse.REMAINDER, metavar="--field.sub value", help="changes to the config"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train, one line a report."""
    from livecc_jax.commands.options import one_of_several, pairs
    from livecc_jax.train.config import load_config, override

    config = override(load_config(args.config), pairs(args.overrides))

    from livecc_jax.parallel.processes import is_first, start_processes

    start_processes()

    from livecc_jax.evaluate.in_training import examinations
    from livecc_jax.train.loop import Progress, train
    from livecc_jax.train.preempt import EXIT_CODE, Preempted

    def report(p: Progress) -> None:
        print(
            f"step {p.step}/{p.steps}  loss {p.loss:.4f}  lr {p.learning_rate:.2e}  "
            f"grad {p.grad_norm:.2f}  {p.tokens_per_second:.0f} tokens/s  targets {p.targets}  "
            f"density {p.density:.0%}  MFU {p.mfu:.1%}  memory {p.memory_bytes / 2**30:.1f} GiB  "
            f"data wait {p.waiting:.0%}  goodput {p.goodput:.0%}"
            + (f"  quarantined {p.quarantined}" if p.quarantined else ""),
            flush=True,
        )

    first = is_first()
    with one_of_several("train"):
        try:
            done = train(config, report if first else None, examinations)
        except Preempted as notice:
            if first:
                print(f"livecc train: {notice}", file=sys.stderr)
            return EXIT_CODE
    if first:
        print(f"{done}: finished")
    return 0
