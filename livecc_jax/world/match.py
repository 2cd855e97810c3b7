"""A match: who plays, where everybody is ten times a second, what happens, what the camera shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from livecc_jax.errors import ConfigError
from livecc_jax.world.facts import Context, Fact
from livecc_jax.world.lexicon import COLOURS, KEEPER, MARKS, NAMES, TEAMS

TICKS = 10  # positions a second
HALF_LENGTH, HALF_WIDTH = 26.0, 17.0  # of the pitch, in metres from its centre
GOAL_HALF, GOAL_DEPTH = 4.0, 2.6  # half the width of a goal, and its depth, in metres
PLAYER_RADIUS, BALL_RADIUS = 1.75, 0.75  # as drawn, in metres; larger than life, to be legible
FIELD, SUBSTITUTES = 4, 2  # field players of a team on the pitch, and on the bench
SQUAD = 1 + FIELD + SUBSTITUTES  # the keeper comes first
MAX_SECONDS = 3600.0


@dataclass(frozen=True)
class MatchOptions:
    """How matches are played.

    Attributes:
        seconds: Shortest and longest match in seconds; each match's length is drawn between them.
        tempo: How fast play goes: holding times are divided by it.
        quiet: Probability, each time a player has the ball, that a long quiet spell begins.
        colours: Colours that teams are drawn from, at least two.
        marks: Marks that field players are drawn from, one for each; those left over are substitutes.
        players: Field players of a team, 2 to 4.
        whole: Whether the camera stands still and shows the whole pitch, instead of following the ball.
        cuts: Whether there are replays, views of the crowd, and cuts between widths of the picture.
    """

    seconds: tuple[float, float] = (60.0, 60.0)
    tempo: float = 1.0
    quiet: float = 0.05
    colours: tuple[str, ...] = tuple(COLOURS)
    marks: tuple[str, ...] = MARKS
    players: int = FIELD
    whole: bool = False
    cuts: bool = True

    def __post_init__(self) -> None:
        low, high = self.seconds
        if not 10.0 <= low <= high <= MAX_SECONDS:
            raise ConfigError(
                f"a match lasts from 10 to {MAX_SECONDS:g} seconds, not {low:g} to {high:g}"
            )
        if not 0.2 <= self.tempo <= 3.0 or not 0.0 <= self.quiet <= 0.5:
            raise ConfigError("the tempo of matches is 0.2 to 3, and their share of quiet 0 to 0.5")
        for chosen, known, least in (
            (self.colours, tuple(COLOURS), 2),
            (self.marks, MARKS, self.players),
        ):
            if len(set(chosen)) < max(least, len(chosen)) or not set(chosen) <= set(known):
                raise ConfigError(
                    f"a league needs {least} or more of {', '.join(known)}, each once, not "
                    f"{', '.join(chosen)!a:.80}"
                )
        if not 2 <= self.players <= FIELD:
            raise ConfigError(f"a team has 2 to {FIELD} field players, not {self.players}")


def small_league(seconds: tuple[float, float] = (60.0, 60.0), tempo: float = 1.0) -> MatchOptions:
    """Returns the options of a league that little models learn: two teams, few marks, one picture."""
    marks = ("circle", "square", "triangle")
    return MatchOptions(
        seconds, tempo, colours=("red", "blue"), marks=marks, players=2, whole=True, cuts=False
    )


@dataclass(frozen=True)
class Shot:
    """What the camera shows from `start` to `stop` (seconds of the video).

    Attributes:
        start: First moment in seconds.
        stop: The moment after the last.
        kind: `play` follows the ball; `replay` shows earlier play; `crowd` shows the stands.
        width: Width of the picture in metres of the pitch.
        source: For a replay, the moment in seconds at which what it shows began.
        speed: For a replay, seconds of play in a second.
    """

    start: float
    stop: float
    kind: str
    width: float
    source: float = 0.0
    speed: float = 1.0


@dataclass(frozen=True)
class Match:
    """A match with everything that is true of it.

    Positions are metres from the centre of the pitch, x to the right, y down. Players are numbered: the
    home team's keeper, four field players and two substitutes, then the away team's.

    Attributes:
        seed: What it was made from.
        options: How it was played.
        seconds: Its length.
        context: Colours, names of teams and players.
        shirts: Each player as `red square`.
        positions: float32 [ticks, players, 2].
        present: bool [ticks, players]: the player is on the pitch or at its side.
        down: bool [ticks, players]: the player lies on the ground, fouled.
        cheering: bool [ticks, players]: the player cheers a goal.
        ball: float32 [ticks, 2].
        holder: int16 [ticks]: number of the player who has the ball, -1 for none.
        referee: float32 [ticks, 2].
        card: int8 [ticks]: the referee shows no card (0), yellow (1) or red (2).
        camera: float32 [ticks, 2]: where the camera looks, while it shows play.
        events: What happens, in order.
        shots: What the camera shows, in order and without gaps.
    """

    seed: int
    options: MatchOptions
    seconds: float
    context: Context
    shirts: tuple[str, ...]
    positions: np.ndarray
    present: np.ndarray
    down: np.ndarray
    cheering: np.ndarray
    ball: np.ndarray
    holder: np.ndarray
    referee: np.ndarray
    card: np.ndarray
    camera: np.ndarray
    events: tuple[Fact, ...]
    shots: tuple[Shot, ...]

    def shot_at(self, time: float) -> Shot:
        """Returns what the camera shows at a moment."""
        return next((shot for shot in self.shots if time < shot.stop), self.shots[-1])

    def named(self, who: str) -> str:
        """Returns the name of a player."""
        return next(name for name, shirt in self.context.names.items() if shirt == who)


def draw_squads(
    rng: np.random.Generator, options: MatchOptions
) -> tuple[Context, tuple[str, ...], int]:
    """Draws colours, names of teams and players, and the marks of both teams.

    Returns:
        The context, all shirts, and the number of substitutes of a team. Places of a squad that are not
        needed have shirts too, but never play.
    """
    home, away = rng.permutation(list(options.colours))[:2].tolist()
    teams = rng.permutation(TEAMS)[:2].tolist()
    shirts = []
    for colour in (home, away):
        marks = rng.permutation(options.marks).tolist()
        marks += [mark for mark in MARKS if mark not in marks]
        shirts += [f"{colour} {mark}" for mark in (KEEPER, *marks)]
    names = rng.permutation(NAMES)[: len(shirts)].tolist()
    context = Context(home, away, {teams[0]: home, teams[1]: away}, dict(zip(names, shirts)))
    substitutes = min(SUBSTITUTES, len(options.marks) - options.players)
    return context, tuple(shirts), substitutes
