"""What is wrong with the facts of a commentary: each said fact, and each missed one, in one class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from livecc_jax.evaluate.metrics.fact_alignment import ANY_TIME, IN_TIME_S, align_facts
from livecc_jax.world.facts import Fact

RIGHT = "right, in time"
LATE = "right, at another time"
TRUE = "true, but not said by the reference"
NAMES = "wrong name, else right"
PLAYER = "right action, wrong player"
OBJECT = "right action and player, wrong object"
ACTION = "right player, wrong action"
INVENTED = "nothing of it right"
MISSED = "missed"
CLASSES = (RIGHT, LATE, TRUE, NAMES, OBJECT, PLAYER, ACTION, INVENTED, MISSED)


def explain_facts(
    said: Sequence[Fact], reference: Sequence[Fact], truth: Sequence[Fact]
) -> Counter[str]:
    """Counts the said facts by the first class of CLASSES that applies, and the missed ones.

    Args:
        said: Facts of a commentary.
        reference: Facts of the reference commentary.
        truth: What is true of the match; other facts of the same moment are compared with it.
    """
    alignment = align_facts(said, reference, IN_TIME_S)
    right, but_names = ({i for i, _ in pairs} for pairs in (alignment.exact, alignment.but_names))
    elsewhere = {i for i, _ in align_facts(said, reference, ANY_TIME).exact}
    counts: Counter[str] = Counter()
    for i, fact in enumerate(said):
        near = [t for t in truth if t.time - IN_TIME_S <= fact.until <= t.until + IN_TIME_S]
        counts[_classify(fact, i in right, i in elsewhere, i in but_names, near)] += 1
    counts[MISSED] = len(reference) - len(alignment.exact)
    return counts


def _classify(fact: Fact, right: bool, elsewhere: bool, but_names: bool, near: list[Fact]) -> str:
    if right:
        return RIGHT
    if elsewhere:
        return LATE
    if any(t.key == fact.key for t in near):
        return TRUE
    if but_names:
        return NAMES
    same_action = [t for t in near if (t.kind, t.action) == (fact.kind, fact.action)]
    if any(t.actor == fact.actor for t in same_action):
        return OBJECT
    if same_action:
        return PLAYER
    if any(t.actor == fact.actor and t.kind == fact.kind for t in near):
        return ACTION
    return INVENTED
