"""Comment on the events of LiveSports-3K CC in a run folder that can be resumed.

As in the published evaluation, frames are spread evenly over the event at the clip's pixel budget,
with 32 tokens a turn and repetition penalty 1.15. An instruct checkpoint gets a query, a base one the
title or the previous commentary.
"""

from __future__ import annotations

import functools
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from livecc_jax.decoding.options import StreamOptions
from livecc_jax.errors import LiveCCError
from livecc_jax.evaluate.benchmarks.livesports_cc import Event, EventSet, event_prompt
from livecc_jax.evaluate.metrics.commentary import Reference
from livecc_jax.evaluate.metrics.perplexity import teacher_forced_to_json
from livecc_jax.evaluate.run.prefetch import prefetch
from livecc_jax.evaluate.run.run_folder import (
    EvaluationProgress,
    all_answers,
    answers_path,
    append_lines,
    write_lines,
)
from livecc_jax.evaluate.run.sampled_video import sample_frames
from livecc_jax.evaluate.run.teacher_forced import teacher_force
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.rules import DEFAULT, MediaRules
from livecc_jax.stream.model import StreamModel
from livecc_jax.stream.session import Session
from livecc_jax.stream.turn import ContextFull, SpokenTurn
from livecc_jax.timeline.turns import split_into_turns, turn_span

log = logging.getLogger(__name__)


def comment_events(
    model: StreamModel,
    event_set: EventSet,
    folder: Path,
    budget: PixelBudget,
    options: StreamOptions,
    prompting: str,
    *,
    memory_frames: int | None = None,
    references: Mapping[str, Reference] | None = None,
    shard: tuple[int, int] = (0, 1),
    rules: MediaRules = DEFAULT,
    on_progress: Callable[[EvaluationProgress, int], None] = lambda progress, total: None,
) -> EvaluationProgress:
    """Comments on the events that have no commentary in the run folder yet.

    An event whose video cannot be read has a line with an error, and is tried again by the next run.

    Args:
        model: Model that comments.
        event_set: Events of the benchmark.
        folder: Run folder.
        budget: Pixels a frame.
        options: Decoding options.
        prompting: "instruct" or "base"; see `event_prompt`.
        memory_frames: For the baseline without history: each turn sees only this many latest frames, as
            the first turn of a stream of its own.
        references: Transcripts by event; if given, each prediction also has the cost of its transcript
            under teacher forcing.
        shard: (index, count) of this process among those that divide the events of the run.
        rules: How videos are read.
        on_progress: Called after each event with the progress, and the number of events of this shard.

    Returns:
        The progress at the end.
    """
    answers = all_answers(folder)
    events = event_set.events[shard[0] :: shard[1]]
    todo = [e for e in events if "turns" not in answers.get(e.id, {})]
    progress = EvaluationProgress(already_answered=len(events) - len(todo))
    began = time.perf_counter()
    load = functools.partial(_sample_event, budget=budget, rules=rules)
    with append_lines(answers_path(folder, shard)) as file:
        for event, future in prefetch(todo, load):
            prompt = event_prompt(event, prompting)
            try:
                frames = future.result()
                if memory_frames is None:
                    offset_us = event.source.start_us or 0
                    turns = list(stream_frames(model, frames, options, prompt, offset_us, event.id))
                else:
                    turns = list(
                        _comment_without_history(model, event, frames, options, prompt, memory_frames)
                    )
                line = _prediction_line(event, turns)
                if reference := (references or {}).get(event.id):
                    teacher_forced = score_reference(model, frames, reference, options, prompt)
                    if teacher_forced is None:
                        log.warning("%s: the reference's perplexity is not finite", event.id)
                    else:
                        line |= {"forced": teacher_forced}
                progress.answered += 1
            except LiveCCError as error:
                log.warning("%s", error)
                line = {"id": event.id, "error": str(error)}
                progress.failed += 1
            write_lines(file, [line])
            progress.videos += 1
            progress.seconds = time.perf_counter() - began
            on_progress(progress, len(events))
    return progress


def stream_frames(
    model: StreamModel,
    frames: np.ndarray,
    options: StreamOptions,
    prompt: str,
    offset_us: int,
    clip_id: str,
) -> Iterator[SpokenTurn]:
    """Yields the commentary of a clip turn by turn; ends early, with a warning, if the context is full.

    Args:
        model: Model that comments.
        frames: uint8 [F, H, W, 3], F even.
        options: Decoding options.
        prompt: Text of the first turn.
        offset_us: Time of the clip's start in its video, in microseconds.
        clip_id: Name of the clip in the warning.
    """
    session = Session(model, options, prompt, offset_us=offset_us)
    frames_of_turns = split_into_turns(frames)
    for turn, next_turn in itertools.zip_longest(frames_of_turns, frames_of_turns[1:]):
        try:
            yield session.push(turn, next_turn)
        except ContextFull as error:
            log.warning("%s: the commentary ends early: %s", clip_id, error)
            return


def score_reference(
    model: StreamModel,
    frames: np.ndarray,
    reference: Reference,
    options: StreamOptions,
    prompt: str,
) -> dict[str, Any] | None:
    """Returns the cost of a clip's transcript under teacher forcing as JSON; None if it is not
    finite."""
    clip = teacher_force(model, frames, reference, prompt, options.positions, options.context)
    finite = all(np.isfinite(t.nats) for t in clip.turns)
    return teacher_forced_to_json(clip) if finite else None


def _sample_event(event: Event, budget: PixelBudget, rules: MediaRules) -> np.ndarray:
    return sample_frames(event.source, budget, rules=rules)


def _comment_without_history(
    model: StreamModel,
    event: Event,
    frames: np.ndarray,
    options: StreamOptions,
    prompt: str,
    memory_frames: int,
) -> Iterator[SpokenTurn]:
    """Yields turns each of which is the first turn of a stream of the latest frames."""
    offset_us, stop = event.source.start_us or 0, 0
    for number, turn in enumerate(split_into_turns(frames)):
        stop += len(turn)
        begin = max(0, stop - memory_frames)
        spoken = Session(model, options, prompt).push(frames[begin:stop])
        start_us, stop_us = turn_span(number)
        yield SpokenTurn(
            (start_us + offset_us) / 1e6,
            (stop_us + offset_us) / 1e6,
            spoken.text,
            spoken.tokens,
            spoken.truncated,
            spoken.latency,
        )


def _prediction_line(event: Event, turns: list[SpokenTurn]) -> dict[str, Any]:
    """Returns the published fields (video_id, event_id, begin, end, pred) and the turns with times."""
    words = " ".join(t.words for t in turns if t.words)
    return {
        "id": event.id,
        "video_id": event.video_id,
        "event_id": int(event.event_id) if event.event_id.isdecimal() else event.event_id,
        "begin": event.begin,
        "end": event.end,
        "pred": f"{words}...",
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
