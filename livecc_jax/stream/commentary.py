"""A source commented on from beginning to end: turns of frames in, spoken turns out to every sink."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence

from livecc_jax.media.ingest import Turn
from livecc_jax.stream.outputs import Sink
from livecc_jax.stream.rolling import RollingSession
from livecc_jax.stream.session import ContextFull, Session, SpokenTurn

log = logging.getLogger(__name__)


def comment(
    session: Session | RollingSession, turns: Iterable[Turn], sinks: Sequence[Sink]
) -> Iterator[SpokenTurn]:
    """Speak turn by turn, writing each to the sinks before it is handed on.

    Ends when the source does, or, with a warning, when the context is full. Closes the sinks.
    """
    with contextlib.ExitStack() as stack:
        for sink in sinks:
            stack.callback(sink.close)
        for turn in turns:
            try:
                spoken = session.push(turn.frames)
            except ContextFull as error:
                log.warning("the commentary ends early: %s", error)
                return
            for sink in sinks:
                sink.write(spoken)
            yield spoken
