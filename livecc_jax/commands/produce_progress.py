"""The live progress of `livecc produce`, one line a phase."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from livecc_jax.produce.line.local import PhaseProgress

SECONDS_BETWEEN_LINES = 10.0  # where standard error is no terminal


class ProduceProgress:
    """Shows each phase's shards and units on standard error: as bars in a terminal, else as lines."""

    def __init__(self) -> None:
        self._live: Any = None
        self._tasks: dict[str, Any] = {}
        self._began: dict[str, float] = {}
        self._said: dict[str, float] = {}

    def __enter__(self) -> ProduceProgress:
        """Begins to show."""
        if sys.stderr.isatty():
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeElapsedColumn,
            )

            from livecc_jax.commands.console import SafeConsole

            self._live = Progress(
                TextColumn("{task.description:<16}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("shards  {task.fields[units]:>10,} done  {task.fields[rate]}"),
                TimeElapsedColumn(),
                console=SafeConsole(sys.stderr),
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the display."""
        if self._live is not None:
            self._live.stop()

    def say(self, sentence: str) -> None:
        """Shows a sentence."""
        from livecc_jax.redact import displayable

        if self._live is not None:
            self._live.console.print(displayable(sentence), markup=False, highlight=False)
        else:
            print(f"livecc produce: {sentence}", file=sys.stderr, flush=True)

    def report(self, progress: PhaseProgress) -> None:
        """Shows how far a phase is."""
        now, name = time.monotonic(), progress.phase
        began = self._began.setdefault(name, now)
        rate = f"{progress.units / (now - began):,.0f}/s" if progress.units and now > began else ""
        if self._live is not None:
            if name not in self._tasks:
                self._tasks[name] = self._live.add_task(name, total=progress.shards, units=0, rate="")
            self._live.update(
                self._tasks[name], completed=progress.finished, units=progress.units, rate=rate
            )
            return
        last = self._said.get(name)
        ended = progress.finished == progress.shards and not progress.running
        if last is None or now - last >= SECONDS_BETWEEN_LINES or (ended and last != 0):
            self._said[name] = 0 if ended else now
            text = f"{name}: {progress.finished:,} of {progress.shards:,} shards"
            self.say(f"{text}, {progress.units:,} done {rate}".rstrip())
