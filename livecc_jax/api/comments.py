"""Comments on one video, camera or network stream."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from livecc_jax.api.models import Model
from livecc_jax.api.spans import check_span
from livecc_jax.errors import ConfigError
from livecc_jax.media.ingest import is_live, read_turns
from livecc_jax.media.rules import DEFAULT, MediaRules
from livecc_jax.serving import commentary
from livecc_jax.serving.sinks import JsonLines, Sink, Srt, WebVtt
from livecc_jax.stream.history import FULL, ROLLING, EvictionPolicy
from livecc_jax.stream.session import Session
from livecc_jax.stream.turn import Answer, SpokenTurn
from livecc_jax.timeline.example import seconds_to_us
from livecc_jax.timeline.turns import stream_prompt

POLICIES = {"full": FULL, "rolling": ROLLING}


def comment(
    model: Model,
    source: str | int | Path,
    *,
    query: str = "",
    title: str = "",
    previous: str = "",
    start: float | None = None,
    end: float | None = None,
    questions: Sequence[tuple[float, str]] = (),
    jsonl: str | Path | None = None,
    vtt: str | Path | None = None,
    srt: str | Path | None = None,
    sinks: Sequence[Sink] = (),
    cache: Literal["full", "rolling"] = "full",
    cache_precision: Literal["weights", "int8"] = "weights",
    pace: Literal["fast", "own"] = "fast",
    pixel_budget: str | int | None = None,
    rules: MediaRules = DEFAULT,
    warm_up: bool = False,
    **decoding: Any,
) -> Iterator[SpokenTurn | Answer]:
    """Comments on a source while watching it, turn by turn.

    The first turn spans three seconds, each later one a second (arXiv 2504.16030, section 3). The
    source is opened and the weights are loaded by this call; each turn is computed when the iterator is
    advanced. A file is read ahead while a turn is computed; of a camera, what nobody has asked for in
    time is lost.

    Args:
        model: What `open_model` returned.
        source: A video file, a camera's number, or an address (rtsp://, http://).
        query: What to do, in words.
        title: The video's title; unused if there is previous commentary.
        previous: Commentary before the start.
        start: Second of a file to start at.
        end: Second of a file to end at.
        questions: Pairs (second of the source, question); each is asked once so much has been shown.
        jsonl: File that receives a JSON line for each turn and answer, as it happens.
        vtt: File that receives WebVTT subtitles.
        srt: File that receives SubRip subtitles.
        sinks: Receive all results, and are closed at the end.
        cache: What stays in the context: everything until it is full, or, for streams of any length,
            the first turn, the latest turns and words between them ("rolling").
        cache_precision: Precision of a rolling cache.
        pace: How a file is read: as fast as turns are computed, or as if it were live ("own").
        pixel_budget: Largest number of vision tokens of a frame pair, or "reference"; None is the
            model's.
        rules: How videos are read.
        warm_up: Whether to compile before the first turn rather than during it.
        **decoding: Fields of `StreamOptions`: `temperature`, `max_new_tokens`, `repetition_penalty`,
            `silence_base`, `silence_step`, `positions`, `seed`.

    Returns:
        An iterator of `SpokenTurn`, and of an `Answer` for each question. It ends when the source does,
        or, with a logged warning, when the context is full.

    Raises:
        ConfigError: An option is unknown or out of range, or needs a file.
        MediaError: The source cannot be read; also while iterating.
        CheckpointError, TokenizerError: The model cannot be loaded.
        OutputError: A file cannot be written; also while iterating.

    Example:
        >>> for turn in livecc_jax.comment(model, "match.mp4", title="Final", vtt="match.vtt"):
        ...     print(turn.start, turn.words)
    """
    check_span(start, end)
    eviction = choose_policy(cache, cache_precision)
    options = model.stream_options(**decoding)
    budget = model.budget(pixel_budget)
    source = str(source)
    # Opened before the weights are loaded, so that an unreadable source fails at once.
    turns = read_turns(source, budget, start=start, end=end, pace=pace, rules=rules)
    first = next(turns, None)
    session = Session(
        model.load(),
        options,
        stream_prompt(query, title, previous),
        seconds_to_us(start or 0.0),
        eviction,
        cache_precision,
    )
    if warm_up and first:
        session.warm_up(first.frames.shape[1:3])
    files = {JsonLines: jsonl, WebVtt: vtt, Srt: srt}
    all_sinks = [*sinks, *(kind(path) for kind, path in files.items() if path)]
    turns = itertools.chain([first] if first else [], turns)
    return commentary.comment(session, turns, all_sinks, questions, prefetch=reads_ahead(source, pace))


def reads_ahead(source: str, pace: str) -> bool:
    """Returns whether the next turn is read and encoded while one is generated."""
    return pace == "fast" and not is_live(source)


def choose_policy(cache: str, cache_precision: str = "weights") -> EvictionPolicy:
    """Returns the eviction policy of this name. Raises ConfigError if there is none."""
    if cache not in POLICIES:
        raise ConfigError(f"cache {cache!r} is not one of {', '.join(POLICIES)}")
    if cache_precision != "weights" and cache != "rolling":
        raise ConfigError(f"cache_precision {cache_precision!r} needs cache='rolling'")
    return POLICIES[cache]
