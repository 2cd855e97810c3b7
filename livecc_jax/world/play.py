"""What a match consists of, apart from decisions: events and pictures that are kept, restarts, changes.

`rules` decides what players do; here it is done, kept and shown.
"""

from __future__ import annotations

import numpy as np

from livecc_jax.world.facts import Fact
from livecc_jax.world.match import (
    HALF_LENGTH,
    HALF_WIDTH,
    SQUAD,
    TICKS,
    MatchOptions,
    Shot,
    draw_squads,
)
from livecc_jax.world.motion import CAMERA_WIDTHS, RUN, TEAM, WALK, WHOLE_WIDTH, Motion

CLOSE = 24.0  # width of the picture of a replay and of a substitution, in metres
MIN_PLAYERS = 3  # field players of a team, below which nobody is sent off
HALVES_FROM = 240.0  # seconds of a match, from which on teams change sides in the middle


def unit(vector: np.ndarray) -> np.ndarray:
    """Returns a vector's direction, of length one."""
    return vector / max(float(np.hypot(*vector)), 1e-6)


def inside(point: np.ndarray) -> np.ndarray:
    """Returns the point of the pitch, two metres from its lines, that is nearest to a point."""
    limit = np.array([HALF_LENGTH - 2.0, HALF_WIDTH - 2.0])
    return np.clip(point, -limit, limit)


