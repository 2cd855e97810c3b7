"""Renders a match: frames at any times, in any size, many at once.

    frames = render(match, np.arange(0, 60, 0.5), (84, 112))

The camera looks down on the pitch and follows the ball; a replay has an orange border; the crowd fills
the picture. All frames of a shot are drawn together, sprite by sprite.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from livecc_jax.errors import ConfigError
from livecc_jax.world.match import GOAL_DEPTH, HALF_LENGTH, PLAYER_RADIUS, TICKS, Match, Shot
from livecc_jax.world.sprites import (
    SIDE_X,
    SIDE_Y,
    Sprite,
    ball_sprite,
    crowd,
    pitch,
    player_sprite,
    sprite,
)

MIN_SIDE, MAX_SIDE = 28, 2048
BORDER, BORDER_COLOUR = 0.045, (255, 140, 0)  # of a replay: share of the height; RGB
BEFORE_CHANGE, AFTER_CHANGE = 2.6, 1.3  # seconds around a substitution in which its arrows are shown
JUMP = 1.5  # metres in a tick, beyond which somebody was put elsewhere and did not run
HOP = 0.9  # metres that who cheers hops


@dataclass(frozen=True)
class View:
    """Where frames look.

    Attributes:
        ticks: float64 [n]: the moments that are shown, in ticks of the match.
        centre: float64 [n, 2]: what is in the middle of the picture, in metres.
        scale: Pixels of a metre.
    """

    ticks: np.ndarray
    centre: np.ndarray
    scale: float


def render(match: Match, times: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Renders frames.

    Args:
        match: The match.
        times: float64 [n], seconds, each within the match.
        size: Height and width in pixels.

    Returns:
        uint8 [n, height, width, 3], RGB.

    Raises:
        ConfigError: A side is below 28 or above 2048 pixels.
    """
    height, width = size
    if not all(MIN_SIDE <= side <= MAX_SIDE for side in size):
        raise ConfigError(f"frames of {width}x{height} pixels cannot be rendered: sides are 28 to 2048")
    times = np.asarray(times, np.float64)
    frames = np.empty((len(times), height, width, 3), np.uint8)
    stops = np.array([shot.stop for shot in match.shots])
    # A microsecond, so that a time on a cut shows what comes after it however it was computed.
    number = np.minimum(np.searchsorted(stops, times + 1e-6, side="right"), len(stops) - 1)
    for i in np.unique(number):
        chosen = np.flatnonzero(number == i)
        shot = match.shots[i]
        if shot.kind == "crowd":
            frames[chosen] = crowd(height, width)[(times[chosen] * 3).astype(int) % 2]
        else:
            frames[chosen] = _draw(match, _view(match, shot, times[chosen], size), size)
            if shot.kind == "replay":
                _border(frames, chosen)
    return frames


def visible(match: Match, who: str, time: float, aspect: float = 4 / 3) -> bool:
    """Returns whether the camera shows a player at a moment, live.

    Args:
        match: The match.
        who: The player, as `red square`.
        time: Seconds.
        aspect: Width of the picture by its height.
    """
    shot = match.shot_at(time + 1e-6)
    if shot.kind != "play":
        return False
    size = (84, round(84 * aspect))
    view = _view(match, shot, np.array([time]), size)
    player = match.shirts.index(who)
    tick = round(view.ticks[0])
    if not match.present[tick, player]:
        return False
    offset = np.abs(match.positions[tick, player] - view.centre[0])
    half = np.array([size[1], size[0]]) / (2 * view.scale)
    return bool((offset < half - 0.4 * PLAYER_RADIUS).all())


def _view(match: Match, shot: Shot, times: np.ndarray, size: tuple[int, int]) -> View:
    scale = size[1] / shot.width
    ticks = times * TICKS
    if shot.kind == "replay":
        ticks = (shot.source + (times - shot.start) * shot.speed) * TICKS
        ticks = np.clip(ticks, 0, len(match.ball) - 1)
        around = ticks[:, None] + np.arange(-4, 5)[None]
        around = np.clip(around, 0, len(match.ball) - 1).astype(int)
        centre = match.ball[around].mean(1).astype(np.float64)
    else:
        ticks = np.clip(ticks, 0, len(match.ball) - 1)
        centre = _between(match.camera, ticks)
    half = np.array([size[1], size[0]]) / (2 * scale)
    limit = np.maximum(np.array([SIDE_X, SIDE_Y]) - half - 1.5 / scale, 0.0)
    goal = np.array([HALF_LENGTH + GOAL_DEPTH + 1.5, SIDE_Y]) - half
    limit = np.minimum(limit, np.maximum(goal, 0.0))
    return View(ticks, np.clip(centre, -limit, limit), scale)


def _between(track: np.ndarray, ticks: np.ndarray) -> np.ndarray:
    """Interpolates a track [ticks, ..., 2] at fractional ticks, but not over a jump."""
    low = np.floor(ticks + 1e-6).astype(int)
    high = np.minimum(low + 1, len(track) - 1)
    part = np.clip(ticks - low, 0, 1).reshape(-1, *[1] * (track.ndim - 1))
    a, b = track[low].astype(np.float64), track[high].astype(np.float64)
    jump = np.abs(b - a).max(-1, keepdims=True) > JUMP
    return np.where(jump, a, a + part * (b - a))


