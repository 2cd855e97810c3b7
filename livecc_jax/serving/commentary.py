"""Commentary on one source from beginning to end: frames in, the text of each turn to every sink."""

from __future__ import annotations

import collections
import contextlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from livecc_jax.media.ingest import TurnFrames
from livecc_jax.serving.sinks import Sink
from livecc_jax.stream.session import Session
from livecc_jax.stream.turn import Answer, ContextFull, SpokenTurn

log = logging.getLogger(__name__)


def comment(
    session: Session,
    turns: Iterable[TurnFrames],
    sinks: Sequence[Sink],
    questions: Sequence[tuple[float, str]] = (),
    *,
    prefetch: bool = False,
) -> Iterator[SpokenTurn | Answer]:
    """Comments turn by turn, and writes each result to the sinks before it yields it.

    It ends when the source does, or, with a warning, when the context is full. Then it closes the
    sinks.

    Args:
        session: A fresh session.
        turns: The turns of the source.
        sinks: Receive all results.
        questions: Each (seconds of the source, question) is asked once so much has been shown.
        prefetch: Whether to read and encode the next turn while one is generated, for a source that
            can be read ahead.
    """
    with contextlib.ExitStack() as stack:
        for sink in sinks:
            stack.callback(sink.close)
        unasked = collections.deque(sorted(questions))
        for turn, following in _with_next(turns) if prefetch else ((turn, None) for turn in turns):
            try:
                spoken = session.push(turn.frames, following and following.frames)
                for sink in sinks:
                    sink.write(spoken)
                yield spoken
                while unasked and unasked[0][0] <= spoken.stop:
                    answer = session.ask(unasked.popleft()[1])
                    for sink in sinks:
                        sink.answer(answer)
                    yield answer
            except ContextFull as error:
                log.warning("the commentary ends early: %s", error)
                return
        for at, question in unasked:
            log.warning("the source ended before %g s: %r was not asked", at, question)


def _with_next(turns: Iterable[TurnFrames]) -> Iterator[tuple[TurnFrames, TurnFrames | None]]:
    """Yields each turn with the one after it, while another thread reads the one after that."""
    turns = iter(turns)
    with ThreadPoolExecutor(1, "turns") as pool:
        turn, read = next(turns, None), pool.submit(next, turns, None)
        while turn is not None:
            failure = read.exception()
            following = None if failure else read.result()
            if following is not None:
                read = pool.submit(next, turns, None)
            yield turn, following
            if failure:  # raised once everything that was read before has been commented on
                raise failure
            turn = following
