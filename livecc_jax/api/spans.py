"""Checks of the span of a source that a caller chooses."""

from __future__ import annotations

import math

from livecc_jax.errors import ConfigError

MAX_SECONDS = 1e9  # longer than any source


def check_span(start: float | None, end: float | None, prefix: str = "") -> None:
    """Raises ConfigError unless two times form a span of a source.

    Args:
        start: Start in seconds; None is the beginning.
        end: End in seconds; None is the end of the source.
        prefix: What stands before the names `start` and `end` in messages.
    """
    for name, value in (("start", start), ("end", end)):
        if value is not None and not 0 <= value < math.inf:  # also true of nan
            raise ConfigError(
                f"{prefix}{name} must be a number of seconds of at least 0, not {value:g}"
            )
        if value is not None and value > MAX_SECONDS:
            raise ConfigError(f"{prefix}{name} must be at most {MAX_SECONDS:g} seconds, not {value:g}")
    if end is not None and end <= (start or 0.0):
        raise ConfigError(f"{prefix}end {end:g} is not after {prefix}start {start or 0.0:g}")
