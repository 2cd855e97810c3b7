"""What is true of a match, and from when to when: the facts against which a commentary is scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from livecc_jax.bounded_json import parse_json, read_bounded
from livecc_jax.errors import DataError
from livecc_jax.world.facts import Context, Fact, score_fact, team_of
from livecc_jax.world.match import SQUAD, TICKS, Match
from livecc_jax.world.render import visible

VERSION = 1
MAX_BYTES = 64 << 20
SHORTEST_POSSESSION = 0.3  # seconds


@dataclass(frozen=True)
class Truth:
    """Everything that is true of a match, as its truth file holds it.

    Attributes:
        seed: Seed of the match.
        seconds: Its length.
        context: Colours, names of teams and players.
        facts: Every fact, in order of time: events, which have `until == time`, and what holds from
            `time` to `until`.
        unseen: Numbers, among `facts`, of the events that the camera does not show.
        shots: What the camera shows: (start, stop, kind) in seconds, `play`, `replay` or `crowd`.
    """

    seed: int
    seconds: float
    context: Context
    facts: tuple[Fact, ...]
    unseen: frozenset[int]
    shots: tuple[tuple[float, float, str], ...]

    @property
    def events(self) -> list[Fact]:
        """The events, in order."""
        return [fact for fact in self.facts if fact.kind == "event"]

    @property
    def seen_events(self) -> list[Fact]:
        """The events that the camera shows, in order."""
        return [f for i, f in enumerate(self.facts) if f.kind == "event" and i not in self.unseen]

    def score_at(self, time: float) -> Fact:
        """Returns the score at a moment."""
        return [f for f in self.facts if f.kind == "score" and f.time <= time][-1]

    def holds(self, fact: Fact, time: float, late: float = 3.0) -> bool:
        """Returns whether a fact is known at a moment, and no older than it may be said.

        Args:
            fact: What is said; its own times do not count.
            time: The moment, in seconds of the video.
            late: Seconds after an event, or after the end of what held for a while, in which it may
                still be said.
        """
        return any(f.key == fact.key and f.time <= time <= f.until + late for f in self.facts)


def truth(match: Match) -> Truth:
    """Derives every fact of a match."""
    facts = [
        *match.events, *_scores(match), *_streaks(match), *_possessions(match), *_pictures(match),
        *(Fact("colour", "wear", n, c).at(0.0, match.seconds) for n, c in match.context.teams.items()),
        *(Fact("name", "name", w, n).at(0.0, match.seconds) for n, w in match.context.names.items()),
    ]  # fmt: skip
    facts.sort(key=lambda f: (f.time, f.kind != "event", *f.key))
    unseen = frozenset(i for i, f in enumerate(facts) if f.kind == "event" and not _seen(match, f))
    shots = tuple((s.start, min(s.stop, match.seconds), s.kind) for s in match.shots)
    return Truth(match.seed, match.seconds, match.context, tuple(facts), unseen, shots)


def _seen(match: Match, event: Fact) -> bool:
    if event.action == "kickoff":
        return match.shot_at(event.time + 1e-6).kind == "play"
    return visible(match, event.actor, min(event.time, match.seconds - 1 / TICKS))


def _scores(match: Match) -> Iterator[Fact]:
    goals = Counter({match.context.home: 0, match.context.away: 0})
    changes = [(0.0, 0, 0)]
    for event in match.events:
        if event.action == "goal":
            goals[team_of(event.actor)] += 1
            changes.append((event.time, goals[match.context.home], goals[match.context.away]))
    for (time, home, away), (until, _, _) in pairwise([*changes, (match.seconds, 0, 0)]):
        yield score_fact(home, away, match.context).at(time, until)


def _streaks(match: Match) -> Iterator[Fact]:
    """Yields goals and fouls of each player, goals in a row of each team, and who was fouled before."""
    open_facts: dict[tuple[str, str], Fact] = {}
    done: list[Fact] = []

    def put(action: str, who: str, count: int, time: float) -> None:
        old = open_facts.pop((action, who), None)
        if old is not None:
            done.append(old.at(old.time, time))
        if count:
            thing = "" if action == "fouled" else str(count)
            open_facts[action, who] = Fact("streak", action, who, thing).at(time, match.seconds)

    goals: Counter[str] = Counter()
    fouls: Counter[str] = Counter()
    row: Counter[str] = Counter()
    for event in match.events:
        if event.action == "goal":
            goals[event.actor] += 1
            put("goals", event.actor, goals[event.actor], event.time)
            team = team_of(event.actor)
            row[team] += 1
            put("row", team, row[team], event.time)
            row[match.context.other(team)] = 0
            put("row", match.context.other(team), 0, event.time)
        elif event.action == "foul":
            fouls[event.actor] += 1
            put("fouls", event.actor, fouls[event.actor], event.time)
            if ("fouled", event.object) not in open_facts:
                put("fouled", event.object, 1, event.time)
    yield from (*done, *open_facts.values())


def _possessions(match: Match) -> Iterator[Fact]:
    """Yields who has the ball; a team has it, too, while a pass of it is under way."""
    holder = match.holder.astype(int)
    players = _spans(holder)
    for start, stop, player in players:
        if player >= 0 and stop - start >= SHORTEST_POSSESSION:
            yield Fact("possession", "player", match.shirts[player]).at(start, stop)
    # Until somebody else has the ball, it is with the team of who had it last.
    last = np.maximum.accumulate(np.where(holder >= 0, np.arange(len(holder)), 0))
    team = np.where(holder[last] >= 0, holder[last] // SQUAD, -1)
    for start, stop, number in _spans(team):
        if number >= 0:
            colour = (match.context.home, match.context.away)[number]
            yield Fact("possession", "team", colour).at(start, stop)


def _spans(values: np.ndarray) -> list[tuple[float, float, int]]:
    """Returns (start, stop, value) in seconds of each run of equal values."""
    edges = np.flatnonzero(np.diff(values)) + 1
    bounds = [0, *edges.tolist(), len(values)]
    return [(a / TICKS, b / TICKS, int(values[a])) for a, b in pairwise(bounds)]


def _pictures(match: Match) -> Iterator[Fact]:
    for shot in match.shots:
        if shot.kind != "play":
            yield Fact("picture", shot.kind).at(shot.start, min(shot.stop, match.seconds))


def to_json(true: Truth) -> dict[str, Any]:
    """Returns the content of a truth file: facts as `[kind, action, actor, object, time, until]`."""
    context = true.context
    return {
        "version": VERSION,
        "seed": true.seed,
        "seconds": true.seconds,
        "title": context.title,
        "home": context.home,
        "away": context.away,
        "teams": dict(context.teams),
        "names": dict(context.names),
        "facts": [[*f.key, f.time, f.until] for f in true.facts],
        "unseen": sorted(true.unseen),
        "shots": [list(shot) for shot in true.shots],
    }


def read_truth(path: str | Path) -> Truth:
    """Reads a truth file. Raises DataError when it is none."""
    try:
        data = parse_json(read_bounded(path, MAX_BYTES), max_bytes=MAX_BYTES, encoding="utf-8")
        if data["version"] != VERSION:
            raise ValueError(f"its version is {data['version']!a:.20}, not {VERSION}")
        facts = [
            Fact(*map(str, row[:4])).at(float(row[4]), float(row[5])) for row in _rows(data["facts"], 6)
        ]
        context = Context(
            str(data["home"]), str(data["away"]), dict(data["teams"]), dict(data["names"])
        )
        shots = [(float(a), float(b), str(kind)) for a, b, kind in _rows(data["shots"], 3)]
        unseen = frozenset(map(int, data["unseen"]))
        return Truth(
            int(data["seed"]), float(data["seconds"]), context, tuple(facts), unseen, tuple(shots)
        )
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: is no truth file of a match ({error!s:.120})") from error


def _rows(rows: Sequence[Sequence], size: int) -> Sequence[Sequence]:
    if any(len(row) != size for row in rows):
        raise ValueError(f"a row has not {size} values")
    return rows
