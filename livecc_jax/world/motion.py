"""Moves players, ball, referee and camera, one tick at a time, and keeps their tracks."""

from __future__ import annotations

import numpy as np

from livecc_jax.world.match import (
    HALF_LENGTH,
    HALF_WIDTH,
    PLAYER_RADIUS,
    SQUAD,
    TICKS,
    MatchOptions,
)

DT = 1.0 / TICKS
PLAYERS = 2 * SQUAD
TEAM = np.repeat([0, 1], SQUAD)
RUN, WALK = 5.0, 1.6  # metres a second
PRESS = 4.6  # metres that an opponent keeps from the player with the ball
BESIDE = 2.3  # metres from a player's centre to the ball at the feet
SPACE = 2 * PLAYER_RADIUS + 0.4  # players closer than this are pushed apart
# Places of the field players, for a team that attacks to the right, with the ball in the centre.
SPOTS = np.array([(-12.0, -6.0), (-10.0, 7.0), (3.0, -8.0), (6.0, 5.0)])
# Which of them are taken by teams of two, three and four field players.
FORMATIONS = {2: (0, 3), 3: (0, 1, 3), 4: (0, 1, 2, 3)}
CAMERA_WIDTHS = (34.0, 42.0)
WHOLE_WIDTH = 59.0


