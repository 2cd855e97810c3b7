"""The entry point of `livecc <command>`."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Sequence

from livecc_jax.commands.parser import build_parser
from livecc_jax.commands.signals import stop_signals
from livecc_jax.commands.terminal import filter_logs, safe_output
from livecc_jax.errors import LiveCCError
from livecc_jax.writing import DISK_FULL

USER_ERROR = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code; bad input ends with one sentence and exit code 2."""
    with safe_output():
        return _run(argv)


def _run(argv: Sequence[str] | None) -> int:
    args = build_parser().parse_args(argv)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    filter_logs()
    logging.getLogger("livecc_jax").setLevel(logging.INFO if args.verbose else logging.WARNING)
    with stop_signals(args.command) as stop:
        try:
            code = args.run(args)
            sys.stdout.flush()
            return code
        except KeyboardInterrupt:
            return _fail(args.command, str(stop), stop.exit_code)
        except Exception as error:
            if stop.received:  # what native code makes of an interrupt, or a consequence of it
                return _fail(args.command, str(stop), stop.exit_code)
            return _answer(args.command, error)
        finally:
            _drop_refused_output()


def _answer(command: str, error: Exception) -> int:
    """Says in one sentence what a user can correct, and returns the exit code; raises other errors."""
    if isinstance(error, LiveCCError):
        return _fail(command, " ".join(str(error).split()))
    if isinstance(error, BrokenPipeError):
        # The reader of the output has exited (`livecc ... | head`), which is not an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if isinstance(error, OSError):
        # The file system refuses: a full disk, no permission, a file where a folder should be.
        if error.filename is not None:
            return _fail(command, f"{error.filename}: {error.strerror}")
        if error.errno in DISK_FULL:
            return _fail(command, f"a file cannot be written: {error.strerror}")
    raise error


def _fail(command: str, message: str, code: int = USER_ERROR) -> int:
    with contextlib.suppress(OSError):  # standard error may be what is full
        print(f"livecc {command}: {message}", file=sys.stderr)
    return code


def _drop_refused_output() -> None:
    """Drops what standard output refuses, which Python would otherwise try again when it exits."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):  # ValueError: it is closed
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