class Play(Motion):
    """The course of a match: see `rules.Game`.

    Attributes:
        events: What has happened.
        shots: What the camera has shown.
        bench: Numbers of the substitutes that are left, by team.
        booked: Numbers of the players who have seen a yellow card.
    """

    def __init__(self, seed: int, options: MatchOptions) -> None:
        super().__init__(seed, options)
        self.seed, self.options = seed, options
        self.context, self.shirts, substitutes = draw_squads(self.rng, options)
        low, high = options.seconds
        self.seconds = round(float(self.rng.uniform(low, high)) * 2) / 2
        self.events: list[Fact] = []
        self.shots: list[Shot] = []
        self.shot_start = 0.0
        self.booked: set[int] = set()
        first = [t * SQUAD + 1 + options.players for t in range(2)]
        self.bench = [list(range(p, p + substitutes)) for p in first]
        self.present[[*self.keepers, *self.order[0], *self.order[1]]] = True
        self.changed_sides = self.seconds < HALVES_FROM
        self.last_quiet = 0.0

    def happen(self, action: str, actor: int | str, thing: int | str = "") -> None:
        """Keeps an event of this moment."""
        actor, thing = (self.shirts[w] if isinstance(w, int) else w for w in (actor, thing))
        self.events.append(Fact("event", action, actor, thing).at(round(self.time, 3)))

    def cut(self, width: float = 0.0) -> None:
        """Ends a shot of play; the next has this width, or one of the usual ones."""
        if round(self.time, 3) > self.shot_start:
            self.shots.append(Shot(self.shot_start, round(self.time, 3), "play", self.width))
        self.shot_start = round(self.time, 3)
        self.width = width or float(self.rng.choice(CAMERA_WIDTHS, p=(0.7, 0.3)))
        if self.options.whole:
            self.width = WHOLE_WIDTH
        elif not self.options.cuts:
            self.width = CAMERA_WIDTHS[0]

    def show(self, kind: str, seconds: float, source: float = 0.0) -> None:
        """Shows a replay or the crowd while time passes."""
        if not self.options.cuts:
            self.wait(seconds)
            return
        self.cut()
        start, speed = self.shot_start, 0.8
        self.wait(seconds)
        self.shots.append(Shot(start, round(self.time, 3), kind, CLOSE, source, speed))
        self.shot_start = round(self.time, 3)

    def kick_off(self, team: int) -> None:
        """Lines everybody up, and lets a team begin."""
        self.cut()
        self.cheering[:], self.down[:], self.card, self.pace = False, False, 0, RUN
        self.line_up(team)
        self.frozen = True
        self.wait(0.8)
        self.frozen = False
        self.happen("kickoff", self.colour(team))
        self.wait(0.3)

    def colour(self, team: int) -> str:
        """Returns the colour of a team."""
        return (self.context.home, self.context.away)[team]

    def restart_with(self, player: int, wait: float) -> None:
        """Lets a player walk to the ball and take it."""
        self.frozen = False
        self.orders = {player: (self.ball.copy(), RUN)}
        for _ in range(round(6 * TICKS)):
            if np.hypot(*(self.position[player] - self.ball)) < 2.6:
                break
            self.step()
        self.orders.clear()
        self.facing = np.array([0.0, -np.sign(self.ball[1])]) if abs(self.ball[1]) > 12 else self.facing
        self.holder = player
        self.wait(wait)

    def face(self, other: int) -> None:
        """Turns the player with the ball towards another."""
        self.facing = unit(self.position[other] - self.position[self.holder])
        self.wait(0.2)

    def receive(self, player: int) -> None:
        """Gives a player the ball that has come."""
        self.orders.clear()
        self.facing = unit(self.ball - self.position[player])
        self.holder = player

    def approach(self, player: int, opponent: int) -> None:
        """Lets an opponent come to the player with the ball."""
        for _ in range(2 * TICKS):
            if np.hypot(*(self.position[opponent] - self.ball)) < 2.4:
                break
            self.orders = {
                player: (self.position[player], WALK),
                opponent: (self.ball + 0.5 * (self.ball - self.position[player]), RUN + 2),
            }
            self.step()
        self.orders.clear()

    def substitute(self, team: int) -> None:
        """Replaces a field player of a team, if one is left on its bench."""
        if not self.bench[team] or len(self.on_pitch(team)) < self.options.players:
            return
        leaves = int(self.rng.choice(self.on_pitch(team)))
        comes = self.bench[team].pop(0)
        gate = np.array([6.0 * (1 if team else -1), HALF_WIDTH - 0.6])
        self.frozen = True
        self.cut(CLOSE)
        self.look_at = gate - np.array([0.0, 4.0])
        self.camera = self.look_at.copy()
        self.position[leaves] = gate + np.array(
            [-2.6, -4.5]
        )  # the camera cuts while the player walks there
        self.position[comes] = gate + np.array([2.6, 1.5])
        self.velocity[[leaves, comes]] = 0.0
        self.present[comes] = True
        self.orders = {
            leaves: (gate + np.array([-2.6, 1.8]), 3.0),
            comes: (self.position[comes], WALK),
        }
        self.wait(1.6)
        self.orders = {
            leaves: (gate + np.array([-2.6, 3.0]), 3.0),
            comes: (gate + np.array([2.6, -5.0]), 3.0),
        }
        self.wait(1.0)
        self.happen("substitution", comes, leaves)
        self.wait(1.4)
        self.present[leaves] = False
        self.order[team][self.order[team].index(leaves)] = comes
        self.orders.clear()
        self.look_at, self.frozen = None, False
        self.cut()
        self.camera = self.ball.copy()

    def show_card(self, player: int) -> None:
        """Shows a player a yellow card, or the red one."""
        team = int(TEAM[player])
        again = player in self.booked and len(self.on_pitch(team)) > MIN_PLAYERS
        if player in self.booked and not again:
            return
        self.card = 2 if again else 1
        self.wait(0.3)
        self.happen("red" if again else "yellow", player)
        self.booked.add(player)
        self.wait(1.8)
        self.card = 0
        if again:
            self.orders = {player: (np.array([self.position[player][0], HALF_WIDTH + 6.0]), RUN)}
            self.wait(1.0)
            self.present[player] = False
            self.orders.clear()

    def cheer(self, team: int, began: float) -> None:
        """Lets a team enjoy its goal; replay and crowd may be shown meanwhile."""
        self.cheering[self.on_pitch(team)] = True
        self.pace = WALK
        self.wait(float(self.rng.uniform(2.0, 3.0)))
        if self.rng.random() < 0.6:
            self.show("replay", 3.2, began - 1.4)
        if self.rng.random() < 0.35:
            self.show("crowd", float(self.rng.uniform(2.0, 3.5)))
