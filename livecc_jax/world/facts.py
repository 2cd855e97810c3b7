"""Facts: what a commentary says about a match, spoken by the grammar and parsed back from timed words.

    words = speak(fact, context, "calm", references)      # ["the", "red", "square", "passes", ...]
    facts = parse_facts([(start, end, word), ...], context)

Players are written as colour and mark (`red square`, `blue keeper`), teams as their colour (`red`),
however they were called when spoken: by shirt, by mark alone, by a name that was introduced, by the
team's name that the title ties to a colour. So facts of different commentators compare as equal values.

Words that belong to no wording are skipped: a commentary with mistakes gives the facts of its whole
phrases and nothing else.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from livecc_jax.errors import DataError
from livecc_jax.world.grammar import WORDINGS, all_wordings
from livecc_jax.world.lexicon import ALL_MARKS, COLOURS, NAMES, NUMBERS, ORDINALS, TEAMS

TimedWord = tuple[float, float, str]

TITLE = "{home} in {home_colour} against {away} in {away_colour}"


@dataclass(frozen=True)
class Fact:
    """One statement about a match.

    Attributes:
        kind: `event`, `picture` (replay, crowd), `possession`, `score`, `streak`, `colour` or `name`.
        action: Which one: of events `kickoff`, `pass`, `dribble`, `steal`, `shot`, `save`, `goal`,
            `foul`, `yellow`, `red`, `out`, `substitution`; of streaks `goals`, `row`, `fouls`,
            `fouled`; of possession `team`, `player`; of the others one each (`score`, `wear`, `name`),
            of pictures `replay`, `crowd`.
        actor: A player (`red square`) or a team (`red`), "" for none; of a colour fact the team's
            name; of a score the team in front, or "". A name that nobody has introduced stays as
            `?Ada`.
        object: A player (pass, dribble, steal, foul; of a substitution the one who leaves), a score
            `2-1` (home, then away), a count `3`, a colour, a name, or "".
        time: In the truth, when it happened or began to hold, in seconds of the video; of spoken
            words, when the first of them starts.
        until: In the truth of what holds for a while (possession, score, streaks, names, pictures),
            when it ends; of spoken words, when the last of them ends. Equal to `time` for events.
        words: Numbers of the first word and of the one after the last, in the list that was parsed.
        names: The names that were said in it.
    """

    kind: str
    action: str
    actor: str = ""
    object: str = ""
    time: float = field(default=0.0, compare=False)
    until: float = field(default=0.0, compare=False)
    words: tuple[int, int] = field(default=(0, 0), compare=False)
    names: tuple[str, ...] = field(default=(), compare=False)

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What is said, without when: equal for two facts that say the same."""
        return self.kind, self.action, self.actor, self.object

    def at(self, time: float, until: float | None = None) -> Fact:
        """Returns the same fact with another time; `until` is the time unless given."""
        return replace(self, time=time, until=time if until is None else until)

    def __str__(self) -> str:
        said = f"{self.action} {self.actor}".strip()
        return f"{self.kind}: {said}" + (f" -> {self.object}" if self.object else "")


