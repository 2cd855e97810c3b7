"""A streaming conversation as one row, on which two models can be compared."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from livecc_jax.data.examples.example import ExamplePlan, MediaPlan
from livecc_jax.data.rows.packing import RowShape
from livecc_jax.data.rows.row import Row, build_row
from livecc_jax.media import ingest
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.pixels import patchify
from livecc_jax.text.tokenizer import SILENCE, Tokenizer
from livecc_jax.timeline.chat import ChatTemplate, ChatTurn, Visual
from livecc_jax.timeline.turns import OPENING_FRAMES, TURN_FRAMES, turn_label, turn_span

MADE_UP = (240, 320)  # size of frames of noise, before the pixel budget


@dataclass(frozen=True)
class Probe:
    """A conversation without padding: its row (no batch axis), grids int32 [n, 3], turns."""

    row: Row
    grids: np.ndarray
    turns: int

    @property
    def patches(self) -> np.ndarray:
        """uint8 [P, 1176], all patches in the order of their tokens."""
        return self.row["patches"][self.row["patch_pairs"] > 0]


def clip_frames(clip: str, budget: PixelBudget, turns: int) -> list[np.ndarray]:
    """The first turns of a clip, each uint8 [F, h, w, 3]; fewer when the clip is shorter.

    Raises:
        MediaError: the clip cannot be read or has no two frames.
    """
    return [turn.frames for turn in itertools.islice(ingest.turns(clip, budget), turns)]


def noise_frames(
    budget: PixelBudget, turns: int, seed: int = 0, size: tuple[int, int] = MADE_UP
) -> list[np.ndarray]:
    """Turns of noise, each uint8 [F, h, w, 3] as of a video of this size, the same every time."""
    rng = np.random.default_rng(seed)
    counts = [OPENING_FRAMES, *[TURN_FRAMES] * (turns - 1)]
    fitted = budget.size(*size, sum(counts))
    return [rng.integers(0, 256, (n, *fitted, 3), np.uint8) for n in counts]


def make_probe(frames: Sequence[np.ndarray], tokenizer: Tokenizer, positions: str) -> Probe:
    """Turns of frames with nothing but silence in answer.

    Args:
        frames: of each turn, uint8 [F, h, w, 3], F even, all of one size.
        tokenizer: the model's.
        positions: position mode.
    """
    chat: list[ChatTurn] = []
    media: list[MediaPlan] = []
    patches: list[np.ndarray] = []
    none = np.zeros(0, np.int64)
    for number, seen in enumerate(frames):
        values, grid = patchify(seen)
        label = turn_label(*turn_span(number))
        chat += [
            ChatTurn("user", (label, Visual("video", grid))),
            ChatTurn("assistant", (SILENCE,)),
        ]
        media.append(MediaPlan("", none, none, *seen.shape[1:3]))
        patches.append(values.reshape(grid[0], grid[1] * grid[2], -1))
    encoded = ChatTemplate(tokenizer).conversation(chat)
    plan = ExamplePlan(encoded, tuple(media))
    shape = RowShape(
        tokens=plan.tokens,
        windows=sum(len(p) for p in patches),
        window=patches[0].shape[1],
        targets=plan.targets,
    )
    row = build_row([(plan, patches)], shape, tokenizer.special, positions, "token")
    return Probe(row, encoded.grids, len(frames))
