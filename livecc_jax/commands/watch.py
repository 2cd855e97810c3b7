"""`livecc watch`: comment on many videos, cameras and network streams at once."""

from __future__ import annotations

import argparse
import collections
import contextlib
import logging
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TextIO

from livecc_jax.commands.options import (
    add_cache_precision_option,
    add_decoding_options,
    add_device_options,
    add_media_options,
    add_timeline_options,
    decoding_options,
    media_rules,
    open_command_model,
)
from livecc_jax.commands.signals import Terminated, raise_if_stopped
from livecc_jax.redact import RedactingFilter, redact_address

if TYPE_CHECKING:
    from livecc_jax.serving.latency import SourceStats
    from livecc_jax.serving.source import StreamOutput, WatchedSource
    from livecc_jax.serving.watch import Watch

REDRAW_SECONDS = 0.5
MAX_LINES = 10_000  # lines that wait while the terminal takes none
UNLIMITED = 10**6  # lines


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "watch", help="comment on many live sources at once", description=__doc__
    )
    parser.add_argument("model", help="checkpoint: HuggingFace directory, run, or step of a run")
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="source",
        help="video file, camera number (0 or camera:0), or rtsp:// or http:// address",
    )
    parser.add_argument(
        "--query",
        action="append",
        default=[],
        help="what to do, in words; once for all sources, or once for each source in order",
    )
    parser.add_argument("--title", default="", help="title of the videos")
    parser.add_argument("--out", metavar="DIR", help="write NAME.jsonl, .vtt and .srt for each source")
    add_timeline_options(parser)
    add_media_options(parser)
    parser.add_argument(
        "--cache",
        choices=("full", "rolling"),
        default="rolling",
        help="what stays in a context, as in `livecc stream` (default: rolling)",
    )
    parser.add_argument(
        "--pace",
        choices=("fast", "own"),
        default="fast",
        help="how files are read: as fast as they are decoded, or as if they were live (default: fast)",
    )
    parser.add_argument(
        "--retries",
        type=int,
        metavar="N",
        help="give up a live source after so many attempts without a picture (default: never)",
    )
    parser.add_argument(
        "--batch",
        type=int,
        default=16,
        metavar="N",
        help="largest number of turns in an engine step (default 16)",
    )
    add_decoding_options(parser)
    add_cache_precision_option(parser, "the engine")
    add_device_options(parser)
    parser.add_argument(
        "--warm-up",
        action="append",
        default=[],
        metavar="WIDTHxHEIGHT",
        help="compile for pictures of this size before any source is opened; repeat for more",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Watches until every source is over, or until interrupted."""
    from livecc_jax.api.streams import watch
    from livecc_jax.errors import ConfigError
    from livecc_jax.serving.names import source_names

    if args.retries is not None and args.retries < 0:
        raise ConfigError(f"--retries must not be negative, not {args.retries}")
    if len(args.query) not in (0, 1, len(args.sources)):
        raise ConfigError(f"--query is given {len(args.query)} times for {len(args.sources)} sources")
    screen, terminated = Screen(sys.stdout), False
    names = source_names(args.sources)
    with contextlib.ExitStack() as stack:
        stack.callback(screen.close)
        stack.enter_context(logs_as_lines(screen.lines, dict(zip(args.sources, names))))
        streams = watch(
            open_command_model(args),
            dict(zip(names, args.sources)),
            query=args.query,
            title=args.title,
            out=args.out,
            cache=args.cache,
            cache_precision=args.cache_precision,
            batch=args.batch,
            pace=args.pace,
            retries=args.retries,
            pixel_budget=args.pixel_budget,
            rules=media_rules(args),
            warm_up=[parse_size(text) for text in args.warm_up],
            on_output=screen.print_output,
            **decoding_options(args),
        )
        stack.enter_context(streams)
        sources, running = list(streams.sources.values()), streams.engine_watch
        try:
            while not streams.wait(REDRAW_SECONDS):
                screen.show(running, sources)
                raise_if_stopped()
        except Terminated:
            terminated = True
        except KeyboardInterrupt:
            pass  # the usual way to stop watching cameras
        streams.close()
        screen.show(running, sources, last=True)
    if terminated:
        return 128 + signal.SIGTERM
    return 2 if any(source.stats().state == "failed" for source in sources) else 0


def parse_size(text: str) -> tuple[int, int]:
    """Returns `1920x1080` as (height, width). Raises ConfigError for any other form."""
    from livecc_jax.errors import ConfigError

    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not match:
        raise ConfigError(f"--warm-up {text!r} is not of the form WIDTHxHEIGHT, such as 1920x1080")
    return int(match[2]), int(match[1])


class Screen:
    """A table that is redrawn below the lines that scroll by; plain lines where there is no terminal.

    Args:
        out: Where to write.

    Attributes:
        lines: Lines to print at the next redraw; any thread may append.
    """

    def __init__(self, out: TextIO) -> None:
        from rich.live import Live

        from livecc_jax.commands.console import SafeConsole

        self._console = SafeConsole(out)
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="visible",
        )
        self.lines: collections.deque[str] = collections.deque(maxlen=MAX_LINES)

    def print_output(self, name: str, output: StreamOutput) -> None:
        """Prints a result of a source, unless there is a table.

        Args:
            name: Name of the source.
            output: A turn or an answer.
        """
        from livecc_jax.stream.turn import Answer

        if not self._console.is_terminal and not isinstance(output, Answer) and output.words:
            self.lines.append(f"{name}: {output.start:.1f} - {output.stop:.1f} {output.words}")

    def show(self, watch: Watch, sources: Sequence[WatchedSource], last: bool = False) -> None:
        """Prints new lines, and the table; without a terminal only the last table.

        Args:
            watch: The watch.
            sources: Its sources.
            last: Whether this is the last call.
        """
        from livecc_jax.serving.table import table

        self._print_lines()
        if self._console.is_terminal or last:
            stats = [source.stats() for source in sources]
            height = UNLIMITED if last else self._console.height
            drawn = table(stats, summary(watch, stats), height)
            if not self._console.is_terminal:
                self._console.print(drawn)
            else:
                if not self._live.is_started:
                    self._live.start()
                self._live.update(drawn, refresh=True)
        if last:
            self._live.stop()
        self._console.file.flush()

    def close(self) -> None:
        """Prints what waits and leaves the terminal as it was, whatever has happened."""
        self._print_lines()
        self._live.stop()

    def _print_lines(self) -> None:
        from rich.text import Text

        from livecc_jax.redact import displayable

        for line in [self.lines.popleft() for _ in range(len(self.lines))]:
            self._console.print(Text(displayable(line)))


def summary(watch: Watch, stats: Sequence[SourceStats]) -> str:
    """Returns the table's last line: states of all sources, engine steps and memory."""
    from livecc_jax.serving.latency import device_bytes, host_bytes
    from livecc_jax.serving.table import gigabytes

    counts = collections.Counter(s.state for s in stats)
    states = ", ".join(f"{n} {state}" for state, n in counts.most_common())
    memory = f"device {gigabytes(device_bytes())}, host {gigabytes(host_bytes())}"
    return f"{states}; {watch.steps_per_second:.1f} steps/s; {memory}"


@contextlib.contextmanager
def logs_as_lines(lines: collections.deque[str], names: dict[str, str]) -> Iterator[None]:
    """Appends log messages to `lines`, with addresses, without their passwords, replaced by names.

    Args:
        lines: Receives the messages.
        names: Name of each source.
    """
    # Messages have an address without its password, which several sources may have in common.
    times_shown = collections.Counter(map(redact_address, names))
    name_of = {
        shown: name
        for source, name in names.items()
        if "://" in source and times_shown[shown := redact_address(source)] == 1
    }

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = self.format(record)
            for address, name in name_of.items():
                text = text.replace(address, name)
            lines.append(text)

    handler, logger = Handler(), logging.getLogger("livecc_jax")
    handler.addFilter(RedactingFilter())
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    propagate = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
