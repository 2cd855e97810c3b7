"""Questions about a match, with answers and options, from its truth.

Some need one moment of the picture, some everything before it: the score, who scored last, how often
somebody fouled; some need the title.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from livecc_jax.world.facts import Fact, team_of
from livecc_jax.world.lexicon import ALL_MARKS, COLOURS, NUMBERS
from livecc_jax.world.truth import Truth

OPTIONS = 4
KINDS = ("goals", "score", "scorer", "last", "possession", "fouls", "colour", "winner")


@dataclass(frozen=True)
class WorldQuestion:
    """A question about the beginning of a match, up to a moment.

    Attributes:
        kind: What it asks for: one of KINDS.
        end: The moment in seconds at which it is asked; later pictures are not shown.
        text: The question.
        answer: The answer.
        options: Four answers in random order, the right one among them.
    """

    kind: str
    end: float
    text: str
    answer: str
    options: tuple[str, ...]

    @property
    def letter(self) -> str:
        """The letter of the right option."""
        return "ABCD"[self.options.index(self.answer)]


def questions(true: Truth, seed: int, count: int = 4, step: float = 0.5) -> list[WorldQuestion]:
    """Draws questions about a match.

    Args:
        true: What is true of the match.
        seed: Another seed is another draw.
        count: How many; fewer where the match does not give so many.
        step: The moments at which they are asked are multiples of it, in seconds.
    """
    rng = np.random.default_rng([true.seed, seed, 31])
    found: list[WorldQuestion] = []
    asked: set[tuple[str, str]] = set()
    for _ in range(8 * count):
        if len(found) == count:
            break
        kind = KINDS[int(rng.integers(len(KINDS)))]
        low = min(10.0, true.seconds / 2)
        end = round(float(rng.uniform(low, true.seconds)) / step) * step
        question = _ask(kind, min(end, true.seconds), true, rng)
        if question is not None and (question.kind, question.text) not in asked:
            asked.add((question.kind, question.text))
            found.append(question)
    return found


def _ask(kind: str, end: float, true: Truth, rng: np.random.Generator) -> WorldQuestion | None:
    context = true.context
    before = [f for f in true.events if f.time <= end - 0.5]
    colours = [context.home, context.away]
    team = colours[int(rng.integers(2))]
    numbers = list(NUMBERS[:10])
    home, away = map(int, true.score_at(end).object.split("-"))
    if end - true.score_at(end).time < 0.5 < end:
        return None  # a goal is about to be seen: it would be unfair to ask now

    def make(text: str, answer: str, others: list[str]) -> WorldQuestion:
        rest = [other for other in dict.fromkeys(others) if other != answer]
        wrong = rng.permutation(rest)[: OPTIONS - 1].tolist()
        options = tuple(rng.permutation([answer, *wrong]).tolist())
        return WorldQuestion(kind, end, text, answer, options)

    if kind == "goals":
        answer = NUMBERS[home if team == context.home else away]
        return make(f"How many goals have {team} scored?", answer, numbers[:6])
    if kind == "score":
        answer = f"{NUMBERS[home]} {NUMBERS[away]}"
        near = [
            (home + i, away + j) for i in (-1, 0, 1) for j in (-1, 0, 1) if min(home + i, away + j) >= 0
        ]
        near += [(away, home), (home + 2, away), (home, away + 2)]
        return make(
            f"What is the score of {context.home} against {context.away}?",
            answer,
            [f"{NUMBERS[a]} {NUMBERS[b]}" for a, b in near],
        )
    if kind == "winner":
        answer = "nobody" if home == away else context.home if home > away else context.away
        return make("Who is in front?", answer, [*colours, "nobody", *COLOURS])
    if kind == "colour":
        name = next(name for name, colour in context.teams.items() if colour == team)
        return make(f"What colour do {name} wear?", team, list(COLOURS))
    if kind == "scorer":
        goals = [f for f in before if f.action == "goal"]
        if not goals:
            return None
        return make("Who scored last?", goals[-1].actor, _others(goals[-1], true))
    if kind == "last":
        names = {"goal": "a goal", "foul": "a foul", "save": "a save", "out": "a ball that went out"}
        last = [f for f in before if f.action in names]
        if not last:
            return None
        answer = names[last[-1].action]
        return make("What did we see last?", answer, list(names.values()))
    if kind == "possession":
        holding = [
            f for f in true.facts
            if f.kind == "possession" and f.action == "player" and f.time + 0.6 <= end <= f.until
        ]  # fmt: skip
        shot = next((kind for start, stop, kind in true.shots if start <= end < stop), "play")
        if not holding or shot != "play":
            return None
        return make("Who has the ball?", holding[-1].actor, _others(holding[-1], true))
    count = sum(f.action == "foul" and team_of(f.actor) == team for f in before)
    return make(f"How many fouls by {team}?", NUMBERS[min(count, 20)], numbers[:6])


def _others(fact: Fact, true: Truth) -> list[str]:
    """Returns players whom an answer may be mistaken for: mostly of the same team."""
    colour = team_of(fact.actor)
    mark = fact.actor.split(" ")[1]
    return [f"{true.context.other(colour)} {mark}", *(f"{colour} {other}" for other in ALL_MARKS)]