class Motion:
    """The state of a match and its tracks so far.

    Attributes:
        rng: Source of all randomness.
        time: Seconds since the beginning.
        position: float64 [players, 2].
        holder: Who has the ball, -1 for nobody.
        ball: float64 [2].
        order: Player numbers in each place of a team's formation, int [2][FIELD].
        orders: Where players are told to go instead of their places, by number.
        frozen: Whether everybody waits (the whistle has gone).
        pace: Metres a second at which players keep their places.
    """

    def __init__(self, seed: int, options: MatchOptions) -> None:
        self.rng = np.random.default_rng([seed, 1])
        self.time = 0.0
        self.position = np.zeros((PLAYERS, 2))
        self.velocity = np.zeros((PLAYERS, 2))
        self.present = np.zeros(PLAYERS, bool)
        self.down = np.zeros(PLAYERS, bool)
        self.cheering = np.zeros(PLAYERS, bool)
        self.keepers = np.array([0, SQUAD])
        first = [t * SQUAD + 1 for t in range(2)]
        self.order = [list(range(p, p + options.players)) for p in first]
        self.spots = SPOTS[list(FORMATIONS[options.players])]
        self.whole = options.whole
        self.direction = np.array([1.0, -1.0])  # each team attacks towards this side
        self.orders: dict[int, tuple[np.ndarray, float]] = {}
        self.holder, self.ball = -1, np.zeros(2)
        self.facing = np.array([1.0, 0.0])
        self.referee, self.referee_to = np.array([0.0, -8.0]), np.array([0.0, -8.0])
        self.referee_beside = np.array([-5.0, -7.0])
        self.card, self.frozen, self.pace = 0, False, RUN
        self.camera, self.look_at, self.width = (
            np.zeros(2),
            None,
            WHOLE_WIDTH if options.whole else CAMERA_WIDTHS[0],
        )
        self.sway = self.rng.uniform(0, 2 * np.pi, (PLAYERS, 2))
        self.tracks: dict[str, list] = {
            name: []
            for name in (
                "positions", "present", "down", "cheering", "ball", "holder", "referee", "card",
                "camera",
            )
        }  # fmt: skip

    def on_pitch(self, team: int) -> list[int]:
        """Returns the numbers of a team's field players."""
        return [p for p in self.order[team] if self.present[p]]

    def nearest(self, point: np.ndarray, among: list[int]) -> int:
        """Returns which of some players is nearest to a point."""
        return min(among, key=lambda p: float(np.hypot(*(self.position[p] - point))))

    def targets(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns where each player wants to be, [players, 2], and how fast each goes there."""
        target, speed = self.position.copy(), np.full(PLAYERS, self.pace)
        holding = TEAM[self.holder] if self.holder >= 0 else -1
        for team in range(2):
            ahead = self.direction[team]
            for spot, player in zip(self.spots, self.order[team]):
                forward = 4.0 if team == holding else -4.0
                x = ahead * (spot[0] + forward) + 0.55 * self.ball[0]
                target[player] = x, spot[1] * ahead + 0.35 * self.ball[1]
            keeper = self.keepers[team]
            target[keeper] = -ahead * (HALF_LENGTH - 1.8), np.clip(0.2 * self.ball[1], -2.5, 2.5)
            if keeper == self.holder:
                target[keeper] = self.position[keeper]
        target += 1.2 * np.sin(self.sway + 0.7 * self.time)
        if holding >= 0:
            opponents = self.on_pitch(1 - holding)
            if opponents:
                presser = self.nearest(self.ball, opponents)
                away = self.position[presser] - self.position[self.holder]
                away /= max(float(np.hypot(*away)), 1e-6)
                target[presser] = self.position[self.holder] + PRESS * away
        for player, (point, pace) in self.orders.items():
            target[player], speed[player] = point, pace
        limit = np.array([HALF_LENGTH - 1.2, HALF_WIDTH - 1.2])
        ordered = np.zeros(PLAYERS, bool)
        ordered[list(self.orders)] = True
        target = np.where(ordered[:, None], target, np.clip(target, -limit, limit))
        if self.frozen:
            speed[~ordered] = 0.0
        speed[self.down] = 0.0
        return target, speed

    def step(self) -> None:
        """Advances by one tick."""
        self._record()
        target, speed = self.targets()
        delta = target - self.position
        distance = np.hypot(delta[:, 0], delta[:, 1])
        wanted = delta * np.minimum(speed / np.maximum(distance, 1e-6), 2.5)[:, None]
        self.velocity += 0.45 * (wanted - self.velocity)
        self.position += DT * self.velocity
        self._push_apart()
        if self.holder >= 0:
            moving = self.velocity[self.holder]
            if np.hypot(*moving) > 1.0:
                self.facing = 0.7 * self.facing + 0.3 * moving / np.hypot(*moving)
                self.facing /= max(float(np.hypot(*self.facing)), 1e-6)
            feet = self.position[self.holder] + BESIDE * self.facing
            self.ball += 0.6 * (feet - self.ball)
        if not self.frozen:
            self.referee_to = 0.7 * self.ball + self.referee_beside
        to = self.referee_to - self.referee
        self.referee += to * min(1.0, 4.5 * DT / max(float(np.hypot(*to)), 1e-6))
        self._keep_referee_away()
        subject = self.ball if self.look_at is None else self.look_at
        self.camera += 0.16 * (subject - self.camera)
        if self.whole:
            self.camera = np.zeros(2)
        self.time = len(self.tracks["ball"]) * DT

    def _keep_referee_away(self) -> None:
        delta = self.referee - self.position
        distance = np.hypot(delta[:, 0], delta[:, 1])
        near = (distance < 3.4) & self.present & (not self.frozen)
        self.referee += 0.5 * (
            delta * np.where(near, 3.4 / np.maximum(distance, 0.3) - 1, 0)[:, None]
        ).sum(0)

    def _push_apart(self) -> None:
        delta = self.position[:, None] - self.position[None]
        distance = np.hypot(delta[..., 0], delta[..., 1])
        near = (distance < SPACE) & self.present[:, None] & self.present[None]
        np.fill_diagonal(near, False)
        if near.any():
            push = np.where(near, (SPACE - distance) / np.maximum(distance, 1e-3), 0.0)
            push[self.down] = 0.0  # who lies on the ground is not moved
            self.position += 0.25 * (delta * push[..., None]).sum(1)

    def _record(self) -> None:
        for name, value in (
            ("positions", self.position), ("present", self.present), ("down", self.down),
            ("cheering", self.cheering), ("ball", self.ball), ("holder", self.holder),
            ("referee", self.referee), ("card", self.card), ("camera", self.camera),
        ):  # fmt: skip
            self.tracks[name].append(np.array(value))

    def wait(self, seconds: float) -> None:
        """Lets time pass."""
        for _ in range(round(seconds * TICKS)):
            self.step()

    def roll(self, to: np.ndarray | int, speed: float) -> None:
        """Moves the ball in a straight line to a point, or to a player's feet, and waits for it."""
        self.holder = -1
        start = self.ball.copy()
        end = self.position[to] if isinstance(to, int) else to
        ticks = max(2, round(float(np.hypot(*(end - start))) / speed * TICKS))
        for i in range(1, ticks + 1):
            self.step()
            end = self.position[to] if isinstance(to, int) else to
            stop = (
                1.0 if not isinstance(to, int) else max(0.0, 1 - BESIDE / max(_norm(end - start), 3.0))
            )
            self.ball = start + (end - start) * stop * i / ticks

    def line_up(self, kicking: int) -> None:
        """Puts everybody in place for a kick-off, at once (the camera cuts)."""
        self.orders.clear()
        for team in range(2):
            ahead = self.direction[team]
            self.position[self.keepers[team]] = -ahead * (HALF_LENGTH - 1.8), 0.0
            for spot, player in zip(self.spots, self.order[team]):
                self.position[player] = ahead * (min(spot[0], -3.0) - 4.0), spot[1] * ahead
        self.velocity[:] = 0.0
        self.ball[:] = self.camera[:] = 0.0
        kicker = self.on_pitch(kicking)[-1]
        self.facing = np.array([self.direction[kicking], 0.0])
        self.position[kicker] = -BESIDE * self.facing
        self.referee[:] = self.referee_to[:] = 0.0, -9.0
        self.holder = kicker


def _norm(vector: np.ndarray) -> float:
    return float(np.hypot(*vector))
