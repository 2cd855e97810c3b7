"""Alignment of said facts with reference facts: equal in content, and near in time.

A fact is said when its last word is. Content is equal when kind, action, actor and object are
(`Fact.key`). Players whom a fact calls by name are compared apart: a fact that is right but for them is
matched "by all but its names".
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from livecc_jax.evaluate.metrics.triggers import match_times
from livecc_jax.world.facts import Fact

IN_TIME_S = 3.0  # a fact is in time if it is said within so many seconds of the reference
ANY_TIME = math.inf


@dataclass(frozen=True)
class FactAlignment:
    """Which said facts are matched with which reference facts.

    Attributes:
        exact: Pairs (index among the said facts, index among the reference facts) of equal content.
        but_names: Further pairs that differ only in players called by name in the said fact.
    """

    exact: tuple[tuple[int, int], ...]
    but_names: tuple[tuple[int, int], ...]


def align_facts(
    said: Sequence[Fact], reference: Sequence[Fact], window_s: float = IN_TIME_S
) -> FactAlignment:
    """Aligns facts one with one.

    There are as many exact pairs as there can be, and among such alignments the one with the smallest
    sum of time differences; then as many further pairs that differ in names alone.

    Args:
        said: Facts of a commentary.
        reference: Facts of the reference.
        window_s: Largest time difference in seconds; ANY_TIME for none.
    """
    said_by_key, reference_by_key = (defaultdict(list) for _ in range(2))
    for facts, by_key in ((said, said_by_key), (reference, reference_by_key)):
        for i in sorted(range(len(facts)), key=lambda i: facts[i].until):
            by_key[facts[i].key].append(i)
    exact: list[tuple[int, int]] = []
    for key, ours in said_by_key.items():
        theirs = reference_by_key.get(key, [])
        times = ([_time_us(said[i]) for i in ours], [_time_us(reference[j]) for j in theirs])
        window_us = _window_us(window_s, *times)
        exact += [(ours[i], theirs[j]) for i, j in match_times(*times, window_us)]
    taken_said, taken_reference = {i for i, _ in exact}, {j for _, j in exact}
    rest = [j for j in range(len(reference)) if j not in taken_reference]
    choices = {
        i: [
            j
            for j in rest
            if _equal_but_names(fact, reference[j]) and _near(fact, reference[j], window_s)
        ]
        for i, fact in enumerate(said)
        if fact.names and i not in taken_said
    }
    return FactAlignment(tuple(sorted(exact)), tuple(sorted(_most_pairs(choices))))


def _time_us(fact: Fact) -> int:
    return round(fact.until * 1_000_000)


def _window_us(window_s: float, *times: list[int]) -> int:
    """Returns the window in microseconds: with ANY_TIME, the largest difference that there is."""
    if math.isfinite(window_s):
        return round(window_s * 1_000_000)
    every = [t for series in times for t in series]
    return max(every) - min(every) if every else 0


def _near(a: Fact, b: Fact, window_s: float) -> bool:
    return abs(_time_us(a) - _time_us(b)) <= window_s * 1_000_000


def _equal_but_names(said: Fact, reference: Fact) -> bool:
    """Whether a said fact that calls players by name is the reference's but for these players."""
    if (said.kind, said.action) != (reference.kind, reference.action):
        return False
    if said.kind == "name":  # the shirt must be right, the name may be another
        return said.actor == reference.actor
    differ = (said.actor != reference.actor) + (said.object != reference.object)
    return 0 < differ <= len(said.names)


def _most_pairs(choices: dict[int, list[int]]) -> list[tuple[int, int]]:
    """Returns a matching with as many pairs as there can be (augmenting paths)."""
    partner: dict[int, int] = {}

    def place(i: int, seen: set[int]) -> bool:
        for j in choices[i]:
            if j not in seen:
                seen.add(j)
                if j not in partner or place(partner[j], seen):
                    partner[j] = i
                    return True
        return False

    for i in choices:
        place(i, set())
    return [(i, j) for j, i in partner.items()]
