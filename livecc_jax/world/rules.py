"""The rules of the game: what players do with the ball, and what follows from it.

Two teams of a keeper and four field players. A player who has the ball holds it for a while, then
passes, dribbles past an opponent, shoots, or loses it: to an opponent, over a line, or by a foul. A
foul may bring a yellow card; the second of a player is a red one, and the player leaves for good. A
goal is followed by the other team's kick-off, a ball over a line by the other team's restart, where a
player may be replaced. Now and then nothing happens for a long while.
"""

from __future__ import annotations

import numpy as np

from livecc_jax.world.match import HALF_LENGTH, HALF_WIDTH, TICKS, Match, MatchOptions
from livecc_jax.world.motion import RUN, TEAM, WALK
from livecc_jax.world.play import Play, inside, unit

PASS_SPEED, SHOT_SPEED, OUT_SPEED = 14.0, 20.0, 13.0  # metres a second
SHOOTING_DISTANCE = 19.0  # metres from the goal
USUAL = MatchOptions()
BALL_BESIDE = 2.3  # metres from the centre of a player to the ball that lies there


def make_match(seed: int, options: MatchOptions = USUAL) -> Match:
    """Plays a match.

    Args:
        seed: Determines everything of it, together with the options.
        options: How it is played.
    """
    return Game(seed, options).play()


