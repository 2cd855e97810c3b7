"""Drills: two against two before a still camera, one event at a time.

The smallest world, for tests and for experiments of minutes: pictures, truth, commentator, captions and
questions are those of matches, but nothing pans, cuts or overlaps. The ball waits in the middle. Then a
player shoots it away, carries it to the middle to score, brings down an opponent, or is booked by the
referee, who comes for it; after that everybody is back in place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from livecc_jax.errors import ConfigError
from livecc_jax.world.facts import Context, Fact, speak, spell_shirts
from livecc_jax.world.lexicon import COLOURS, KEEPER, MARKS, NAMES, TEAMS
from livecc_jax.world.match import FIELD, SQUAD, SUBSTITUTES, TICKS, Match, MatchOptions, Shot

PLACES = ((-6.5, -2.6), (-6.5, 3.0), (6.5, -2.6), (6.5, 3.0))  # of the four players, in metres
PLAYERS = (1, 2, SQUAD + 1, SQUAD + 2)  # their numbers
AWAY_FROM_IT = (0.0, -7.5)  # where the referee waits, outside of the picture
CAMERA_WIDTH, CLOSE_WIDTH = 20.0, 9.0  # metres that the picture shows
WAITING = 16.0  # metres by which players stand aside of a close picture
SHOWN = 14  # ticks that an event is seen
ACTIONS = ("shot", "goal", "foul", "yellow")


@dataclass(frozen=True)
class DrillOptions:
    """How drills are played.

    Attributes:
        seconds: Length in seconds.
        gap: Shortest and longest time from one event to the next, in seconds.
        quiet: Probability that a gap is a quiet spell of 6 to 10 s.
        colours: Colours that teams wear.
        marks: Marks that players wear.
        actions: What may happen: of ACTIONS.
        players: Players of a team, 1 or 2.
        close: Whether the camera is so close that it shows the middle alone, to which only those come
            to whom something happens.
    """

    seconds: float = 24.0
    gap: tuple[float, float] = (2.8, 4.4)
    quiet: float = 0.0
    colours: tuple[str, ...] = ("red", "blue")
    marks: tuple[str, ...] = ("circle", "square", "triangle")
    actions: tuple[str, ...] = ACTIONS
    players: int = 2
    close: bool = False

    def __post_init__(self) -> None:
        if self.seconds < 6.0 or not 2.0 <= self.gap[0] <= self.gap[1]:
            raise ConfigError("a drill lasts at least 6 s, with at least 2 s from event to event")
        if len(set(self.colours)) < 2 or not set(self.colours) <= COLOURS.keys():
            raise ConfigError(f"drills need two of the colours {', '.join(COLOURS)}")
        if len(set(self.marks)) < 2 or not set(self.marks) <= set(MARKS):
            raise ConfigError(f"drills need two of the marks {', '.join(MARKS)}")
        if self.players not in (1, 2):
            raise ConfigError(f"drills are one against one or two against two, not {self.players}")
        if not self.actions or not set(self.actions) <= set(ACTIONS):
            raise ConfigError(f"what happens in drills is {', '.join(ACTIONS)}")


def make_drill(seed: int, options: DrillOptions = DrillOptions()) -> Match:
    """Plays a drill.

    Args:
        seed: Determines everything of it, together with the options.
        options: How it is played.
    """
    rng = np.random.default_rng([seed, 71])
    context, shirts = _squads(rng, options)
    ticks = round(options.seconds * TICKS)
    tracks = _Tracks(ticks, rng, options.close)
    events: list[Fact] = []
    time_s = float(rng.uniform(0.8, 2.5))
    while time_s < options.seconds - 1.5:
        tick = round(time_s * TICKS)
        team = int(rng.integers(2))
        actor = 2 * team + int(rng.integers(options.players))
        other = 2 * (1 - team) + int(rng.integers(options.players))
        action = options.actions[int(rng.integers(len(options.actions)))]
        tracks.play(action, actor, other, slice(tick, tick + SHOWN))
        thing = shirts[PLAYERS[other]] if action == "foul" else ""
        events.append(Fact("event", action, shirts[PLAYERS[actor]], thing).at(round(tick / TICKS, 3)))
        time_s += float(rng.uniform(*options.gap))
        if rng.random() < options.quiet:
            time_s += float(rng.uniform(4.0, 7.0))
    present = np.zeros((ticks, 2 * SQUAD), bool)
    present[:, [p for i, p in enumerate(PLAYERS) if i % 2 < options.players]] = True
    return Match(
        seed,
        MatchOptions((max(options.seconds, 10.0),) * 2),
        options.seconds,
        context,
        shirts,
        tracks.positions,
        present,
        tracks.down,
        np.zeros_like(present),
        tracks.ball,
        np.full(ticks, -1, np.int16),
        tracks.referee,
        tracks.card,
        np.zeros((ticks, 2), np.float32),
        tuple(events),
        (Shot(0.0, options.seconds, "play", CLOSE_WIDTH if options.close else CAMERA_WIDTH),),
    )


def introduce(match: Match, register: str = "calm") -> list[str]:
    """Returns the words in which the four players are introduced before a drill."""
    words: list[str] = []
    for player in PLAYERS:
        shirt = match.shirts[player]
        if not match.present[0, player]:
            continue
        words += speak(Fact("name", "name", shirt, match.named(shirt)), register, spell_shirts)
        words[-1] += "."
    return words


def _squads(rng: np.random.Generator, options: DrillOptions) -> tuple[Context, tuple[str, ...]]:
    colours = rng.permutation(options.colours)[:2].tolist()
    teams = rng.permutation(TEAMS)[:2].tolist()
    shirts: list[str] = []
    for colour in colours:
        first = rng.permutation(options.marks)[:2].tolist()
        others = [mark for mark in MARKS if mark not in first][: FIELD + SUBSTITUTES - 2]
        shirts += [f"{colour} {mark}" for mark in (KEEPER, *first, *others)]
    names = rng.permutation(NAMES)[:4].tolist()
    known = {name: shirts[player] for name, player in zip(names, PLAYERS)}
    return Context(*colours, dict(zip(teams, colours)), known), tuple(shirts)


class _Tracks:
    """Where everybody is, tick by tick."""

    def __init__(self, ticks: int, rng: np.random.Generator, close: bool) -> None:
        self.close = close
        self.positions = np.zeros((ticks, 2 * SQUAD, 2), np.float32)
        for player, place in zip(PLAYERS, PLACES):
            self.positions[:, player] = place
        sway = rng.normal(0, 0.04, self.positions.shape).cumsum(0)
        self.positions += sway.clip(-0.6, 0.6).astype(np.float32)
        self.down = np.zeros((ticks, 2 * SQUAD), bool)
        self.ball = np.zeros((ticks, 2), np.float32)
        self.ball[:, 1] = 0.3
        if close:
            self.positions[:, PLAYERS, 0] *= WAITING / 6.5
            self.ball[:, 1] = WAITING
        self.referee = np.tile(np.float32(AWAY_FROM_IT), (ticks, 1))
        self.card = np.zeros(ticks, np.int8)

    def play(self, action: str, actor: int, other: int, shown: slice) -> None:
        """Lets an event be seen."""
        if self.close:
            self._play_close(action, PLAYERS[actor], PLAYERS[other], shown)
            return
        number, (x, y) = PLAYERS[actor], PLACES[actor]
        inward = -np.sign(x)
        count = len(self.ball[shown])
        if action == "shot":  # from the feet away from the player
            path = x + inward * (2.6 + 0.12 * np.arange(count))
            self.ball[shown] = np.stack([path, np.full(count, y)], -1)
        elif action == "goal":
            self.positions[shown, number] = (0.0, -1.2)
            self.ball[shown] = (0.0, -4.6)
        elif action == "foul":
            victim = PLAYERS[other]
            vx, vy = PLACES[other]
            self.positions[shown, number] = (vx - 3.6 * np.sign(vx), vy)
            self.down[shown, victim] = True
        else:
            self.referee[shown] = (x + 2.9 * inward, y + 0.4)
            self.card[shown] = 1

    def _play_close(self, action: str, actor: int, victim: int, shown: slice) -> None:
        """Lets those to whom something happens come to the middle."""
        self.positions[shown, actor] = (-0.8, 0.0)
        if action in ("shot", "goal"):
            self.ball[shown] = (2.4, 0.0 if action == "shot" else -1.8)
        elif action == "foul":
            self.positions[shown, victim] = (2.4, 0.0)
            self.down[shown, victim] = True
        else:
            self.referee[shown] = (2.2, 1.0)
            self.card[shown] = 1
