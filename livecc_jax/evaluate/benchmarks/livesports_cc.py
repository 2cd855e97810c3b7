"""LiveSports-3K CC (arXiv 2504.16030): events of sports videos to comment on, and their prompts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from livecc_jax.data.files.media_root import MediaRoot
from livecc_jax.errors import DataError
from livecc_jax.evaluate.benchmarks.questions import VideoSource
from livecc_jax.evaluate.benchmarks.record_fields import (
    MalformedRecord,
    SkipMalformed,
    id_field,
    span_fields_us,
    string_field_or,
)
from livecc_jax.evaluate.benchmarks.record_files import find_annotation, find_video, load_records
from livecc_jax.evaluate.benchmarks.scored_answers import ProblemLog
from livecc_jax.timeline.turns import stream_prompt

CC_FILES = ("LiveSports-3K-CC.json", "LiveSports-3K-CC*.csv", "*CC*.json*", "*cc*.json*")
LIVESPORTS_VIDEO_FOLDERS = ("videos", "video", ".")  # relative to the annotation


@dataclass(frozen=True)
class Event:
    """A span of a video to comment on.

    Attributes:
        video_id: Identifier of the video.
        event_id: Identifier of the event, unique in its video.
        source: The span of the video.
        begin: Start of the span in seconds.
        end: End of the span in seconds.
        title: Title of the video, or "".
        previous: Commentary before the event, or "".
    """

    video_id: str
    event_id: str
    source: VideoSource
    begin: float
    end: float
    title: str
    previous: str

    @property
    def id(self) -> str:
        """Identifier of the event in judged verdicts, unique in the benchmark."""
        return f"{self.video_id}_{self.event_id}"


@dataclass
class EventSet:
    """All events of an annotation file, and a log of the records that could not be used."""

    annotation: Path
    events: list[Event]
    problem_log: ProblemLog


def read_events(data: str | Path, media_root: MediaRoot | None = None) -> EventSet:
    """Reads the events of LiveSports-3K CC.

    A record is {video_id, event_id, begin, end, video, event_title, preasr_text}; videos are in
    videos/.

    Args:
        data: Folder of the benchmark, or its annotation file.
        media_root: Confines the videos; an event of another one cannot be commented on.

    Raises:
        DataError: There is no annotation, or no usable event in it.
    """
    annotation = find_annotation(Path(data), CC_FILES)
    event_set = EventSet(annotation, [], ProblemLog())
    ids: set[str] = set()
    for where, record in load_records(annotation, event_set.problem_log):
        with SkipMalformed(event_set.problem_log, where):
            video_id, event_id = id_field(record, "video_id"), id_field(record, "event_id")
            start_us, end_us = span_fields_us(record, "begin", "end")
            if start_us is None or end_us is None:
                raise MalformedRecord("'begin' or 'end' is absent")
            video = find_video(
                annotation.parent, LIVESPORTS_VIDEO_FOLDERS, string_field_or(record, "video", video_id)
            )
            title, previous = (record.get(k) or "" for k in ("event_title", "preasr_text"))
            if not isinstance(title, str) or not isinstance(previous, str):
                raise MalformedRecord("'event_title' or 'preasr_text' is not a string")
            source = VideoSource(video, start_us, end_us, media_root=media_root)
            event = Event(video_id, event_id, source, start_us / 1e6, end_us / 1e6, title, previous)
            if event.id in ids:
                event_set.problem_log.add_problem("duplicate", f"{where}: {event.id} comes again")
                continue
            ids.add(event.id)
            event_set.events.append(event)
    if not event_set.events:
        why = "; ".join(event_set.problem_log.notes[:1])
        raise DataError(f"{annotation}: holds no event to comment on {why}".rstrip())
    return event_set


def event_prompt(event: Event, prompting: str) -> str:
    """Returns the text of the first turn.

    Args:
        event: The event.
        prompting: "base" gives the previous commentary, or else the title, as in pre-training;
            "instruct" gives the query of LiveCC's published evaluation.
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
