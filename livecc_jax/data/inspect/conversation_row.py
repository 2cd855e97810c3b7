"""A streaming conversation as one row without padding, on which two models can be compared."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from livecc_jax.data.examples.encode import EncodedExample
from livecc_jax.data.rows.packing import RowShape
from livecc_jax.data.rows.row import Row, build_row
from livecc_jax.families import DEFAULT
from livecc_jax.families.family import Family
from livecc_jax.media import ingest
from livecc_jax.media.budget import PixelBudget
from livecc_jax.media.clips import MediaSlice
from livecc_jax.media.pixels import patchify
from livecc_jax.text.tokenizer import SILENCE, Tokenizer
from livecc_jax.timeline.chat import ChatTemplate, ChatTurn, Visual
from livecc_jax.timeline.turns import OPENING_FRAMES, TURN_FRAMES, pair_seconds, turn_label, turn_span

NOISE_SIZE = (240, 320)  # height and width of noise frames, before the pixel budget


@dataclass(frozen=True)
class ConversationRow:
    """A streaming conversation as one row without padding.

    Attributes:
        row: Arrays of the row, without a batch axis.
        grids: int32 [n, 3], frame pairs, patch rows and patch columns of each turn's video.
        turns: Number of turns.
    """

    row: Row
    grids: np.ndarray
    turns: int

    @property
    def patches(self) -> np.ndarray:
        """uint8 [P, 1176], all patches in the order of their tokens."""
        return self.row["patches"][self.row["patch_pairs"] > 0]


def clip_turn_frames(clip: str, budget: PixelBudget, turns: int) -> list[np.ndarray]:
    """Returns the frames of a clip's first turns, or of all turns of a shorter clip.

    Args:
        clip: Path of the clip.
        budget: Pixel budget of a frame.
        turns: Number of turns.

    Returns:
        uint8 [F, h, w, 3] for each turn.

    Raises:
        MediaError: The clip cannot be read or has fewer than two frames.
    """
    return [turn.frames for turn in itertools.islice(ingest.read_turns(clip, budget), turns)]


def noise_turn_frames(
    budget: PixelBudget, turns: int, seed: int = 0, size: tuple[int, int] = NOISE_SIZE
) -> list[np.ndarray]:
    """Returns frames of random pixels, the same for the same seed.

    Args:
        budget: Pixel budget of a frame.
        turns: Number of turns.
        seed: Seed of the random pixels.
        size: Height and width of the video's frames, before the pixel budget.

    Returns:
        uint8 [F, h, w, 3] for each turn.
    """
    rng = np.random.default_rng(seed)
    counts = [OPENING_FRAMES, *[TURN_FRAMES] * (turns - 1)]
    resized = budget.size(*size, sum(counts))
    return [rng.integers(0, 256, (n, *resized, 3), np.uint8) for n in counts]


def conversation_row(
    frames: Sequence[np.ndarray],
    tokenizer: Tokenizer,
    positions: str,
    family: Family = DEFAULT,
    pair_positions: int | None = None,
) -> ConversationRow:
    """Builds the row of a conversation in which every answer is silence.

    Args:
        frames: uint8 [F, h, w, 3] for each turn, with F even and the same size in all turns.
        tokenizer: The model's tokenizer.
        positions: Position mode.
        family: The model's family.
        pair_positions: Temporal positions from a frame pair to the next; None is the family's.
    """
    patch = family.patches.size
    patches, grids = zip(*(patchify(turn_frames, patch) for turn_frames in frames))
    chat: list[ChatTurn] = []
    for number, grid in enumerate(grids):
        start, stop = turn_span(number)
        video = Visual("video", grid, pair_seconds(start, 2 * grid[0]))
        chat += [
            ChatTurn("user", (turn_label(start, stop), video)),
            ChatTurn("assistant", (SILENCE,)),
        ]
    template = ChatTemplate(tokenizer, family, pair_positions)
    return _row(chat, frames, patches, grids, template, positions)


def question_row(
    frames: np.ndarray, question: str, tokenizer: Tokenizer, positions: str
) -> ConversationRow:
    """Builds the row of a question about a whole video, answered with silence.

    Args:
        frames: uint8 [F, h, w, 3], with F even.
        question: The question, which follows the video.
        tokenizer: The model's tokenizer.
        positions: Position mode.
    """
    patches, grid = patchify(frames)
    chat = [
        ChatTurn("user", (Visual("video", grid), question)),
        ChatTurn("assistant", (SILENCE,)),
    ]
    return _row(chat, [frames], [patches], [grid], ChatTemplate(tokenizer), positions)


def _row(
    chat: Sequence[ChatTurn],
    frames: Sequence[np.ndarray],
    values: Sequence[np.ndarray],
    grids: Sequence[tuple[int, int, int]],
    template: ChatTemplate,
    positions: str,
) -> ConversationRow:
    """Builds the row of a conversation with videos; `values` are the patches of each."""
    no_frames, patch = np.zeros(0, np.int64), template.family.patches.size
    media = [MediaSlice("", no_frames, no_frames, *shown.shape[1:3], patch) for shown in frames]
    patches = [x.reshape(grid[0], grid[1] * grid[2], -1) for x, grid in zip(values, grids)]
    encoded = template.conversation(chat)
    example = EncodedExample(encoded, tuple(media))
    shape = RowShape(
        tokens=example.tokens,
        windows=sum(len(p) for p in patches),
        window=patches[0].shape[1],
        targets=example.targets,
        patch=patch,
    )
    special = template.tokenizer.special
    row = build_row(
        [(example, patches)],
        shape,
        special,
        positions,
        "token",
        template.family,
        template.pair_positions,
    )
    return ConversationRow(row, encoded.grids, len(frames))
