"""Small pictures of players, ball, referee and cards, and the pitch; computed with numpy alone.

A shape is a function of points in units of its radius, positive inside. Sprites are sampled four by
four times a pixel, so that their edges are smooth at every size.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from livecc_jax.world.lexicon import COLOURS, KEEPER
from livecc_jax.world.match import (
    BALL_RADIUS,
    GOAL_DEPTH,
    GOAL_HALF,
    HALF_LENGTH,
    HALF_WIDTH,
    PLAYER_RADIUS,
)

SAMPLES = 4  # along one side of a pixel
OUTLINE = (20, 20, 20)
BALL = (255, 130, 0)
SIDE_X, SIDE_Y = 33.0, 23.0  # half the size of the ground around the pitch, in metres
GRASS = ((58, 140, 62), (66, 152, 70))
GROUND, LINE, NET = (92, 98, 92), (235, 240, 235), (190, 195, 200)

Shape = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _polygon(corners: list[tuple[float, float]]) -> Shape:
    """A convex polygon: the least distance to its sides, positive inside."""

    def inside(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        least = np.full(x.shape, np.inf)
        for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1]):
            length = np.hypot(bx - ax, by - ay)
            least = np.minimum(least, ((bx - ax) * (y - ay) - (by - ay) * (x - ax)) / length)
        return least

    return inside


def _rectangle(w: float, h: float) -> Shape:
    return lambda x, y: np.minimum(w - np.abs(x), h - np.abs(y))


def _burst(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return 1.0 + 0.35 * np.cos(8 * np.arctan2(y, x)) - np.hypot(x, y)


SHAPES: dict[str, Shape] = {
    "circle": lambda x, y: 0.95 - np.hypot(x, y),
    "square": _rectangle(0.84, 0.84),
    "triangle": _polygon([(-1.0, 0.85), (0.0, -1.05), (1.0, 0.85)]),
    "diamond": lambda x, y: (1.08 - np.abs(x) - np.abs(y)) * 0.7071,
    "cross": lambda x, y: np.maximum(
        np.minimum(0.36 - np.abs(x), 0.98 - np.abs(y)), np.minimum(0.98 - np.abs(x), 0.36 - np.abs(y))
    ),
    "ring": lambda x, y: np.minimum(0.98 - np.hypot(x, y), np.hypot(x, y) - 0.5),
    KEEPER: _rectangle(1.08, 0.62),
    "disc": lambda x, y: 1.0 - np.hypot(x, y),
    "card": _rectangle(0.7, 1.0),
    "up": _polygon([(-1.0, 0.8), (0.0, -1.0), (1.0, 0.8)]),
    "down": _polygon([(1.0, -0.8), (0.0, 1.0), (-1.0, -0.8)]),
    "burst": _burst,
}


class Sprite(NamedTuple):
    """A picture with soft edges, of odd side s.

    Attributes:
        colour: uint16 [s, s, 3], times the alpha of the pixel.
        keep: uint16 [s, s, 1]: 256ths of the picture below that are kept.
    """

    colour: np.ndarray
    keep: np.ndarray

    @property
    def half(self) -> int:
        """Pixels from the centre to the side."""
        return len(self.keep) // 2


@functools.lru_cache(maxsize=4096)
def sprite(
    shape: str,
    colour: tuple[int, int, int],
    radius: float,
    outline: float = 0.0,
    squash: float = 1.0,
    stripe: tuple[int, int, int] | None = None,
) -> Sprite:
    """Draws a shape.

    Args:
        shape: One of SHAPES.
        colour: RGB of its inside.
        radius: Pixels for one unit of the shape.
        outline: Width of a dark outline outside of it, in pixels.
        squash: Its height, 1 for the shape as it is.
        stripe: RGB of a bar across its middle.
    """
    half = int(np.ceil(1.4 * radius + outline)) + 1
    side = 2 * half + 1
    at = (np.arange(side * SAMPLES) + 0.5) / SAMPLES - side / 2
    y, x = np.meshgrid(at / radius / squash, at / radius, indexing="ij")
    distance = SHAPES[shape](x, y) * radius
    inside = (distance >= 0)[..., None]
    picture = np.where(inside, np.array(colour, float), np.array(OUTLINE, float))
    if stripe:
        bar = (np.abs(x) < 0.3) & (distance >= 0)
        picture = np.where(bar[..., None], np.array(stripe, float), picture)
    alpha = (distance >= -outline).astype(float)[..., None]
    pool = (side, SAMPLES, side, SAMPLES, -1)
    alpha_mean = alpha.reshape(pool).mean((1, 3))
    colour_mean = (picture * alpha).reshape(pool).mean((1, 3))
    keep = np.round(256 * (1 - alpha_mean))
    return Sprite(np.floor(colour_mean).astype(np.uint16), keep.astype(np.uint16))


def player_sprite(shirt: str, scale: float, down: bool = False) -> Sprite:
    """Draws a player, standing or on the ground.

    Args:
        shirt: Colour and mark, as `red square`.
        scale: Pixels of a metre.
        down: Whether the player lies on the ground.
    """
    colour, mark = shirt.split(" ")
    stripe = OUTLINE if mark == KEEPER else None
    return sprite(
        mark,
        COLOURS[colour],
        PLAYER_RADIUS * scale,
        max(0.28 * scale, 0.7),
        0.5 if down else 1.0,
        stripe,
    )


def ball_sprite(scale: float) -> Sprite:
    """Draws the ball."""
    return sprite("disc", BALL, BALL_RADIUS * scale, max(0.3 * scale, 0.9))


@functools.lru_cache(maxsize=32)
def pitch(scale: float) -> np.ndarray:
    """Draws the ground, with lines and goals, uint8 [h, w, 3]: 2 SIDE_Y by 2 SIDE_X metres.

    Args:
        scale: Pixels of a metre.
    """
    height, width = round(2 * SIDE_Y * scale), round(2 * SIDE_X * scale)
    y = ((np.arange(height) + 0.5) / scale - SIDE_Y)[:, None]
    x = ((np.arange(width) + 0.5) / scale - SIDE_X)[None]
    thick = max(0.22, 0.6 / scale)
    out = np.empty((height, width, 3), np.uint8)
    out[:] = GROUND
    inside = (np.abs(x) <= HALF_LENGTH) & (np.abs(y) <= HALF_WIDTH)
    stripes = (np.floor((x + HALF_LENGTH) / 6.5) % 2).astype(int) + 0 * y.astype(int)
    out[inside] = np.array(GRASS, np.uint8)[stripes][inside]

    def near(value: np.ndarray, place: float) -> np.ndarray:
        return np.abs(value - place) < thick

    ax, ay = np.abs(x), np.abs(y)
    lines = (near(ax, HALF_LENGTH) & (ay <= HALF_WIDTH)) | (near(ay, HALF_WIDTH) & (ax <= HALF_LENGTH))
    lines |= inside & (near(x, 0.0) | near(np.hypot(x, y), 5.0))
    box_x, box_y = HALF_LENGTH - 7.0, 9.0
    lines |= (near(ax, box_x) & (ay <= box_y)) | (near(ay, box_y) & (ax >= box_x) & inside)
    out[lines] = LINE
    goal = (ax > HALF_LENGTH) & (ax < HALF_LENGTH + GOAL_DEPTH) & (ay < GOAL_HALF)
    mesh = ((np.floor(x * 2) + np.floor(y * 2)) % 2).astype(bool)
    out[goal] = NET
    out[goal & mesh] = (120, 125, 135)
    posts = (ax > HALF_LENGTH - thick) & (ax < HALF_LENGTH + GOAL_DEPTH + 2 * thick)
    behind = (ax > HALF_LENGTH + GOAL_DEPTH) & (ay < GOAL_HALF)
    posts = posts & ((np.abs(ay - GOAL_HALF) < 1.5 * thick) | behind)
    out[posts] = (255, 255, 255)
    return out


@functools.lru_cache(maxsize=8)
def crowd(height: int, width: int) -> np.ndarray:
    """Draws people in the stands, twice, between which a shot alternates: uint8 [2, h, w, 3]."""
    rng = np.random.default_rng([height, width, 7])
    size = max(4.0, height / 14)
    out = np.empty((2, height, width, 3), np.uint8)
    out[:] = (70, 60, 80)
    y, x = np.mgrid[:height, :width]
    for row in range(int(height / size) + 2):
        for column in range(int(width / size) + 2):
            skin = rng.integers(90, 240, 3)
            for picture in range(2):
                lift = 0.3 * size * ((row + column + picture) % 2)
                cy, cx = row * size - lift, column * size + 0.5 * size * (row % 2)
                near = slice(max(int(cy - size), 0), int(cy + size) + 1)
                part = np.hypot(y[near] - cy, x[near] - cx) < 0.42 * size
                out[picture, near][part] = skin
    return out
