"""A profile of some steps, for TensorBoard's profiler or Perfetto."""

from __future__ import annotations

import re
from pathlib import Path

import jax

from livecc_jax.errors import ConfigError

AFTER = 2  # steps of this start that are not traced when only a number of steps is asked for


class Trace:
    """Starts before the first wanted step and ends when the last one is done.

    Args:
        steps: "" for none; "3" for so many once the first are done; "100-103".
        first: the first step of this start.
        directory: for the trace.

    Raises:
        ConfigError: `steps` is neither.
    """

    def __init__(self, steps: str, first: int, directory: Path) -> None:
        self._directory, self._on = directory, False
        self._start, self._stop = -1, -1
        if steps:
            match = re.fullmatch(r"(\d+)(?:-(\d+))?", steps)
            begin, end = (match[1], match[2]) if match else ("0", None)
            if end is not None:
                self._start, self._stop = int(begin), int(end)
            else:
                self._start = first + AFTER
                self._stop = self._start + int(begin) - 1
            if not match or not 1 <= self._start <= self._stop:
                raise ConfigError(
                    f"profile {steps!r} is neither a number of steps nor a span as in 100-103"
                )

    def before(self, step: int) -> None:
        """Called before a step begins."""
        if self._start <= step <= self._stop and not self._on:
            jax.profiler.start_trace(str(self._directory))
            self._on = True

    def after(self, step: int) -> None:
        """Called when a step is done."""
        if step >= self._stop:
            self.close()

    def close(self) -> None:
        """Write what there is."""
        if self._on:
            self._on = False
            jax.profiler.stop_trace()
