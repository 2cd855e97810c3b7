"""The entry point of `livecc <command>`."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from livecc_jax.commands.parser import build_parser
from livecc_jax.commands.terminal import filter_logs, safe_output
from livecc_jax.errors import LiveCCError

USER_ERROR = 2
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code; bad input ends with one sentence and exit code 2."""
    with safe_output():
        return _run(argv)


def _run(argv: Sequence[str] | None) -> int:
    args = build_parser().parse_args(argv)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    filter_logs()
    logging.getLogger("livecc_jax").setLevel(logging.INFO if args.verbose else logging.WARNING)
    try:
        return args.run(args)
    except LiveCCError as error:
        print(f"livecc {args.command}: {' '.join(str(error).split())}", file=sys.stderr)
        return USER_ERROR
    except BrokenPipeError:
        # The reader of the output has exited (`livecc ... | head`), which is not an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        # The file system refuses: a full disk, no permission, a file where a folder should be.
        if error.filename is None:
            raise
        print(f"livecc {args.command}: {error.filename}: {error.strerror}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print(f"livecc {args.command}: interrupted", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