@dataclass(frozen=True)
class Context:
    """What words of a match refer to.

    Attributes:
        home: Colour of the team that the title names first; scores count it first.
        away: Colour of the other team.
        teams: Colours by the names of the teams.
        names: Players (`red square`) by their names. While words are parsed, a name that they introduce
            stands for the shirt they introduce it with.
    """

    home: str
    away: str
    teams: Mapping[str, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Title of the video. Raises DataError when a team has no name."""
        called = {colour: name for name, colour in self.teams.items()}
        if not {self.home, self.away} <= called.keys():
            raise DataError("a match whose teams have no names has no title")
        return TITLE.format(
            home=called[self.home], home_colour=self.home,
            away=called[self.away], away_colour=self.away,
        )  # fmt: skip

    def other(self, colour: str) -> str:
        """Returns the colour of the other team."""
        return self.away if colour == self.home else self.home


def parse_title(title: str) -> Context:
    """Returns the context that a title gives. Raises DataError when it is not a title of this world."""
    team, colour = "|".join(TEAMS), "|".join(COLOURS)
    match = re.fullmatch(f"({team}) in ({colour}) against ({team}) in ({colour})", title)
    if match is None:
        raise DataError(f"{title!a:.80} is no title of a match")
    home, home_colour, away, away_colour = match.groups()
    return Context(home_colour, away_colour, {home: home_colour, away: away_colour})


def team_of(who: str) -> str:
    """Returns the team's colour of a player or team."""
    return who.split(" ")[0]


def score_fact(home: int, away: int, context: Context) -> Fact:
    """Returns the fact that the score is so many goals of each team."""
    leader = "" if home == away else context.home if home > away else context.away
    return Fact("score", "score", leader, f"{home}-{away}")


def spoken_action(fact: Fact) -> str:
    """Returns the action under which the grammar lists a fact: a score is worded as lead or level."""
    if fact.kind == "score":
        return "lead" if fact.actor else "level"
    return fact.action


Speller = Callable[[str, str, Fact], str]


def speak(fact: Fact, register: str, spell: Speller, wording: int = 0) -> list[str]:
    """Returns the words of a fact.

    Args:
        fact: What to say.
        register: One of `grammar.REGISTERS`.
        spell: Called with a slot's letter, the player or team that it stands for, and the fact; returns
            how it is called. `spell_shirts` is the simplest.
        wording: Number of the wording among those of the register, modulo their number.
    """
    wordings = WORDINGS[fact.kind, spoken_action(fact)][register]
    words: list[str] = []
    for part in wordings[wording % len(wordings)].split():
        words += _spell(part[1], fact, spell).split() if part.startswith("{") else [part]
    return words


def _spell(slot: str, fact: Fact, spell: Speller) -> str:
    if slot in "aAtT":
        return spell(slot, fact.actor, fact)
    if slot in "so":
        return spell(slot, fact.object, fact)
    if slot in "xy":
        home, away = map(int, fact.object.split("-"))
        return NUMBERS[max(home, away) if slot == "x" else min(home, away)]
    if slot == "n":
        return NUMBERS[int(fact.object)]
    if slot == "r":
        return ORDINALS[int(fact.object)]
    return fact.object  # a colour or a name


def spell_shirts(slot: str, who: str, fact: Fact) -> str:
    """Calls players by colour and mark, and teams by their colour (`{T}` slots hold a name already)."""
    return who


_SHIRT = rf"(?:the )?(?:{'|'.join(COLOURS)}) (?:{'|'.join(ALL_MARKS)})"
_NAME = "|".join(name.lower() for name in NAMES)
_TEAM_NAME = "|".join(team.lower() for team in TEAMS)
_COLOUR = "|".join(COLOURS)
_PLAYER = f"{_SHIRT}|{_NAME}"
_OTHER = f"{_PLAYER}|{'|'.join(ALL_MARKS)}"
_SLOTS = {
    "a": _PLAYER, "A": _SHIRT, "s": _OTHER, "o": _OTHER, "t": f"{_COLOUR}|{_TEAM_NAME}",
    "T": _TEAM_NAME, "c": _COLOUR, "N": _NAME, "n": "|".join(NUMBERS[1:]), "r": "|".join(ORDINALS[1:]),
    "x": "|".join(NUMBERS), "y": "|".join(NUMBERS),
}  # fmt: skip
_SPELLED_NAMES = {name.lower(): name for name in (*NAMES, *TEAMS)}
_PUNCTUATION = ".,!?;:\"'"


@functools.cache
def _patterns() -> list[tuple[str, str, re.Pattern[str]]]:
    patterns = []
    for kind, action, wording in all_wordings():
        parts = [
            f"(?P<{part[1]}>{_SLOTS[part[1]]})" if part.startswith("{") else re.escape(part)
            for part in wording.split()
        ]
        patterns.append((kind, action, re.compile(" ".join(parts) + r"(?= |$)")))
    return patterns


def normalised(word: str) -> str:
    """Returns a word as the grammar spells it: in small letters, without punctuation around it."""
    return word.strip().strip(_PUNCTUATION).lower()


def parse_facts(words: Iterable[Sequence], context: Context) -> list[Fact]:
    """Parses timed words into facts: the exact inverse of the grammar.

    From the left, the longest wording that begins at a word is taken, and parsing goes on after it. A
    phrase does not go across the end of a sentence (`.`, `!` or `?` after a word).

    Args:
        words: (start, end, word) in seconds, in order.
        context: What the words refer to. Names that the words introduce stand, from then on, for the
            shirts that they introduce them with, whatever `context.names` says.

    Returns:
        The facts in the order in which they are said; `time` is the start of the first word, `until`
        the end of the last.
    """
    timed = [(float(start), float(end), str(word)) for start, end, word in words]
    names = dict(context.names)
    facts = []
    for first, last in _sentences([word for _, _, word in timed]):
        for fact in _parse_sentence(timed, first, last, context, names):
            facts.append(fact)
    return facts


def parse_text(text: str, context: Context) -> list[Fact]:
    """Parses words without times, such as previous commentary; `time` and `until` are 0."""
    return parse_facts([(0.0, 0.0, word) for word in text.split()], context)


def _sentences(words: list[str]) -> Iterator[tuple[int, int]]:
    first = 0
    for i, word in enumerate(words):
        if word.strip()[-1:] in (".", "!", "?"):
            yield first, i + 1
            first = i + 1
    if first < len(words):
        yield first, len(words)


def _parse_sentence(
    timed: list[TimedWord], first: int, last: int, context: Context, names: dict[str, str]
) -> Iterator[Fact]:
    # A word may be empty once its punctuation is gone; it is then left out of the text.
    kept = [(i, w) for i in range(first, last) for w in [normalised(timed[i][2])] if w]
    text = " ".join(word for _, word in kept)
    starts, place = [], 0
    for _, word in kept:
        starts.append(place)
        place += len(word) + 1
    i = 0
    while i < len(kept):
        best: tuple[int, str, str, re.Match[str]] | None = None
        for kind, action, pattern in _patterns():
            match = pattern.match(text, starts[i])
            if match and (best is None or match.end() > best[0]):
                best = match.end(), kind, action, match
        fact = best and _fact(best[1], best[2], best[3].groupdict(), context, names)
        if not best or not fact:
            i += 1
            continue
        stop = i
        while stop < len(kept) and starts[stop] < best[0]:
            stop += 1
        begin, end = kept[i][0], kept[stop - 1][0]
        yield replace(fact, time=timed[begin][0], until=timed[end][1], words=(begin, end + 1))
        i = stop


def _fact(
    kind: str, action: str, found: dict[str, str], context: Context, names: dict[str, str]
) -> Fact | None:
    """Returns the fact that was found; None where it says nothing (a lead by fewer goals)."""
    said: list[str] = []
    actor = thing = ""
    for slot, text in found.items():
        if slot in "aA":
            actor = _player(text, names, said)
        elif slot == "t":
            actor = text if text in COLOURS else context.teams.get(_SPELLED_NAMES[text], f"?{text}")
        elif slot == "T":
            actor = _SPELLED_NAMES[text]
        elif slot == "c":
            thing = text
        elif slot == "N":
            thing = _SPELLED_NAMES[text]
        elif slot == "n":
            thing = str(NUMBERS.index(text))
        elif slot == "r":
            thing = str(ORDINALS.index(text))
    for slot in "so":
        if slot in found:
            thing = _other_player(found[slot], slot, actor, context, names, said)
    if kind == "score":
        more = NUMBERS.index(found["x"])
        fewer = NUMBERS.index(found["y"]) if "y" in found else more
        if action == "lead" and more <= fewer:
            return None
        thing = f"{fewer}-{more}" if actor == context.away else f"{more}-{fewer}"
        action = "score"
    if kind == "name":
        names[thing] = actor
        said.append(thing)
    return Fact(kind, action, actor, thing, names=tuple(said))


def _player(text: str, names: dict[str, str], said: list[str]) -> str:
    if " " in text:
        return text.removeprefix("the ")
    name = _SPELLED_NAMES[text]
    said.append(name)
    return names.get(name, f"?{name}")


def _other_player(
    text: str, slot: str, actor: str, context: Context, names: dict[str, str], said: list[str]
) -> str:
    if text not in ALL_MARKS:
        return _player(text, names, said)
    colour = team_of(actor)
    if colour not in COLOURS:  # the actor's name was never introduced
        return f"?{text}"
    return f"{colour if slot == 's' else context.other(colour)} {text}"
