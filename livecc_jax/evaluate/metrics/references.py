"""Reads reference commentary: the timed words of a human, clip by clip."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import numpy as np

from livecc_jax.bounded_json import parse_json
from livecc_jax.data.files.media_root import MediaRoot
from livecc_jax.errors import DataError, ExampleError, MediaError
from livecc_jax.evaluate.benchmarks.livesports_cc import LIVESPORTS_VIDEO_FOLDERS
from livecc_jax.evaluate.benchmarks.record_fields import (
    MalformedRecord,
    SkipMalformed,
    string_field,
    string_field_or,
)
from livecc_jax.evaluate.benchmarks.record_files import find_video, read_records
from livecc_jax.evaluate.benchmarks.scored_answers import ProblemLog
from livecc_jax.evaluate.metrics.commentary import Reference
from livecc_jax.timeline.example import StreamExample, Word, seconds_to_us

log = logging.getLogger(__name__)


def read_references(path: str | Path, media_root: MediaRoot | None = None) -> dict[str, Reference]:
    """Reads reference commentary, by clip id.

    Args:
        path: LiveCC annotations, of which the streaming ones are used, or LiveSports-3K-CC.json.
        media_root: Confines the videos; a reference to another one does not name its video.

    Raises:
        DataError: The file cannot be read or holds no reference.
    """
    from livecc_jax.data.annotations.records import AnnotationFile

    problem_log = ProblemLog()
    references: dict[str, Reference] = {}
    if Path(path).suffix == ".json":
        for where, record in read_records(path, problem_log):
            with SkipMalformed(problem_log, where):
                reference = _livesports_reference(record, Path(path).parent)
                references[reference.id] = reference
    else:
        file = AnnotationFile(path)
        for i in range(len(file)):
            try:
                example = file[i]
            except ExampleError as error:
                problem_log.add_problem("malformed", str(error))
                continue
            if isinstance(example, StreamExample):
                reference = reference_from_example(example)
                references[reference.id] = reference
    if not references:
        raise DataError(f"{path}: holds no transcript {'; '.join(problem_log.notes[:1])}".rstrip())
    for note in problem_log.notes:
        log.warning("%s", note)
    if media_root is not None:
        for name, reference in references.items():
            try:
                media_root.check(reference.video)
                media_root.check_content(reference.video, reference.video)
            except MediaError as error:
                log.info("no thumbnails: %s", error)
                references[name] = dataclasses.replace(reference, video="")
    return references


def clip_id(video: str, start: float, end: float) -> str:
    """Returns the id of a clip that has no event id: the name of its video and its span in seconds."""
    return f"{Path(video).stem}@{start:g}-{end:g}"


def reference_from_example(example: StreamExample) -> Reference:
    """Returns the reference commentary that a streaming annotation holds."""
    clip = example.clip
    last = example.words[-1].end_us if example.words else 0
    start, end = clip.start_us or 0, clip.end_us if clip.end_us is not None else last
    name = clip_id(clip.path, start / 1e6, end / 1e6)
    return Reference(name, start, end, example.words, example.previous, clip.path)


def _livesports_reference(record: dict[str, Any], folder: Path) -> Reference:
    """Reads an event of LiveSports-3K CC.

    Its transcript is timed by phrase; each phrase's time is divided evenly over its words.
    """
    asr = record.get("event_asr")
    try:
        phrases = parse_json(asr) if isinstance(asr, str) else asr
        words: list[Word] = []
        for start, end, phrase in phrases:
            texts = phrase.split()
            edges = np.linspace(seconds_to_us(start), seconds_to_us(end), len(texts) + 1).round()
            words += [Word(int(a), int(b), w) for a, b, w in zip(edges, edges[1:], texts)]
        span = seconds_to_us(float(record["begin"])), seconds_to_us(float(record["end"]))
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise MalformedRecord(f"an event needs begin, end and event_asr ({error!r:.200})") from None
    previous, video = record.get("preasr_text"), string_field(record, "video_id")
    path = find_video(folder, LIVESPORTS_VIDEO_FOLDERS, string_field_or(record, "video", video))
    previous = previous if isinstance(previous, str) else ""
    return Reference(f"{video}_{record.get('event_id')}", *span, tuple(words), previous, path)
