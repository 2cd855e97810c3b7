"""`livecc train`: train from a config file; a run directory that exists is resumed."""

from __future__ import annotations

import argparse
import sys


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "train",
        help="train a model from a config file",
        description=__doc__,
        epilog="Any field of the config can be set: --run DIR --optim.learning_rate 1e-5 ...",
    )
    parser.add_argument("config", help="Python file that defines `config`")
    parser.add_argument(
        "overrides", nargs=argparse.REMAINDER, metavar="--field.sub value", help="changes to the config"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train, one line a report."""
    from livecc_jax.commands.options import pairs
    from livecc_jax.train.config import load_config, override

    config = override(load_config(args.config), pairs(args.overrides))

    from livecc_jax.train.loop import Progress, train

    def report(p: Progress) -> None:
        print(
            f"step {p.step}/{p.steps}  loss {p.loss:.4f}  lr {p.learning_rate:.2e}  "
            f"grad {p.grad_norm:.2f}  {p.tokens_per_second:.0f} tokens/s  targets {p.targets}  "
            f"density {p.density:.0%}  MFU {p.mfu:.1%}  memory {p.memory_bytes / 2**30:.1f} GiB  "
            f"data wait {p.waiting:.0%}" + (f"  quarantined {p.quarantined}" if p.quarantined else ""),
            flush=True,
        )

    done = train(config, report)
    print(f"{done}: finished", file=sys.stdout)
    return 0
