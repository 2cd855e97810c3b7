"""Duration and size of a video, read from the file where its metadata do not give them."""

from __future__ import annotations

import dataclasses
import logging
import os

from livecc_jax.data.files.paths import is_remote
from livecc_jax.errors import LiveCCError
from livecc_jax.produce.records import Source
from livecc_jax.produce.sources.metadata import ROUNDED

log = logging.getLogger(__name__)

NEAR_END_MS = 2_500  # where a clip's window may reach a duration that is rounded to seconds


def measure(source: Source) -> Source:
    """Returns a source with the duration and size of its file, where they were unknown and it can
    be read.

    A source whose metadata give all three is not opened, and neither is one in a bucket: `select`
    then says what is not known.

    Args:
        source: A source.
    """
    if None not in (source.duration_ms, source.width, source.height):
        return source
    return _probed(source)


def measure_end(source: Source) -> Source:
    """Returns a source with the exact duration, where a rounded one decides how a clip ends.

    Sites round durations to whole seconds, so that a word at the end would seem to lie outside.

    Args:
        source: A source whose words have been read.
    """
    words, duration = source.words, source.duration_ms
    if not words or duration is None or not source.info.get(ROUNDED):
        return source
    return source if words[-1].end_ms <= duration - NEAR_END_MS else _probed(source, exact=True)


def _probed(source: Source, exact: bool = False) -> Source:
    if is_remote(source.video) or not os.path.isfile(source.video):
        return source
    from livecc_jax.media.video import probe

    try:
        info = probe(source.video)
    except (LiveCCError, OSError) as error:
        log.info("%s: cannot be measured: %s", source.video, error)
        return source
    duration = int(info.frame_times_us[-1]) // 1000
    return dataclasses.replace(
        source,
        duration_ms=duration if exact or source.duration_ms is None else source.duration_ms,
        width=source.width or info.width,
        height=source.height or info.height,
    )
