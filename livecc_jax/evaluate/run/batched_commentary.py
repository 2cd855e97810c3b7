"""Comment on many clips at a time: the turns of a batch of streams in each step of one engine."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from livecc_jax.decoding.options import StreamOptions
from livecc_jax.errors import LiveCCError
from livecc_jax.evaluate.metrics.commentary import PredictedTurn
from livecc_jax.kernels.quantized import KV_PRECISIONS
from livecc_jax.stream.conversation import Conversation
from livecc_jax.stream.engine import Engine
from livecc_jax.stream.history import FULL, EvictionPolicy
from livecc_jax.stream.model import StreamModel
from livecc_jax.stream.options import EngineOptions
from livecc_jax.stream.turn import SpokenTurn
from livecc_jax.timeline.turns import split_into_turns, turn_span

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StreamedClip:
    """A clip as a stream shows it.

    Attributes:
        id: Its name.
        frames: uint8 [F, H, W, 3], two a second, at the size of the pixel budget.
        prompt: Text of the first turn.
        start_us: Where the clip starts in its video, in microseconds.
    """

    id: str
    frames: np.ndarray
    prompt: str
    start_us: int = 0


def comment_clips(
    model: StreamModel,
    clips: Sequence[StreamedClip],
    options: StreamOptions,
    batch: int,
    *,
    eviction: EvictionPolicy = FULL,
    cache_precision: str = KV_PRECISIONS[0],
    context_size: int = 0,
) -> dict[str, list[PredictedTurn]]:
    """Streams every clip, `batch` at a time, and returns the turns of each by its name.

    Clips of one size and similar length share compiled programs. A clip whose context is full ends
    there, with a warning.

    Args:
        model: Model that comments.
        clips: The clips.
        options: Decoding options.
        batch: Number of clips that are streamed together.
        eviction: What stays in a context.
        cache_precision: Precision of keys and values.
        context_size: Tokens of a context that programs are compiled for; 0 compiles as it grows.
    """
    engine = _open_engine(model, options, batch, eviction, cache_precision, context_size)
    said = _stream(engine, options, [(c.prompt, split_into_turns(c.frames)) for c in clips], batch)
    return {
        clip.id: [
            PredictedTurn(*(clip.start_us + t for t in turn_span(number)), text)
            for number, text in enumerate(texts)
        ]
        for clip, texts in zip(clips, said)
    }


def comment_without_memory(
    model: StreamModel,
    clips: Sequence[StreamedClip],
    options: StreamOptions,
    batch: int,
    memory_frames: int,
    context_size: int = 0,
) -> dict[str, list[PredictedTurn]]:
    """The baseline without memory: each turn is the first turn of a stream of the latest frames.

    Args:
        model: Model that comments.
        clips: The clips.
        options: Decoding options.
        batch: Number of turns that are taken together.
        memory_frames: How many of the latest frames a turn sees, an even number.
        context_size: As in `comment_clips`.
    """
    engine = _open_engine(model, options, batch, FULL, KV_PRECISIONS[0], context_size)
    windows = []
    for clip in clips:
        stops = np.cumsum([len(turn) for turn in split_into_turns(clip.frames)])
        windows += [(clip.prompt, [clip.frames[max(0, n - memory_frames) : n]]) for n in stops]
    said = iter(_stream(engine, options, windows, batch))
    return {
        clip.id: [
            PredictedTurn(*(clip.start_us + t for t in turn_span(number)), " ".join(next(said)))
            for number in range(len(split_into_turns(clip.frames)))
        ]
        for clip in clips
    }


def _open_engine(
    model: StreamModel,
    options: StreamOptions,
    batch: int,
    eviction: EvictionPolicy,
    cache_precision: str,
    context_size: int,
) -> Engine:
    return Engine(
        model,
        EngineOptions(
            max_conversations=batch,
            max_batch=batch,
            pool_tokens=batch * (context_size or options.context),
            eviction=eviction,
            max_new_tokens=options.max_new_tokens,
            context_size=context_size,
            cache_precision=cache_precision,
        ),
    )


def _stream(
    engine: Engine,
    options: StreamOptions,
    streams: Sequence[tuple[str, list[np.ndarray]]],
    batch: int,
) -> list[list[str]]:
    """Returns the words of every turn of every stream (prompt, frames of each turn)."""
    said: list[list[str]] = []
    for first in range(0, len(streams), batch):
        group = [
            (engine.open(prompt, options), turns) for prompt, turns in streams[first : first + batch]
        ]
        words: dict[int, list[str]] = {id(stream): [] for stream, _ in group}
        for number in range(max(len(turns) for _, turns in group)):
            for stream, turns in group:
                if number < len(turns) and not stream.closed:
                    stream.push(turns[number])
            for stream, spoken in _steps(engine):
                words[id(stream)].append(spoken.words)
        for stream, _ in group:
            stream.close()
        said += words.values()
    return said


def _steps(engine: Engine) -> Iterator[tuple[Conversation, SpokenTurn]]:
    """Runs steps until nothing waits, and yields what is said."""
    while engine.waiting():
        for stream, result in engine.step():
            if isinstance(result, SpokenTurn):
                yield stream, result
            elif isinstance(result, LiveCCError):
                log.warning("a commentary ends early: %s", result)
