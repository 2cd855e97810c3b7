"""A source commented on from beginning to end: turns of frames in, spoken turns out to every sink."""

from __future__ import annotations

import collections
import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from livecc_jax.media.ingest import Turn
from livecc_jax.serving.sinks import Sink
from livecc_jax.stream.rolling import RollingSession
from livecc_jax.stream.session import Answer, ContextFull, Session, SpokenTurn

log = logging.getLogger(__name__)


def comment(
    session: Session | RollingSession,
    turns: Iterable[Turn],
    sinks: Sequence[Sink],
    questions: Sequence[tuple[float, str]] = (),
    *,
    ahead: bool = False,
) -> Iterator[SpokenTurn | Answer]:
    """Speak turn by turn, writing each to the sinks before it is handed on.

    Args:
        session: fresh.
        turns: of the source.
        sinks: written to, and closed at the end.
        questions: (seconds of the source, question), each asked once so much has been seen.
        ahead: read, and see, the next turn while one is spoken; of a source that does not let wait.

    Ends when the source does, or, with a warning, when the context is full. Closes the sinks.
    """
    with contextlib.ExitStack() as stack:
        for sink in sinks:
            stack.callback(sink.close)
        left = collections.deque(sorted(questions))
        for turn, following in _ahead(turns) if ahead else ((turn, None) for turn in turns):
            try:
                spoken = session.push(turn.frames, following and following.frames)
                for sink in sinks:
                    sink.write(spoken)
                yield spoken
                while left and left[0][0] <= spoken.stop:
                    answer = session.ask(left.popleft()[1])
                    for sink in sinks:
                        sink.answer(answer)
                    yield answer
            except ContextFull as error:
                log.warning("the commentary ends early: %s", error)
                return
        for at, question in left:
            log.warning("the source ended before %g s: %r was not asked", at, question)


def _ahead(turns: Iterable[Turn]) -> Iterator[tuple[Turn, Turn | None]]:
    """Each turn with the one after it; the one after that is read meanwhile, in another thread."""
    turns = iter(turns)
    with ThreadPoolExecutor(1, "turns") as pool:
        turn, coming = next(turns, None), pool.submit(next, turns, None)
        while turn is not None:
            failure = coming.exception()
            following = None if failure else coming.result()
            if following is not None:
                coming = pool.submit(next, turns, None)
            yield turn, following
            if failure:  # once all that was read before has been spoken of
                raise failure
            turn = following
