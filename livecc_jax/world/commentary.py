"""The commentator: speaks about a match, in a style, after natural delays.

What is mentioned, with what delay and in which words is drawn at random; everything that is said is
true and known when it is said. Two draws over the same match differ as two people would, and the one
scored against the other is the ceiling that any model can reach.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np

from livecc_jax.errors import ConfigError
from livecc_jax.world.facts import Fact, TimedWord, speak, spoken_action
from livecc_jax.world.grammar import REGISTERS, WORDINGS
from livecc_jax.world.match import Match
from livecc_jax.world.truth import Truth, truth

MENTIONS = MappingProxyType(
    {
        "kickoff": 0.85, "pass": 0.75, "dribble": 0.85, "steal": 0.85, "shot": 0.8, "save": 0.95,
        "goal": 1.0, "foul": 0.95, "yellow": 0.95, "red": 1.0, "out": 0.85, "substitution": 0.95,
        "replay": 0.7, "crowd": 0.6,
    }
)  # fmt: skip
URGENT = {"goal": 0, "red": 1, "yellow": 1, "foul": 1, "substitution": 1, "save": 1}
LATEST = 2.8  # seconds after an event by which the first word about it is said
PATIENCE = {"goal": 2.8, "substitution": 2.6, "foul": 2.6, "yellow": 2.6, "red": 2.8}
USUAL_PATIENCE = 2.0  # seconds after an event, after which it is not mentioned any more
REMARK_PATIENCE = 6.0  # likewise of what is said in a pause


@dataclass(frozen=True)
class Style:
    """How a commentator speaks.

    Attributes:
        register: Which wordings: one of `grammar.REGISTERS`.
        mentions: Probability that an event is mentioned, by action.
        delay: Median seconds from an event to the first word about it.
        spread: Standard deviation of the logarithm of that delay.
        rate: Words a second, about.
        remarks: Multiplies the probability of what is said in pauses: score, streaks, possession.
        names: Probability that a player whose name is known is called by it.
        introduces: Probability that a player is introduced before being mentioned for the first time.
        clubs: Probability that a team is called by its name.
        articles: Probability of `the` before a shirt.
        marks: Probability that the other player of a phrase is called by the mark alone.
        exclaims: Whether sentences end with `!`.
    """

    register: str = "calm"
    mentions: Mapping[str, float] = field(default_factory=lambda: MENTIONS, hash=False)
    delay: float = 0.45
    spread: float = 0.35
    rate: float = 3.4
    remarks: float = 1.0
    names: float = 0.0
    introduces: float = 0.0
    clubs: float = 0.0
    articles: float = 0.0
    marks: float = 0.0
    exclaims: bool = False

    def __post_init__(self) -> None:
        if self.register not in REGISTERS:
            raise ConfigError(
                f"there is no register {self.register!a:.40}: they are {', '.join(REGISTERS)}"
            )


STYLES: dict[str, Style] = {
    "calm": Style("calm", clubs=0.3),
    "lively": Style("lively", names=0.8, introduces=0.5, clubs=0.5, rate=3.8, exclaims=True),
    "terse": Style("terse", marks=1.0, delay=0.35, remarks=0.7),
    "club": Style("calm", names=0.8, introduces=0.3, clubs=1.0),
    # Kept for adapting a trained model to somebody new: its wordings occur in no other style.
    "radio": Style("radio", articles=1.0, clubs=0.7, delay=0.6, remarks=1.3),
}
USUAL_STYLES = ("calm", "lively", "terse", "club")


def style(name: str) -> Style:
    """Returns the style called `name`. Raises ConfigError when there is none."""
    if name not in STYLES:
        raise ConfigError(f"there is no style {name!a:.40}: the styles are {', '.join(STYLES)}")
    return STYLES[name]


@dataclass(frozen=True)
class Commentary:
    """What a commentator says of a match.

    Attributes:
        words: (start, end, word) in seconds of the video, in order.
        facts: What is said: `time` and `until` are those of the words, `words` their numbers.
        began: For each fact, when it happened or began to hold, in seconds.
    """

    words: tuple[TimedWord, ...]
    facts: tuple[Fact, ...]
    began: tuple[float, ...]

    @property
    def text(self) -> str:
        """The words without their times."""
        return " ".join(word for _, _, word in self.words)


@dataclass(order=True)
class _Plan:
    """Something to say: not before `ready`, not after `until`; the most urgent comes first."""

    ready: float
    urgency: int
    number: int
    fact: Fact = field(compare=False)
    until: float = field(compare=False)


def lineup(match: Match, manner: Style, seed: int) -> list[str]:
    """Returns the words in which the players who begin are introduced before the match."""
    speaker = _Speaker(match, manner, np.random.default_rng([match.seed, seed, 12]))
    words: list[str] = []
    for shirt in _beginning(match):
        words += speaker.sentence(Fact("name", "name", shirt, match.named(shirt)))
    return words


def _beginning(match: Match) -> list[str]:
    """Returns the players who begin."""
    return [shirt for shirt, present in zip(match.shirts, match.present[0]) if present]


def commentate(
    match: Match,
    manner: Style = STYLES["calm"],
    seed: int = 0,
    introduced: bool = False,
    true: Truth | None = None,
) -> Commentary:
    """Draws a commentary.

    Args:
        match: The match.
        manner: How to speak.
        seed: Another seed is another draw over the same match.
        introduced: Whether all players who begin have been introduced before (`lineup`).
        true: What is true of the match, if it is known already.
    """
    true = true or truth(match)
    rng = np.random.default_rng([match.seed, seed, 11])
    speaker = _Speaker(match, manner, rng)
    if introduced:
        speaker.introduced.update(_beginning(match))
    return _say(_plans(true, manner, rng), true, speaker, rng)


def _plans(true: Truth, manner: Style, rng: np.random.Generator) -> list[_Plan]:
    """Draws what to say of the events, and remarks for the pauses."""
    plans: list[_Plan] = []

    def put(fact: Fact, ready: float, patience: float, urgency: int) -> None:
        plans.append(_Plan(ready, urgency, len(plans), fact, fact.time + patience))

    seen = set(true.seen_events)
    for fact in true.facts:
        delay = float(np.clip(manner.delay * np.exp(manner.spread * rng.normal()), 0.1, 1.8))
        draw = float(rng.random())
        if fact.kind in ("event", "picture"):
            if (fact.kind == "picture" or fact in seen) and draw < manner.mentions.get(
                fact.action, 0.0
            ):
                patience = PATIENCE.get(fact.action, USUAL_PATIENCE)
                put(fact, fact.time + delay, patience, URGENT.get(fact.action, 2))
            continue
        chance, wait = _remark(fact, true)
        if draw < chance * manner.remarks:
            put(fact, fact.time + wait + delay, REMARK_PATIENCE, 4)
    # Now and then in what lies between, above all in quiet spells.
    time = float(rng.uniform(5.0, 9.0))
    while time < true.seconds:
        options = [true.score_at(time)]
        options += [
            f for f in true.facts
            if (f.kind == "possession" or f.action == "fouled") and f.time + 1.0 <= time < f.until
        ]  # fmt: skip
        if float(rng.random()) < 0.5 * manner.remarks:
            fact = options[int(rng.integers(len(options)))]
            plans.append(_Plan(time, 5, len(plans), fact, time + 1.5))
        time += float(rng.uniform(3.0, 6.0))
    return plans


def _remark(fact: Fact, true: Truth) -> tuple[float, float]:
    """Returns the probability of a remark when something begins to hold, and after how many seconds."""
    if fact.kind == "score":
        return (0.8, 0.9) if fact.time else (0.0, 0.0)
    if fact.kind == "streak" and fact.action != "fouled" and int(fact.object) > 1:
        return 0.5, 1.2
    if fact.kind == "possession" and fact.until - fact.time > 4.0:
        return 0.5, 2.5
    if fact.kind == "colour":
        return 0.2, 1.0
    return 0.0, 0.0


def _say(plans: list[_Plan], true: Truth, speaker: _Speaker, rng: np.random.Generator) -> Commentary:
    words: list[TimedWord] = []
    facts: list[Fact] = []
    began: list[float] = []
    heapq.heapify(plans)
    waiting: list[_Plan] = []
    now = 0.0

    def utter(fact: Fact, begin: float, happened: float) -> float:
        first, time = len(words), begin
        for word in speaker.sentence(fact):
            length = (0.10 + 0.045 * len(word)) * 3.4 / speaker.manner.rate
            words.append((round(time, 2), round(time + 0.94 * length, 2), word))
            time += length
        said = replace(fact, words=(first, len(words)), names=tuple(speaker.names_said))
        facts.append(said.at(words[first][0], words[-1][1]))
        began.append(happened)
        return time

    while plans or waiting:
        if not waiting and plans[0].ready > now:
            now = plans[0].ready
        while plans and plans[0].ready <= now:
            waiting.append(heapq.heappop(plans))
        waiting = [plan for plan in waiting if plan.until >= now]
        if not waiting:
            continue
        plan = min(waiting, key=lambda p: (p.urgency, p.ready, p.number))
        waiting.remove(plan)
        begin = now
        if plan.fact.kind != "event":
            # What held when it was planned may have changed, and nothing is said twice in a row.
            current = true.score_at(begin) if plan.fact.kind == "score" else plan.fact
            if not true.holds(current, begin, 0.0) or any(f.key == current.key for f in facts[-6:]):
                continue
            plan.fact = replace(current, until=plan.fact.until)
        for who in (plan.fact.actor, plan.fact.object):
            if speaker.would_introduce(who):
                fact = Fact("name", "name", who, speaker.names[who])
                begin = utter(fact, begin, 0.0) + 0.12
        now = begin  # an introduction has been said in any case
        if plan.fact.kind == "event":
            in_time = begin <= plan.fact.time + LATEST
        else:  # an introduction may have taken longer than what it was for
            in_time = true.holds(plan.fact, begin, 0.0)
        if begin >= true.seconds or not in_time:
            continue
        now = utter(plan.fact, begin, plan.fact.time) + float(rng.uniform(0.12, 0.35))
    kept = [i for i, fact in enumerate(facts) if fact.until <= true.seconds]
    last = facts[kept[-1]].words[1] if kept else 0
    return Commentary(tuple(words[:last]), tuple(facts[i] for i in kept), tuple(began[i] for i in kept))


class _Speaker:
    """Turns facts into sentences, and remembers who has been introduced."""

    def __init__(self, match: Match, manner: Style, rng: np.random.Generator) -> None:
        self.manner, self.rng = manner, rng
        self.names = {shirt: name for name, shirt in match.context.names.items()}
        self.clubs = {colour: name for name, colour in match.context.teams.items()}
        self.introduced: set[str] = set()
        self.mentioned: set[str] = set()
        self.names_said: list[str] = []  # in the latest sentence

    def would_introduce(self, who: str) -> bool:
        """Decides whether to introduce a player who is mentioned for the first time."""
        if who not in self.names or who in self.mentioned:
            return False
        self.mentioned.add(who)
        return who not in self.introduced and self.rng.random() < self.manner.introduces

    def sentence(self, fact: Fact) -> list[str]:
        """Returns a fact's words, with a capital at the beginning and a stop at the end."""
        self.names_said = [fact.object] if fact.kind == "name" else []
        choices = len(WORDINGS[fact.kind, spoken_action(fact)][self.manner.register])
        words = speak(fact, self.manner.register, self._spell, int(self.rng.integers(choices)))
        if fact.kind == "name":
            self.introduced.add(fact.actor)
        words[0] = words[0][0].upper() + words[0][1:]
        words[-1] += "!" if self.manner.exclaims else "."
        return words

    def _spell(self, slot: str, who: str, fact: Fact) -> str:
        manner, draw = self.manner, self.rng.random()
        if slot == "T":
            return who
        if slot == "t":
            return self.clubs[who] if draw < manner.clubs else who
        if slot != "A" and who in self.introduced and draw < manner.names:
            self.names_said.append(self.names[who])
            return self.names[who]
        if slot in "so" and self.rng.random() < manner.marks:
            return who.split(" ")[1]
        return f"the {who}" if self.rng.random() < manner.articles else who
