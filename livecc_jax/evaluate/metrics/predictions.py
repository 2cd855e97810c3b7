"""Reads timed predictions of commentary, clip by clip."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from livecc_jax.errors import DataError
from livecc_jax.evaluate.benchmarks.record_fields import (
    MalformedRecord,
    SkipMalformed,
    string_field,
)
from livecc_jax.evaluate.benchmarks.record_files import read_records
from livecc_jax.evaluate.benchmarks.scored_answers import ProblemLog
from livecc_jax.evaluate.metrics.commentary import PredictedTurn, Reference
from livecc_jax.evaluate.metrics.perplexity import TeacherForcedClip, teacher_forced_from_json
from livecc_jax.evaluate.metrics.references import clip_id
from livecc_jax.text.tokenizer import SILENCE
from livecc_jax.timeline.example import seconds_to_us


class ClipPrediction(NamedTuple):
    """A prediction for one clip.

    Attributes:
        turns: Predicted turns in order.
        teacher_forced: Cost of the reference's tokens, if the prediction holds it.
    """

    turns: list[PredictedTurn]
    teacher_forced: TeacherForcedClip | None


def read_predictions(
    path: str | Path, references: Mapping[str, Reference], problem_log: ProblemLog
) -> dict[str, ClipPrediction]:
    """Reads timed predictions, by clip id.

    Args:
        path: JSON lines, one clip each: video_id with event_id or with video_start and video_end, turns
            of start, stop and text, and optionally `forced`. Or what `livecc stream --jsonl` wrote, if
            there is a single reference.
        references: References by clip id; predictions without one are not used.
        problem_log: Receives what cannot be used.

    Raises:
        DataError: The file cannot be read, or it is one stream and there are several references.
    """
    predictions: dict[str, ClipPrediction] = {}
    stream: list[PredictedTurn] = []
    for where, record in read_records(path, problem_log):
        with SkipMalformed(problem_log, where):
            if "turns" not in record and "video_id" not in record and "start" in record:
                stream.append(_read_turn(record))
                continue
            clip = _read_clip_id(record)
            if clip not in references:
                problem_log.add_problem("no transcript", f"{where}: {clip}")
            elif not isinstance(record.get("turns"), list):
                problem_log.add_problem("untimed", f"{where}: {clip} has no turns")
            elif clip in predictions:
                problem_log.add_problem("duplicate", f"{where}: {clip} comes again; its first is used")
            else:
                forced = record.get("forced")
                teacher_forced = teacher_forced_from_json(forced) if forced else None
                turns = [_read_turn(t) for t in record["turns"]]
                predictions[clip] = ClipPrediction(turns, teacher_forced)
    if stream:
        if len(references) != 1:
            raise DataError(
                f"{path}: is one stream, but there are transcripts of {len(references)} clips"
            )
        predictions[next(iter(references))] = ClipPrediction(stream, None)
    return predictions


def _read_clip_id(record: dict[str, Any]) -> str:
    video = string_field(record, "video_id")
    if record.get("event_id") is not None:
        return f"{video}_{record['event_id']}"
    try:
        return clip_id(video, float(record["video_start"]), float(record["video_end"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        raise MalformedRecord("there is neither event_id nor video_start and video_end") from None


def _read_turn(record: Any) -> PredictedTurn:
    if not isinstance(record, dict):
        raise MalformedRecord("a turn is not an object")
    # `said` is optional: when the words were emitted.
    keys = ("start", "stop", "said") if "said" in record else ("start", "stop")
    try:
        start, stop, *recorded = (seconds_to_us(float(record[k])) for k in keys)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise MalformedRecord("a turn's times are not numbers of seconds") from None
    words = string_field(record, "text").replace(SILENCE, " ").strip()
    return PredictedTurn(start, stop, words, recorded[0] if recorded else None)
