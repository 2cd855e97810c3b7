"""Perplexity of the reference commentary, from what each turn's tokens cost a model that is given the
true words of every turn before (docs/evaluation.md has the formula)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from livecc_jax.evaluate.benchmarks.results import Malformed

BANDS = (0, 3, 10, 30, 60, 120, 240)  # seconds since a clip's start, of a report's table
_LARGEST = 700.0  # nats whose exponential is still a number


@dataclass(frozen=True)
class ForcedTurn:
    """What the reference's tokens of one turn cost, in nats.

    Times are absolute microseconds. word_tokens and word_nats are of the words alone, tokens and nats
    of all that is supervised: the words, the silence mark and the end of the turn.
    """

    start_us: int
    stop_us: int
    word_tokens: int
    word_nats: float
    tokens: int
    nats: float


@dataclass(frozen=True)
class Forced:
    """A clip's turns, and how many of its words are in none of them (due after the last frame)."""

    turns: tuple[ForcedTurn, ...]
    left_out: int = 0


@dataclass(frozen=True)
class Cost:
    """Turns pooled; from_s and to_s are seconds since the clip's start."""

    from_s: float
    to_s: float
    word_tokens: int
    word_perplexity: float
    tokens: int
    perplexity: float


def pooled(turns: Iterable[ForcedTurn], from_s: float = 0.0, to_s: float = math.inf) -> Cost:
    """Perplexity over turns; nan where there is no token."""
    turns = list(turns)
    words, tokens = sum(t.word_tokens for t in turns), sum(t.tokens for t in turns)
    return Cost(
        from_s,
        to_s,
        words,
        _perplexity(math.fsum(t.word_nats for t in turns), words),
        tokens,
        _perplexity(math.fsum(t.nats for t in turns), tokens),
    )


def _perplexity(nats: float, tokens: int) -> float:
    return math.exp(min(_LARGEST, nats / tokens)) if tokens else math.nan


def by_second(clips: Sequence[Forced]) -> list[Cost]:
    """A cost for each turn number, pooled over clips: the first three seconds, then one each."""
    grouped: dict[tuple[int, int], list[ForcedTurn]] = {}
    for clip in clips:
        for turn in clip.turns:
            start = clip.turns[0].start_us
            grouped.setdefault((turn.start_us - start, turn.stop_us - start), []).append(turn)
    return [pooled(grouped[k], k[0] / 1e6, k[1] / 1e6) for k in sorted(grouped)]


def by_band(clips: Sequence[Forced]) -> list[Cost]:
    """Costs of BANDS, each with the turns that begin in it; bands without a turn are left out."""
    found = []
    for low, high in zip(BANDS, (*BANDS[1:], math.inf)):
        turns = [
            t for c in clips for t in c.turns if low <= (t.start_us - c.turns[0].start_us) / 1e6 < high
        ]
        if turns:
            found.append(pooled(turns, low, high))
    return found


def forced_to_json(forced: Forced) -> dict[str, Any]:
    """As predictions.jsonl has it: times in seconds."""
    return {
        "left_out": forced.left_out,
        "turns": [
            {
                "start": t.start_us / 1e6,
                "stop": t.stop_us / 1e6,
                "word_tokens": t.word_tokens,
                "word_nats": round(t.word_nats, 5),
                "tokens": t.tokens,
                "nats": round(t.nats, 5),
            }
            for t in forced.turns
        ],
    }


def forced_from_json(told: Any) -> Forced:
    """What `forced_to_json` wrote. Raises Malformed."""
    try:
        turns = tuple(
            ForcedTurn(
                round(float(t["start"]) * 1e6),
                round(float(t["stop"]) * 1e6),
                int(t["word_tokens"]),
                float(t["word_nats"]),
                int(t["tokens"]),
                float(t["nats"]),
            )
            for t in told["turns"]
        )
        left_out = int(told["left_out"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise Malformed("'forced' is not what an evaluation writes") from None
    if not all(math.isfinite(t.nats + t.word_nats) and t.tokens >= t.word_tokens >= 0 for t in turns):
        raise Malformed("'forced' holds costs that are no numbers")
    return Forced(turns, left_out)