class Game(Play):
    """Plays one match: see `make_match`."""

    def play(self) -> Match:
        """Plays until the time is over."""
        self.kick_off(int(self.rng.integers(2)))
        while self.time < self.seconds:
            if not self.changed_sides and self.time > self.seconds / 2:
                self.changed_sides = True
                self.direction = -self.direction
                self.kick_off(int(self.rng.integers(2)))
            self.hold()
            self.choose()
        self.cut()
        ticks = round(self.seconds * TICKS)
        tracks = {name: np.stack(values)[:ticks] for name, values in self.tracks.items()}
        kinds = {"holder": np.int16, "card": np.int8}
        tracks = {
            name: track if track.dtype == bool else track.astype(kinds.get(name, np.float32))
            for name, track in tracks.items()
        }
        shots = [s for s in self.shots if s.start < self.seconds]
        events = [e for e in self.events if e.time < self.seconds]
        return Match(
            self.seed, self.options, self.seconds, self.context, self.shirts,
            **tracks, events=tuple(events), shots=tuple(shots),
        )  # fmt: skip

    def hold(self) -> None:
        """Lets the player with the ball go on with it for a while."""
        team = TEAM[self.holder]
        quiet = self.rng.random() < self.options.quiet and self.time > self.last_quiet + 12
        if quiet:
            self.quiet_spell()
        seconds = self.rng.uniform(1.1, 2.4) / self.options.tempo
        if self.holder in self.keepers:
            self.wait(seconds)
            return
        goal = np.array([self.direction[team] * HALF_LENGTH, 0.0])
        to = self.position[self.holder] + 7.0 * unit(goal - self.position[self.holder])
        self.orders = {self.holder: (inside(to), 3.2)}
        self.wait(seconds)
        self.orders.clear()

    def quiet_spell(self) -> None:
        """Lets a long while pass in which nothing happens: everybody walks, the ball stays."""
        self.pace = WALK
        self.orders = {self.holder: (self.position[self.holder].copy(), WALK)}
        seconds = self.rng.uniform(7.0, 16.0)
        if self.rng.random() < 0.4:
            self.wait(seconds / 2)
            self.show("crowd", float(self.rng.uniform(2.5, 4.0)))
            self.wait(seconds / 4)
        else:
            self.wait(seconds)
        self.orders.clear()
        self.pace, self.last_quiet = RUN, self.time

    def choose(self) -> None:
        """Decides what the player with the ball does."""
        player, team = self.holder, int(TEAM[self.holder])
        goal = np.array([self.direction[team] * HALF_LENGTH, 0.0])
        keeper = player in self.keepers
        near = np.hypot(*(goal - self.position[player])) < SHOOTING_DISTANCE
        weights = {
            "pass": 0.52,
            "dribble": 0.0 if keeper else 0.14,
            "shoot": 0.0 if keeper or not near else 0.75,
            "lose": 0.0 if keeper else 0.09,
            "intercepted": 0.05,
            "foul": 0.0 if keeper else 0.09,
            "out": 0.05,
        }
        names, chances = list(weights), np.array(list(weights.values()))
        act = names[int(self.rng.choice(len(names), p=chances / chances.sum()))]
        getattr(self, f"_{act}")(player, team)

    def _pass(self, player: int, team: int) -> None:
        others = [p for p in self.on_pitch(team) if p != player]
        # A pass that many opponents stand near is chosen less.
        free = np.array([self._freedom(player, p, 1 - team) for p in others])
        to = others[int(self.rng.choice(len(others), p=free / free.sum()))]
        self.orders = {to: (self.position[to].copy(), WALK)}
        self.face(to)
        self.roll(to, PASS_SPEED)
        self.receive(to)
        self.happen("pass", player, to)

    def _freedom(self, start: int, end: int, opponents: int) -> float:
        a, b = self.position[start], self.position[end]
        points = self.position[self.on_pitch(opponents)]
        along = np.clip(((points - a) @ (b - a)) / max(float((b - a) @ (b - a)), 1e-6), 0, 1)
        gaps = np.hypot(*(points - (a + along[:, None] * (b - a))).T)
        return 0.05 + float(min(gaps.min(initial=9.0), 6.0)) ** 2

    def _intercepted(self, player: int, team: int) -> None:
        to = self.nearest(self.position[player], self.on_pitch(1 - team))
        self.orders = {to: (self.position[to].copy(), WALK)}
        self.face(to)
        self.roll(to, PASS_SPEED)
        self.receive(to)
        self.happen("steal", to, player)

    def _lose(self, player: int, team: int) -> None:
        opponent = self.nearest(self.ball, self.on_pitch(1 - team))
        self.approach(player, opponent)
        self.holder = -1
        self.receive(opponent)
        self.facing = unit(self.position[opponent] - self.position[player])
        self.happen("steal", opponent, player)

    def _dribble(self, player: int, team: int) -> None:
        opponent = self.nearest(self.ball, self.on_pitch(1 - team))
        self.approach(player, opponent)
        start, ahead = (
            self.position[player].copy(),
            unit(self.position[opponent] - self.position[player]),
        )
        # Around the side on which there is more room.
        side = np.array([-ahead[1], ahead[0]])
        side *= -np.sign(float(side @ self.position[opponent])) or 1.0
        stays = (self.position[opponent].copy(), WALK)
        for point in (start + 3.0 * ahead + 4.4 * side, start + 9.0 * ahead + 1.5 * side):
            for _ in range(12):
                self.orders = {player: (inside(point), RUN + 2.5), opponent: stays}
                self.step()
                if np.hypot(*(self.position[player] - inside(point))) < 1.2:
                    break
        self.orders.clear()
        self.happen("dribble", player, opponent)

    def _out(self, player: int, team: int) -> None:
        side = np.sign(self.position[player][1]) or 1.0
        x = np.clip(self.position[player][0] + self.rng.uniform(-6, 8) * self.direction[team], -22, 22)
        self.roll(np.array([x, side * (HALF_WIDTH + 1.6)]), OUT_SPEED)
        self.happen("out", player)
        self.wait(1.2)
        if self.rng.random() < 0.45:
            self.substitute(int(self.rng.integers(2)))
        self.restart_with(self.nearest(self.ball, self.on_pitch(1 - team)), 0.8)

    def _foul(self, player: int, team: int) -> None:
        opponent = self.nearest(self.ball, self.on_pitch(1 - team))
        self.approach(player, opponent)
        self.holder, self.frozen, self.down[player] = -1, True, True
        self.ball = self.position[player] + BALL_BESIDE * unit(self.ball - self.position[player])
        began = self.time
        self.happen("foul", opponent, player)
        self.referee_to = self.position[opponent] + np.array([0.0, -4.2])
        self.wait(0.6)
        self.referee = self.referee_to + 7.0 * unit(self.referee - self.referee_to)
        self.wait(1.2)
        if self.rng.random() < 0.5:
            self.show_card(opponent)
        if self.rng.random() < 0.35:
            self.show("replay", 3.0, began - 1.8)
            self.cut()
        self.down[player], self.card = False, 0
        self.referee_to = self.position[opponent] + np.array([3.0, -7.0])
        self.frozen = False
        self.restart_with(player, 0.6)

    def _shoot(self, player: int, team: int) -> None:
        ahead, rng = self.direction[team], self.rng
        keeper = int(self.keepers[1 - team])
        kind = ("goal", "save", "wide")[int(rng.choice(3, p=(0.45, 0.35, 0.2)))]
        self.facing = unit(np.array([ahead * HALF_LENGTH, 0.0]) - self.position[player])
        self.wait(0.3)
        began = self.time
        self.happen("shot", player)
        if kind == "save":
            at = np.array([ahead * (HALF_LENGTH - 1.8), rng.uniform(-3.0, 3.0)])
            self.orders = {keeper: (at, RUN + 4)}
            self.roll(keeper, SHOT_SPEED)
            self.receive(keeper)
            self.happen("save", keeper)
            self.wait(1.0)
            return
        y = rng.uniform(-2.8, 2.8) if kind == "goal" else rng.choice([-1, 1]) * rng.uniform(6.5, 8.5)
        dive = np.array([ahead * (HALF_LENGTH - 1.8), -np.sign(y) * 2.5 if kind == "goal" else 0.0])
        self.orders = {keeper: (dive, RUN + 2)}
        self.roll(np.array([ahead * (HALF_LENGTH + 1.5), y]), SHOT_SPEED)
        self.orders.clear()
        if kind == "goal":
            self.happen("goal", player)
            self.cheer(team, began)
            self.kick_off(1 - team)
            return
        self.happen("out", player)
        self.wait(1.6)
        self.cut()
        self.holder, self.facing = keeper, np.array([-ahead, 0.0])
        self.position[keeper] = ahead * (HALF_LENGTH - 2.5), 0.0
        self.ball = self.position[keeper] + BALL_BESIDE * self.facing
        self.camera = self.ball.copy()
        self.wait(0.6)
