"""What rich draws in a terminal: live tables, progress and tracebacks, whose texts are safe to show."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment

from livecc_jax.redact import visible

UNLIMITED = 10_000  # columns where nobody looks at a terminal


class SafeConsole(Console):
    """A console that writes out control characters of the texts it shows, but its own to the terminal.

    Secrets of addresses are to be hidden before: a line that is folded may cut an address in two.

    Args:
        stream: Standard output or error, as `safe_output` has it, or another text stream.
    """

    def __init__(self, stream: TextIO) -> None:
        terminal = stream.isatty()
        width = None if terminal else UNLIMITED
        super().__init__(
            file=_Unfiltered(stream), force_terminal=terminal, width=width, soft_wrap=not terminal,
            highlight=False, markup=False, emoji=False,
        )  # fmt: skip

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yields the segments of a renderable, with control characters in texts written out."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)

    def on_broken_pipe(self) -> None:
        """Raises the error, which the command line answers itself."""
        raise  # rich calls this while it handles the error


class _Unfiltered:
    """A stream past the filter of `safe_output`, for what the console has made safe."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.write = getattr(stream, "write_controls", stream.write)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def progress_bar(stream: TextIO, items: str) -> Iterator[Callable[[int, int], None]]:
    """Yields a function (done, total) that shows progress in a terminal, and does nothing elsewhere.

    Args:
        stream: Standard error.
        items: What is counted, such as "examples".
    """
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
    )  # fmt: skip
    if not stream.isatty():
        yield lambda done, total: None
        return
    with Progress(*columns, console=SafeConsole(stream), transient=True) as progress:
        task = progress.add_task(items, total=None, rate="")

        def show(done: int, total: int) -> None:
            speed = progress.tasks[0].speed
            rate = f"{speed:.1f}/s" if speed else ""
            progress.update(task, completed=done, total=total, rate=rate)

        yield show
