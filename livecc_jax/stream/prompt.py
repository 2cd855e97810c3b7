"""A turn's prompt: the same tokens, positions and patches that a training row holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

from livecc_jax.decoding.session_step import TurnInput
from livecc_jax.errors import MediaError
from livecc_jax.media.pixels import PATCH
from livecc_jax.timeline.chat import ChatTemplate, Visual
from livecc_jax.timeline.positions import token_positions

PROMPT_BUCKET = 32  # prompts are padded to a multiple, so that turns share compiled programs


@dataclass(frozen=True)
class Prompt:
    """What one turn adds before its answer.

    tokens: int32 [n]; positions: int32 [3, n]; next_position: of the answer's first token;
    vision_index: int32 [n].
    """

    tokens: np.ndarray
    positions: np.ndarray
    next_position: int
    vision_index: np.ndarray


def make_prompt(
    template: ChatTemplate,
    frames: np.ndarray | jax.Array | None,
    label: str,
    text: str,
    *,
    first: bool,
    positions: str,
    start: int,
    unkept: Sequence[int] = (),
) -> Prompt:
    """The prompt of a turn of frames, or of a question.

    Args:
        template: the tokenizer's.
        frames: uint8 [F, H, W, 3], F even, sides multiples of 28; None for a question.
        label: `Time=...` of the turn; nothing of it is used for a question.
        text: what follows the first turn's frames; or the question.
        first: whether it opens the conversation.
        positions: mode.
        start: its first token's position.
        unkept: tokens said before but not in the context yet; the prompt begins with them.

    Raises:
        MediaError: an odd number of frames, or none.
    """
    content: tuple[str | Visual, ...] = (text,)
    if frames is not None:
        if len(frames) == 0 or len(frames) % 2:
            raise MediaError(f"a turn takes an even number of frames, not {len(frames)}")
        count, height, width, _ = frames.shape
        visual = Visual("video", (count // 2, height // PATCH, width // PATCH))
        content = (label, visual, *filter(None, [text if first else ""]))
    encoded = template.opening(content) if first else template.continuation(content)
    special = template.tokenizer.special
    tokens = np.concatenate([np.array(unkept, np.int32), encoded.tokens]).astype(np.int32)
    mode = positions
    if mode == "hybrid":
        mode = "mrope" if first else "sequential"
    places, following = token_positions(tokens, encoded.grids, special, mode, start=start)
    is_vision = tokens == special.video_pad
    vision_index = np.where(is_vision, np.cumsum(is_vision) - 1, -1).astype(np.int32)
    return Prompt(tokens, places, following, vision_index)


def stack_prompts(prompts: Sequence[Prompt]) -> TurnInput:
    """Prompts as a batch, padded to the bucket of the longest; their pictures are still to be added.

    The arrays stay on the host: the call that takes them moves them all at once.
    """
    bucket = -(-max(len(p.tokens) for p in prompts) // PROMPT_BUCKET) * PROMPT_BUCKET

    def padded(values: Sequence[np.ndarray], fill: int) -> np.ndarray:
        out = np.full((len(values), *values[0].shape[:-1], bucket), fill, np.int32)
        for row, value in zip(out, values):
            row[..., : value.shape[-1]] = value
        return out

    return TurnInput(
        tokens=padded([p.tokens for p in prompts], 0),
        count=np.array([len(p.tokens) for p in prompts], np.int32),
        positions=padded([p.positions for p in prompts], 0),
        next_position=np.array([p.next_position for p in prompts], np.int32),
        vision_index=padded([p.vision_index for p in prompts], -1),
        pictures=None,
    )
