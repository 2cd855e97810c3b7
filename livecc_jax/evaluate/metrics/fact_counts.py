"""One clip of commentary as facts: what each metric of facts counts in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from livecc_jax.evaluate.metrics.commentary import ClipCounts, PredictedTurn, Reference, count_clip
from livecc_jax.evaluate.metrics.fact_alignment import ANY_TIME, IN_TIME_S, align_facts
from livecc_jax.evaluate.metrics.fact_errors import explain_facts
from livecc_jax.evaluate.metrics.triggers import first_word_delays
from livecc_jax.world.facts import Context, Fact, parse_facts

EVENT_KINDS = ("event",)


@dataclass(frozen=True)
class FactClip:
    """A clip whose truth is known.

    Attributes:
        reference: Its reference commentary.
        context: What the words refer to.
        truth: Everything that is true of the clip's match, with the times at which it is.
        group: Name of the match; intervals resample matches.
    """

    reference: Reference
    context: Context
    truth: tuple[Fact, ...]
    group: str = ""

    @property
    def facts(self) -> list[Fact]:
        """The facts of the reference commentary."""
        words = self.reference.words
        return parse_facts([(w.start_us / 1e6, w.end_us / 1e6, w.text) for w in words], self.context)


@dataclass
class FactCounts:
    """What one clip adds to the metrics of facts.

    Attributes:
        said: Number of facts that the commentary says.
        reference: Number of facts of the reference.
        in_time: Number of said facts that are the reference's, within 3 s.
        any_time: The same regardless of time.
        but_names: Number of further facts, in time, that are the reference's but for names.
        named: Of the facts in time, names aside: how many call a player by name.
        named_right: How many of those have the right players.
        scores: Number of scores that are said.
        scores_right: How many of those are the score at that time.
        true: Number of said facts that are true of the match when they are said.
        delays_us: Delay of the first word after each event that the reference mentions.
        events: Number of events that the reference mentions.
        by_action: (said, reference, in time) by kind and action.
        errors: Number of said facts by what is wrong with them, and of reference facts that are missed.
        words: Counts of the words.
    """

    said: int
    reference: int
    in_time: int
    any_time: int
    but_names: int
    named: int
    named_right: int
    scores: int
    scores_right: int
    true: int
    delays_us: list[int]
    events: int
    by_action: dict[tuple[str, str], tuple[int, int, int]]
    errors: Counter
    words: ClipCounts = field(repr=False)

    @property
    def f1(self) -> float:
        """F1 of the facts in time; 1 where neither says a fact."""
        total = self.said + self.reference
        return 2 * self.in_time / total if total else 1.0


def said_facts(turns: Sequence[PredictedTurn], context: Context) -> list[Fact]:
    """Parses a commentary by turns; the words of a turn are said when they are emitted."""
    words = [(t.emitted_us / 1e6,) * 2 + (w,) for t in turns for w in t.text.split()]
    return parse_facts(words, context)


def count_facts(clip: FactClip, turns: Sequence[PredictedTurn]) -> FactCounts:
    """Counts the facts of one clip.

    Args:
        clip: The clip with its reference and its truth.
        turns: Predicted turns in order.
    """
    words = count_clip(clip.reference, turns)
    said, reference = said_facts(words.turns, clip.context), clip.facts
    alignment = align_facts(said, reference, IN_TIME_S)
    any_time = align_facts(said, reference, ANY_TIME)
    right = {i for i, _ in alignment.exact}
    matched = right | {i for i, _ in alignment.but_names}
    scores = [f for f in said if f.kind == "score"]
    counted = [
        Counter((f.kind, f.action) for f in facts)
        for facts in (said, reference, [said[i] for i in right])
    ]
    mentioned = mentioned_events(clip.truth, reference)
    emitted = [t.emitted_us for t in words.turns if t.text]
    named = [i for i in matched if said[i].names]
    return FactCounts(
        said=len(said),
        reference=len(reference),
        in_time=len(alignment.exact),
        any_time=len(any_time.exact),
        but_names=len(alignment.but_names),
        named=len(named),
        named_right=sum(i in right for i in named),
        scores=len(scores),
        scores_right=sum(holds(f, clip.truth) for f in scores),
        true=sum(holds(f, clip.truth) for f in said),
        delays_us=first_word_delays([round(1e6 * e.time) for e in mentioned], emitted).tolist(),
        events=len(mentioned),
        by_action={key: tuple(c[key] for c in counted) for key in {k for c in counted for k in c}},
        errors=explain_facts(said, reference, clip.truth),
        words=words,
    )


def holds(fact: Fact, truth: Sequence[Fact], late_s: float = IN_TIME_S) -> bool:
    """Whether a said fact is true: it has happened, or held, at most `late_s` before its first word."""
    return any(t.key == fact.key and t.time <= fact.time <= t.until + late_s for t in truth)


def mentioned_events(truth: Sequence[Fact], reference: Sequence[Fact]) -> list[Fact]:
    """Returns the events of the truth that the reference mentions, each once and in order."""
    events = sorted((t for t in truth if t.kind in EVENT_KINDS), key=lambda t: t.time)
    mentioned, taken = [], set()
    for fact in reference:
        # What is said last before a word is what the word is about.
        before = [
            i for i, e in enumerate(events)
            if e.key == fact.key and e.time <= fact.until and i not in taken
        ]  # fmt: skip
        if before:
            taken.add(before[-1])
            mentioned.append(events[before[-1]])
    return sorted(mentioned, key=lambda e: e.time)
