"""Commentary files: transcripts to compare with, and predictions."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from livecc_jax.errors import DataError, ExampleError
from livecc_jax.evaluate.benchmarks.entries import Entries, read_rows
from livecc_jax.evaluate.benchmarks.questions import VIDEO_FOLDERS, find_video, named
from livecc_jax.evaluate.benchmarks.results import Malformed, Reading, text
from livecc_jax.evaluate.metrics.baselines import BASELINES
from livecc_jax.evaluate.metrics.commentary import (
    METRICS,
    ClipCounts,
    Reference,
    SaidTurn,
    count_clip,
    summarize,
)
from livecc_jax.evaluate.metrics.perplexity import Forced, by_second, forced_from_json
from livecc_jax.evaluate.metrics.statistics import Interval, interval
from livecc_jax.text.tokenizer import SILENCE
from livecc_jax.timeline.example import StreamExample, Word, microseconds

PREDICTION = "prediction"
Said = tuple[list[SaidTurn], Forced | None]

log = logging.getLogger(__name__)


@dataclass
class Commentary:
    """Predictions scored against transcripts.

    counts and metrics: by method, PREDICTION and the baselines; intervals: of the prediction's metrics.
    """

    path: str
    entries: Entries
    counts: dict[str, list[ClipCounts]]
    metrics: dict[str, dict[str, float]]
    intervals: dict[str, Interval] = field(default_factory=dict)


def read_references(path: str | Path) -> dict[str, Reference]:
    """Transcripts by clip, from LiveCC annotations (streaming ones) or the LiveSports-3K CC file.

    Raises:
        DataError: the file cannot be read or holds no transcript.
    """
    from livecc_jax.data.annotations.records import AnnotationFile

    entries, found = Entries(), {}
    if Path(path).suffix == ".json":
        for where, row in read_rows(path, entries):
            with Reading(entries, where):
                reference = _livesports(row, Path(path).parent)
                found[reference.id] = reference
    else:
        file = AnnotationFile(path)
        for i in range(len(file)):
            try:
                example = file[i]
            except ExampleError as error:
                entries.problem("malformed", str(error))
                continue
            if isinstance(example, StreamExample):
                reference = reference_of(example)
                found[reference.id] = reference
    if not found:
        raise DataError(f"{path}: holds no transcript {'; '.join(entries.notes[:1])}".rstrip())
    for note in entries.notes:
        log.warning("%s", note)
    return found


def clip_id(video: str, start: float, end: float) -> str:
    """What a clip is called that has no event id: video and span."""
    return f"{Path(video).stem}@{start:g}-{end:g}"


def reference_of(example: StreamExample) -> Reference:
    """A streaming annotation's transcript."""
    clip = example.clip
    last = example.words[-1].end_us if example.words else 0
    start, end = clip.start_us or 0, clip.end_us if clip.end_us is not None else last
    name = clip_id(clip.path, start / 1e6, end / 1e6)
    return Reference(name, start, end, example.words, example.previous, clip.path)


def _livesports(row: dict[str, Any], folder: Path) -> Reference:
    """An event; its transcript has a time a phrase, shared evenly over the phrase's words."""
    asr = row.get("event_asr")
    try:
        phrases = json.loads(asr) if isinstance(asr, str) else asr
        words: list[Word] = []
        for start, end, phrase in phrases:
            said = phrase.split()
            edges = np.linspace(microseconds(start), microseconds(end), len(said) + 1).round()
            words += [Word(int(a), int(b), w) for a, b, w in zip(edges, edges[1:], said)]
        span = microseconds(float(row["begin"])), microseconds(float(row["end"]))
    except (TypeError, ValueError, KeyError) as error:
        raise Malformed(f"an event needs begin, end and event_asr ({error!r})") from None
    previous, video = row.get("preasr_text"), text(row, "video_id")
    file = find_video(folder, VIDEO_FOLDERS, named(row, "video", video))
    said_before = previous if isinstance(previous, str) else ""
    return Reference(f"{video}_{row.get('event_id')}", *span, tuple(words), said_before, file)


def score_commentary(
    predictions: str | Path,
    references: str | Path,
    baseline: str | Path | None = None,
    resamples: int = 500,
    seed: int = 0,
) -> Commentary:
    """Score timed predictions, and every baseline on the same clips.

    Args:
        predictions: JSON lines, a clip each (video_id with event_id or with video_start and video_end,
            turns of start, stop, text, and `forced` where a model gave it), or what `livecc stream
            --jsonl` wrote of the one clip that `references` holds.
        references: as `read_references` takes them.
        baseline: other predictions; clips that they lack are left out (and counted).
        resamples: of the bootstrap over clips.
        seed: of the bootstrap.

    Raises:
        DataError: a file cannot be read, or no prediction is of a clip that has a transcript.
    """
    known = read_references(references)
    entries = Entries(expected=len(known))
    said = _read_predictions(predictions, references, known, entries)
    entries.problems["missing"] = len(known) - len(said)
    others: dict[str, dict[str, Said]] = {}
    if baseline is not None:
        others[Path(baseline).name] = _read_predictions(baseline, references, known, Entries())
    clips = [known[i] for i in sorted(said) if all(i in other for other in others.values())]
    entries.problems["not in the baseline"] = len(said) - len(clips)
    if not clips:
        raise DataError(f"{predictions}: no timed prediction is of a clip in {references}")
    counts = {PREDICTION: [count_clip(c, *said[c.id]) for c in clips]}
    for name, other in others.items():
        counts[name] = [count_clip(c, *other[c.id]) for c in clips]
    for name, speak in BASELINES.items():
        counts[name] = [count_clip(c, speak(c)) for c in clips]
    metrics = {name: summarize(found) for name, found in counts.items()}
    intervals = resample(counts[PREDICTION], resamples, seed)
    return Commentary(str(predictions), entries, counts, metrics, intervals)


