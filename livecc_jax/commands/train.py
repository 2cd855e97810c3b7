"""`livecc train`: train from a config file; a run directory that exists is resumed."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, NoReturn

from livecc_jax.commands.media_root import add_media_root_options
from livecc_jax.commands.options import parse_overrides

if TYPE_CHECKING:
    from livecc_jax.train.config import Config

EPILOG = """Any field of the config can be set: --run DIR --optim.learning_rate 1e-5 ...
`livecc train --help` lists them, `livecc train CONFIG --help` with the values of that config.
--profile 3 traces three steps (or --profile 100-103).

Several processes: on TPU slices and under Slurm or MPI they find each other; elsewhere set
JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID for each.
After SIGTERM to any of them, all save at the same step and end with status 143; started again, they
continue from there."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "train",
        help="train a model from a config file",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action=_Help, nargs=0, help="show this help and all fields")
    add_media_root_options(parser)
    parser.add_argument(
        "config",
        help="Python file that defines `config`, or a shipped one: demo, pretrain_7b, sft_7b, ...",
    )
    parser.add_argument(
        "overrides", nargs=argparse.REMAINDER, metavar="--field.sub value", help="changes to the config"
    )
    parser.set_defaults(run=run)


class _Help(argparse.Action):
    """Prints the command's help and that of the fields, which needs the config's libraries."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        """Prints both, and exits."""
        from livecc_jax.train.config import Config

        _print_help(parser, Config())


def _print_help(parser: argparse.ArgumentParser | None, config: Config) -> NoReturn:
    from livecc_jax.train.overrides import describe_fields

    if parser is not None:
        parser.print_help()
        print()
    print(describe_fields(config))
    sys.exit(0)


def _overrides(args: argparse.Namespace) -> list[tuple[str, str]]:
    """Returns changes to the config, of which two have the names of other commands' options too."""
    changes = [("media-root", args.media_root)] * bool(args.media_root)
    changes += [("allow-host", host) for host in args.allow_host]
    changes += parse_overrides(args.overrides)
    hosts = [value for name, value in changes if name == "allow-host"]
    changes = [change for change in changes if change[0] != "allow-host"]
    changes = [("data.media_root" if n == "media-root" else n, value) for n, value in changes]
    return changes + [("data.allow_hosts", ",".join(hosts))] * bool(hosts)


def run(args: argparse.Namespace) -> int:
    """Trains, and prints one line for every report."""
    from livecc_jax.commands.options import fail_fast
    from livecc_jax.train.config import load_config
    from livecc_jax.train.overrides import override

    config = load_config(args.config)
    if {"-h", "--help"} & {*args.overrides}:
        _print_help(None, config)
    config = override(config, _overrides(args))

    from livecc_jax.api.training import train_model
    from livecc_jax.parallel.processes import initialize_processes, is_main_process
    from livecc_jax.train.metrics import Progress

    initialize_processes()
    from livecc_jax.train.preemption import PREEMPTED_EXIT_CODE, Preempted

    def report(p: Progress) -> None:
        print(
            f"step {p.step}/{p.steps}  loss {p.loss:.4f}  lr {p.learning_rate:.2e}  "
            f"grad {p.grad_norm:.2f}  {p.tokens_per_second:.0f} tokens/s  targets {p.targets}  "
            f"density {p.density:.0%}  MFU {p.mfu:.1%}  memory {p.memory_bytes / 2**30:.1f} GiB  "
            f"data wait {p.waiting:.0%}  goodput {p.goodput:.0%}"
            + (f"  quarantined {p.quarantined}" if p.quarantined else ""),
            flush=True,
        )

    is_main = is_main_process()
    with fail_fast("train"):
        try:
            run_directory = train_model(config, report=report)
        except Preempted as message:
            if is_main:
                print(f"livecc train: {message}", file=sys.stderr)
            return PREEMPTED_EXIT_CODE
    if is_main:
        print(f"{run_directory}: finished")
    return 0
