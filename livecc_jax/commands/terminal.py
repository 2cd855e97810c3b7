"""Standard output and error of a command, as a terminal may safely show them.

What commands print holds names, titles and addresses of others. Control characters in them are written
out and passwords in addresses hidden, whatever prints them: a command, a log, a usage message or a
traceback.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import traceback
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, TextIO

from livecc_jax.redact import RedactingFilter, displayable

STREAM_NAMES = {"<stdout>": "standard output", "<stderr>": "standard error"}


class SafeStream:
    """A text stream that makes everything displayable before it writes it.

    Args:
        stream: The stream to write to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes a text without control characters."""
        with self._named_errors():
            self._stream.write(displayable(text))
        return len(text)

    def flush(self) -> None:
        """Writes what waits in the stream's buffer."""
        with self._named_errors():
            self._stream.flush()

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Lets an error name the stream, as those of files name the file."""
        try:
            yield
        except OSError as error:
            error.filename = STREAM_NAMES.get(getattr(self._stream, "name", ""), "an output stream")
            raise

    def writelines(self, lines: Iterable[str]) -> None:
        """Writes texts one after another."""
        for line in lines:
            self.write(line)

    def write_controls(self, sequence: str) -> int:
        """Writes control characters of the command itself, such as those that move the cursor."""
        with self._named_errors():
            return self._stream.write(sequence)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def safe_output() -> Iterator[None]:
    """Puts a SafeStream before standard output and error, and a filter before every log handler.

    The hook that prints uncaught exceptions stays after the block: they are printed when it has ended.
    """
    sys.excepthook = _print_exception
    with (
        contextlib.redirect_stdout(_safe(sys.stdout)),
        contextlib.redirect_stderr(_safe(sys.stderr)),
    ):
        yield


def filter_logs() -> None:
    """Adds a RedactingFilter to each handler of the root logger that has none."""
    for handler in logging.getLogger().handlers:
        if not any(isinstance(f, RedactingFilter) for f in handler.filters):
            handler.addFilter(RedactingFilter())


def _safe(stream: TextIO | None) -> Any:
    return stream if stream is None or isinstance(stream, SafeStream) else SafeStream(stream)


def _print_exception(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Prints an error that nobody expected: with the lines of code around it in a terminal."""
    if sys.stderr is not None and sys.stderr.isatty():
        with contextlib.suppress(Exception):  # what cannot be drawn is printed
            return _draw_exception(kind, error, trace)
    print(displayable("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)


def _draw_exception(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    from rich.traceback import Traceback

    from livecc_jax.commands.console import SafeConsole

    drawn = Traceback.from_exception(kind, error, trace)
    for stack in drawn.trace.stacks:
        stack.exc_value = displayable(stack.exc_value)
        stack.notes = [displayable(note) for note in stack.notes]
    SafeConsole(sys.stderr).print(drawn)