class _Canvas:
    """Frames with a margin around them, so that sprites need no clipping."""

    def __init__(self, view: View, size: tuple[int, int], margin: int) -> None:
        self.view, self.size, self.margin = view, size, margin
        n, (height, width) = len(view.ticks), size
        ground = pitch(view.scale)
        corner = np.array([SIDE_X, SIDE_Y]) + view.centre
        top_left = np.round(corner * view.scale - np.array([width, height]) / 2).astype(int)
        left = np.clip(top_left[:, 0], 0, max(ground.shape[1] - width, 0))
        top = np.clip(top_left[:, 1], 0, max(ground.shape[0] - height, 0))
        # Where the pixel (0, 0) of the frame lies, in pixels from the centre of the pitch.
        self.origin = np.stack([left, top], -1) - np.array([SIDE_X, SIDE_Y]) * view.scale
        self.pixels = np.zeros((n, height + 2 * margin, width + 2 * margin, 3), np.uint8)
        for i in range(n):
            part = ground[top[i] : top[i] + height, left[i] : left[i] + width]
            inner = self.pixels[i, margin : margin + part.shape[0], margin : margin + part.shape[1]]
            inner[:] = part

    @property
    def frames(self) -> np.ndarray:
        """The frames without their margin."""
        m = self.margin
        return self.pixels[:, m : m + self.size[0], m : m + self.size[1]]

    def paste(self, picture: Sprite, places: np.ndarray, where: np.ndarray | None = None) -> None:
        """Draws a sprite in some frames.

        Args:
            picture: The sprite.
            places: float64 [n, 2]: its centre in each frame, in metres.
            where: bool [n]: the frames to draw it in; None is all.
        """
        at = np.round(places * self.view.scale - self.origin - 0.5).astype(int)
        half = picture.half
        inside = (
            (at > -half).all(-1) & (at[:, 0] < self.size[1] + half) & (at[:, 1] < self.size[0] + half)
        )
        chosen = np.flatnonzero(inside if where is None else inside & where)
        if not len(chosen):
            return
        corner = at - half + self.margin
        side = 2 * half + 1
        for i in chosen.tolist():
            x, y = corner[i].tolist()
            below = self.pixels[i, y : y + side, x : x + side]
            below[...] = picture.colour + ((below * picture.keep + 128) >> 8)


def _draw(match: Match, view: View, size: tuple[int, int]) -> np.ndarray:
    scale = view.scale
    tick = np.floor(view.ticks + 1e-6).astype(int)
    canvas = _Canvas(view, size, int(np.ceil(5 * PLAYER_RADIUS * scale)))
    places = _between(match.positions, view.ticks)
    present, down, cheering = match.present[tick], match.down[tick], match.cheering[tick]
    hop = HOP * np.abs(np.sin(1.3 * view.ticks[:, None] + np.arange(len(match.shirts))))
    places[..., 1] -= np.where(cheering, hop, 0.0)
    burst = sprite("burst", (255, 255, 255), 1.9 * scale, 0.0)
    for player, shirt in enumerate(match.shirts):
        shown, lying = present[:, player], down[:, player]
        if lying.any():
            canvas.paste(burst, places[:, player], shown & lying)
            canvas.paste(player_sprite(shirt, scale, True), places[:, player], shown & lying)
        canvas.paste(player_sprite(shirt, scale), places[:, player], shown & ~lying)
    referee = _between(match.referee, view.ticks)
    canvas.paste(sprite("disc", (20, 20, 20), 1.25 * scale, 0.4, 1.0, (245, 245, 245)), referee)
    canvas.paste(ball_sprite(scale), _between(match.ball, view.ticks))
    above = referee + np.array([1.2, -2.6])
    for card, colour in ((1, (255, 235, 0)), (2, (235, 0, 0))):
        canvas.paste(
            sprite("card", colour, 1.7 * scale, max(0.2 * scale, 0.8)), above, match.card[tick] == card
        )
    _arrows(match, canvas, places)
    return canvas.frames


def _arrows(match: Match, canvas: _Canvas, places: np.ndarray) -> None:
    """Draws a green arrow over who comes on in a substitution, and a red one over who leaves."""
    seconds, scale = canvas.view.ticks / TICKS, canvas.view.scale
    for event in match.events:
        if event.action != "substitution":
            continue
        around = (seconds > event.time - BEFORE_CHANGE) & (seconds < event.time + AFTER_CHANGE)
        for who, shape, colour in (
            (event.actor, "up", (0, 255, 60)),
            (event.object, "down", (255, 40, 40)),
        ):
            at = places[:, match.shirts.index(who)] - np.array([0.0, 3.1])
            canvas.paste(sprite(shape, colour, 1.1 * scale, max(0.2 * scale, 0.7)), at, around)


def _border(frames: np.ndarray, chosen: np.ndarray) -> None:
    height, width = frames.shape[1:3]
    thick = max(2, round(BORDER * height))
    mask = np.ones((height, width), bool)
    mask[thick : height - thick, thick : width - thick] = False
    part = frames[chosen]
    part[:, mask] = BORDER_COLOUR
    frames[chosen] = part