def _read_predictions(
    path: str | Path, references: str | Path, known: dict[str, Reference], entries: Entries
) -> dict[str, Said]:
    """Timed predictions by clip; what cannot be used is counted in `entries`."""
    said: dict[str, Said] = {}
    stream: list[SaidTurn] = []
    for where, row in read_rows(path, entries):
        with Reading(entries, where):
            if "turns" not in row and "video_id" not in row and "start" in row:
                stream.append(_turn(row))
                continue
            name = _name(row)
            if name not in known:
                entries.problem("no transcript", f"{where}: {name}")
            elif not isinstance(row.get("turns"), list):
                entries.problem("untimed", f"{where}: {name} has no turns")
            elif name in said:
                entries.problem("duplicate", f"{where}: {name} comes again; its first is used")
            else:
                forced = forced_from_json(row["forced"]) if row.get("forced") else None
                said[name] = [_turn(t) for t in row["turns"]], forced
    if stream:
        if len(known) != 1:
            raise DataError(
                f"{path}: is one stream, but {references} has transcripts of {len(known)} clips"
            )
        said[next(iter(known))] = stream, None
    return said


def resample(clips: list[ClipCounts], resamples: int, seed: int) -> dict[str, Interval]:
    """95% intervals of every metric, whole clips drawn again; empty for a single clip."""
    if len(clips) < 2:
        return {}
    rng = np.random.default_rng(seed)
    draws = [
        summarize([clips[i] for i in rng.integers(0, len(clips), len(clips))]) for _ in range(resamples)
    ]
    return {name: interval(np.array([d[name] for d in draws])) for name in METRICS}


def not_beaten(commentary: Commentary) -> list[str]:
    """Sentences on what a baseline does at least as well; empty when the prediction beats them all."""
    ours = commentary.metrics[PREDICTION]
    told = []
    for name, theirs in commentary.metrics.items():
        if name == PREDICTION:
            continue
        for metric in ("word F1", "seconds told right"):
            mine = ours[metric] if math.isfinite(ours[metric]) else 0.0
            if math.isfinite(theirs[metric]) and mine <= theirs[metric]:
                told.append(
                    f"Does not beat “{name}” in {metric}: {mine:.1f}% against {theirs[metric]:.1f}%."
                )
    return told


def _name(row: dict[str, Any]) -> str:
    video = text(row, "video_id")
    if row.get("event_id") is not None:
        return f"{video}_{row['event_id']}"
    try:
        return clip_id(video, float(row["video_start"]), float(row["video_end"]))
    except (KeyError, TypeError, ValueError):
        raise Malformed("there is neither event_id nor video_start and video_end") from None


def _turn(row: Any) -> SaidTurn:
    if not isinstance(row, dict):
        raise Malformed("a turn is not an object")
    keys = ("start", "stop", "said") if "said" in row else ("start", "stop")
    try:
        start, stop, *said = (microseconds(float(row[k])) for k in keys)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise Malformed("a turn's times are not numbers of seconds") from None
    words = text(row, "text").replace(SILENCE, " ").strip()
    return SaidTurn(start, stop, words, said[0] if said else None)


def to_json(commentary: Commentary) -> dict[str, Any]:
    """Every number, with how many clips it is over."""
    return {
        "benchmark": "commentary",
        "file": commentary.path,
        "clips": len(commentary.counts[PREDICTION]),
        "problems": {k: v for k, v in commentary.entries.problems.items() if v},
        "notes": commentary.entries.notes,
        "metrics": {
            name: {k: v if math.isfinite(v) else None for k, v in found.items()}
            for name, found in commentary.metrics.items()
        },
        "intervals": {
            k: [v.low, v.high] for k, v in commentary.intervals.items() if math.isfinite(v.low)
        },
        "not_beaten": not_beaten(commentary),
        "perplexity_by_second": [
            {k: v if math.isfinite(v) else None for k, v in dataclasses.asdict(cost).items()}
            for cost in by_second(forced_clips(commentary))
        ],
    }


def forced_clips(commentary: Commentary) -> list[Forced]:
    """Of the prediction's clips, what the reference costs where that is known."""
    return [c.forced for c in commentary.counts[PREDICTION] if c.forced]


def forced_line(commentary: Commentary) -> str:
    """What the perplexity is over; empty where there is none."""
    clips = forced_clips(commentary)
    if not clips:
        return ""
    tokens = sum(t.word_tokens for c in clips for t in c.turns)
    return (
        f"Perplexity of the reference: over {len(clips):,} of "
        f"{len(commentary.counts[PREDICTION]):,} clips, {tokens:,} tokens of words; "
        f"{sum(c.left_out for c in clips):,} words due after what was seen are left out."
    )
