"""LiveSports-3K CC: every event commented on while it is watched, resumable at each.

As published: frames spread evenly over the event at the clip's pixel budget, 32 tokens a turn,
repetition penalty 1.15; an instruct checkpoint gets a query, a base one the title or what was said
before.
"""

from __future__ import annotations

import functools
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from livecc_jax.decoding.options import StreamOptions
from livecc_jax.errors import DataError, LiveCCError
from livecc_jax.evaluate.benchmarks.questions import (
    LIVESPORTS_VIDEO_FOLDERS,
    VideoSource,
    find_annotation,
    find_video,
    load_records,
    span_fields_us,
    string_field_or,
)
from livecc_jax.evaluate.benchmarks.results import MalformedRecord, SkipMalformed, id_field
from livecc_jax.evaluate.benchmarks.scored_answers import ScoredAnswers
from livecc_jax.evaluate.metrics.commentary import Reference
from livecc_jax.evaluate.metrics.perplexity import teacher_forced_to_json
from livecc_jax.evaluate.run.run_folder import (
    EvaluationProgress,
    all_answers,
    answers_path,
    append_lines,
    prefetch,
    write_lines,
)
from livecc_jax.evaluate.run.sampled_video import sample_frames
from livecc_jax.evaluate.run.teacher_forced import teacher_force
from livecc_jax.media.budget import PixelBudget
from livecc_jax.stream.session import ContextFull, Session, SpokenTurn, StreamModel
from livecc_jax.timeline.turns import stream_prompt, turn_span, turns_of

log = logging.getLogger(__name__)

CC_FILES = ("LiveSports-3K-CC.json", "LiveSports-3K-CC*.csv", "*CC*.json*", "*cc*.json*")
PROMPT_STYLES = ("instruct", "base")


@dataclass(frozen=True)
class Event:
    """A span of a match to comment on."""

    video_id: str
    event_id: str
    source: VideoSource
    begin: float
    end: float
    title: str
    previous: str

    @property
    def id(self) -> str:
        """As judges call it."""
        return f"{self.video_id}_{self.event_id}"


@dataclass
class EventSet:
    """All events, and what could not be used of their file."""

    annotation: Path
    events: list[Event]
    entries: ScoredAnswers


def read_events(data: str | Path) -> EventSet:
    """Events of LiveSports-3K CC: rows of {video_id, event_id, begin, end, video, event_title,
    preasr_text}, videos in videos/.

    Raises DataError when there is none.
    """
    annotation = find_annotation(Path(data), CC_FILES)
    found = EventSet(annotation, [], ScoredAnswers())
    taken: set[str] = set()
    for where, row in load_records(annotation, found.entries):
        with SkipMalformed(found.entries, where):
            name, number = id_field(row, "video_id"), id_field(row, "event_id")
            start, end = span_fields_us(row, "begin", "end")
            if start is None or end is None:
                raise MalformedRecord("'begin' or 'end' is absent")
            video = find_video(
                annotation.parent, LIVESPORTS_VIDEO_FOLDERS, string_field_or(row, "video", name)
            )
            title, previous = (row.get(k) or "" for k in ("event_title", "preasr_text"))
            if not isinstance(title, str) or not isinstance(previous, str):
                raise MalformedRecord("'event_title' or 'preasr_text' is not a string")
            event = Event(
                name, number, VideoSource(video, start, end), start / 1e6, end / 1e6, title, previous
            )
            if event.id in taken:
                found.entries.problem("duplicate", f"{where}: {event.id} comes again")
                continue
            taken.add(event.id)
            found.events.append(event)
    if not found.events:
        why = "; ".join(found.entries.notes[:1])
        raise DataError(f"{annotation}: holds no event to comment on {why}".rstrip())
    return found


def event_prompt(event: Event, prompting: str) -> str:
    """The first turn's text.

    base: what was said before, or else the title, as in pre-training; instruct: LiveCC's query.
    """
    if prompting == "base":
        return stream_prompt("", event.title, event.previous)
    query = (
        "You are an expert video commentator providing real-time, insightful, and engaging commentary "
        "on visual content.\n"
    )
    if event.title:
        query += f'This is a video titled "{event.title}".\n'
    if event.previous:
        query += (
            f"Here is previous commentary of the video:\n\n{event.previous}\n\n"
            "Please continue to comment the video."
        )
    return query


