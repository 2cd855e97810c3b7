"""Teacher-forced perplexity of the reference commentary.

Each turn's reference tokens are scored by a model that is given the true words of every earlier turn
(docs/evaluation.md has the formula). This file holds the costs of turns, pools them, and reads and
writes them; evaluate/run/teacher_forced.py computes them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from livecc_jax.evaluate.benchmarks.record_fields import MalformedRecord

TIME_BANDS = (0, 3, 10, 30, 60, 120, 240)  # seconds since the start of a clip, for a report's table
_MAX_NATS = 700.0  # exp() of more overflows a float64


@dataclass(frozen=True)
class TeacherForcedTurn:
    """Negative log-likelihood of one turn's reference tokens.

    Attributes:
        start_us: Start of the turn in the video, microseconds.
        stop_us: End of the turn in the video, microseconds.
        word_tokens: Number of tokens of the words alone.
        word_nats: Negative log-likelihood of those tokens, in nats.
        tokens: Number of all supervised tokens: words, silence mark and end of turn.
        nats: Negative log-likelihood of all supervised tokens, in nats.
    """

    start_us: int
    stop_us: int
    word_tokens: int
    word_nats: float
    tokens: int
    nats: float


@dataclass(frozen=True)
class TeacherForcedClip:
    """The turns of one clip.

    Attributes:
        turns: Turns in order.
        words_after_last_frame: Number of reference words that belong to no turn, because they are due
            after the last frame.
    """

    turns: tuple[TeacherForcedTurn, ...]
    words_after_last_frame: int = 0


@dataclass(frozen=True)
class Perplexity:
    """Perplexity per token, pooled over turns.

    The field names are the keys of the JSON output.

    Attributes:
        from_s: Start of the time band, seconds since the start of the clip.
        to_s: End of the time band.
        word_tokens: Number of tokens of words.
        word_perplexity: Perplexity of the words; nan without a token.
        tokens: Number of all supervised tokens.
        perplexity: Perplexity of all supervised tokens; nan without a token.
    """

    from_s: float
    to_s: float
    word_tokens: int
    word_perplexity: float
    tokens: int
    perplexity: float


def pool_turns(
    turns: Iterable[TeacherForcedTurn], from_s: float = 0.0, to_s: float = math.inf
) -> Perplexity:
    """Pools the tokens of turns into one perplexity.

    Args:
        turns: Turns of any number of clips.
        from_s: Start of the time band to state in the result, seconds.
        to_s: End of that time band, seconds.
    """
    turns = list(turns)
    word_tokens, tokens = sum(t.word_tokens for t in turns), sum(t.tokens for t in turns)
    return Perplexity(
        from_s,
        to_s,
        word_tokens,
        _perplexity(math.fsum(t.word_nats for t in turns), word_tokens),
        tokens,
        _perplexity(math.fsum(t.nats for t in turns), tokens),
    )


def _perplexity(nats: float, tokens: int) -> float:
    return math.exp(min(_MAX_NATS, nats / tokens)) if tokens else math.nan


def perplexity_by_second(clips: Sequence[TeacherForcedClip]) -> list[Perplexity]:
    """Pools turns of the same number over clips: the first three seconds, then one second each."""
    turns_by_span: dict[tuple[int, int], list[TeacherForcedTurn]] = {}
    for clip in clips:
        for turn in clip.turns:
            start = clip.turns[0].start_us
            span = turn.start_us - start, turn.stop_us - start
            turns_by_span.setdefault(span, []).append(turn)
    return [
        pool_turns(turns_by_span[start, stop], start / 1e6, stop / 1e6)
        for start, stop in sorted(turns_by_span)
    ]


def perplexity_by_time_band(clips: Sequence[TeacherForcedClip]) -> list[Perplexity]:
    """Pools the turns that begin in each of TIME_BANDS; a band without turns is left out."""
    bands = []
    for low, high in zip(TIME_BANDS, (*TIME_BANDS[1:], math.inf)):
        turns = [
            t for c in clips for t in c.turns if low <= (t.start_us - c.turns[0].start_us) / 1e6 < high
        ]
        if turns:
            bands.append(pool_turns(turns, low, high))
    return bands


def teacher_forced_to_json(clip: TeacherForcedClip) -> dict[str, Any]:
    """Returns the object that predictions.jsonl holds under `forced`; times are in seconds."""
    return {
        "left_out": clip.words_after_last_frame,
        "turns": [
            {
                "start": t.start_us / 1e6,
                "stop": t.stop_us / 1e6,
                "word_tokens": t.word_tokens,
                "word_nats": round(t.word_nats, 5),
                "tokens": t.tokens,
                "nats": round(t.nats, 5),
            }
            for t in clip.turns
        ],
    }


def teacher_forced_from_json(value: Any) -> TeacherForcedClip:
    """Reads what `teacher_forced_to_json` wrote.

    Raises:
        MalformedRecord: The value has another form, or holds costs that are not finite.
    """
    try:
        turns = tuple(
            TeacherForcedTurn(
                round(float(t["start"]) * 1e6),
                round(float(t["stop"]) * 1e6),
                int(t["word_tokens"]),
                float(t["word_nats"]),
                int(t["tokens"]),
                float(t["nats"]),
            )
            for t in value["turns"]
        )
        words_after_last_frame = int(value["left_out"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise MalformedRecord("'forced' is not what an evaluation writes") from None
    if not all(math.isfinite(t.nats + t.word_nats) and t.tokens >= t.word_tokens >= 0 for t in turns):
        raise MalformedRecord("'forced' holds costs that are not finite numbers")
    return TeacherForcedClip(turns, words_after_last_frame)