def comment_events(
    model: StreamModel,
    events: EventSet,
    folder: Path,
    budget: PixelBudget,
    options: StreamOptions,
    prompting: str,
    *,
    memory: int | None = None,
    references: Mapping[str, Reference] | None = None,
    share: tuple[int, int] = (0, 1),
    progress: Callable[[EvaluationProgress, int], None] = lambda asked, of: None,
) -> EvaluationProgress:
    """Comment on what is not commented on yet; see `running.ask_all`.

    Args:
        model: shared weights.
        events: of the benchmark.
        folder: of the run.
        budget: pixels a frame.
        options: decoding.
        prompting: one of PROMPTINGS.
        memory: a baseline: before each turn forget everything but the last so many frames.
        references: transcripts by event; what they cost the model under teacher forcing is kept too.
        share: which of how many processes this is.
        progress: told what was done so far and how many events this share has.
    """
    known = all_answers(folder)
    mine = events.events[share[0] :: share[1]]
    todo = [e for e in mine if "turns" not in known.get(e.id, {})]
    asked, began = EvaluationProgress(before=len(mine) - len(todo)), time.perf_counter()
    load = functools.partial(_frames, budget=budget)
    with append_lines(answers_path(folder, share)) as file:
        for event, future in prefetch(todo, load):
            try:
                frames = future.result()
                turns = list(_speak(model, event, frames, options, prompting, memory))
                row = _row(event, turns)
                if reference := (references or {}).get(event.id):
                    row |= _forced(model, event, frames, reference, options, prompting)
                asked.now += 1
            except LiveCCError as error:
                log.warning("%s", error)
                row = {"id": event.id, "error": str(error)}
                asked.failed += 1
            write_lines(file, [row])
            asked.videos += 1
            asked.seconds = time.perf_counter() - began
            progress(asked, len(mine))
    return asked


def _frames(event: Event, budget: PixelBudget) -> np.ndarray:
    return sample_frames(event.source, budget)


def _speak(
    model: StreamModel,
    event: Event,
    frames: np.ndarray,
    options: StreamOptions,
    prompting: str,
    memory: int | None,
) -> Iterator[SpokenTurn]:
    prompt, offset = event_prompt(event, prompting), event.source.start_us or 0
    session = Session(model, options, prompt, offset_us=offset)
    shown, stop = turns_of(frames), 0
    for number, (turn, following) in enumerate(itertools.zip_longest(shown, shown[1:])):
        if memory is None:
            try:
                yield session.push(turn, following)
            except ContextFull as error:
                log.warning("%s: the commentary ends early: %s", event.id, error)
                return
            continue
        # As if each turn were the first of a stream that began a few frames ago.
        stop += len(turn)
        begin = max(0, stop - memory)
        spoken = Session(model, options, prompt).push(frames[begin:stop])
        a, b = turn_span(number)
        yield SpokenTurn(
            (a + offset) / 1e6,
            (b + offset) / 1e6,
            spoken.text,
            spoken.tokens,
            spoken.cut,
            spoken.latency,
        )


def _forced(
    model: StreamModel,
    event: Event,
    frames: np.ndarray,
    reference: Reference,
    options: StreamOptions,
    prompting: str,
) -> dict[str, Any]:
    """`forced` of a prediction's row; nothing where the model's costs are no numbers."""
    prompt = event_prompt(event, prompting)
    found = teacher_force(model, frames, reference, prompt, options.positions, options.context)
    if not all(np.isfinite(t.nats) for t in found.turns):
        log.warning("%s: the reference's perplexity is not finite", event.id)
        return {}
    return {"forced": teacher_forced_to_json(found)}


def _row(event: Event, turns: list[SpokenTurn]) -> dict[str, Any]:
    """The published fields (video_id, event_id, begin, end, pred), and the turns with their times."""
    said = " ".join(t.words for t in turns if t.words)
    return {
        "id": event.id,
        "video_id": event.video_id,
        "event_id": int(event.event_id) if event.event_id.isdecimal() else event.event_id,
        "begin": event.begin,
        "end": event.end,
        "pred": f"{said}...",
        "turns": [
            {
                "start": t.start,
                "stop": t.stop,
                "text": t.text,
                "latency_ms": round(t.latency * 1000, 1),
            }
            for t in turns
        ],
    }
