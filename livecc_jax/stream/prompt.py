"""The prompt of a turn: the same tokens, positions and patches that a training row holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

from livecc_jax.decoding.session_step import TurnInput
from livecc_jax.errors import MediaError
from livecc_jax.timeline.chat import ChatTemplate, Visual
from livecc_jax.timeline.positions import token_positions
from livecc_jax.timeline.turns import pair_seconds, turn_label

PROMPT_BUCKET = 32  # prompts are padded to a multiple, so that turns share compiled programs


@dataclass(frozen=True)
class Prompt:
    """The tokens that a turn adds to the context before its answer.

    Attributes:
        tokens: int32 [n], token ids.
        positions: int32 [3, n], rotary positions.
        next_position: Position of the answer's first token.
        vision_index: int32 [n], index of the vision feature that replaces a token's embedding; -1 for
            text.
    """

    tokens: np.ndarray
    positions: np.ndarray
    next_position: int
    vision_index: np.ndarray

    def __len__(self) -> int:
        """Returns the number of tokens."""
        return len(self.tokens)

    def select(self, index: slice) -> Prompt:
        """Returns a part of the prompt, to be prefilled without an answer."""
        return Prompt(
            self.tokens[index],
            self.positions[:, index],
            self.next_position,
            self.vision_index[index],
        )


def encode_prompt(
    template: ChatTemplate, tokens: np.ndarray, grids: np.ndarray, positions: str, start: int
) -> Prompt:
    """Returns the prompt of these tokens.

    Args:
        template: Chat template of the tokenizer.
        tokens: int32 [n], token ids.
        grids: int32 [v, 3], patch grids of the videos and images among the tokens.
        positions: Position mode, `mrope` or `sequential`.
        start: Position of the first token.
    """
    special = template.tokenizer.special
    token_at, next_position = token_positions(
        tokens, grids, special, positions, start, template.family, template.pair_positions
    )
    is_vision = (tokens == special.video_pad) | (tokens == special.image_pad)
    vision_index = np.where(is_vision, np.cumsum(is_vision) - 1, -1).astype(np.int32)
    return Prompt(tokens, token_at, next_position, vision_index)


def make_prompt(
    template: ChatTemplate,
    frames: np.ndarray | jax.Array | None,
    span: tuple[int, int] | None,
    text: str,
    *,
    first: bool,
    positions: str,
    start: int,
    pending: Sequence[int] = (),
) -> Prompt:
    """Returns the prompt of a turn of frames, or of a question.

    Args:
        template: Chat template of the tokenizer.
        frames: uint8 [F, H, W, 3], F even, sides multiples of two patches; None for a question.
        span: Nominal start and end of the turn in microseconds since the stream's start, for its label
            and timestamps; None for a question.
        text: The text that follows the first turn's frames, or the question.
        first: Whether this prompt opens the conversation.
        positions: Position mode.
        start: Position of the prompt's first token.
        pending: Generated tokens that are not in the context yet; the prompt begins with them.

    Raises:
        MediaError: The number of frames is odd or zero.
    """
    content: tuple[str | Visual, ...] = (text,)
    if frames is not None:
        if len(frames) == 0 or len(frames) % 2:
            raise MediaError(f"a turn takes an even number of frames, not {len(frames)}")
        count, height, width, _ = frames.shape
        patch = template.family.patches.size
        grid = (count // 2, height // patch, width // patch)
        visual = Visual("video", grid, pair_seconds(span[0], count))
        content = (turn_label(*span), visual, *filter(None, [text if first else ""]))
    encoded = template.opening(content) if first else template.continuation(content)
    tokens = np.concatenate([np.array(pending, np.int32), encoded.tokens]).astype(np.int32)
    mode = positions
    if mode == "hybrid":
        mode = "mrope" if first else "sequential"
    return encode_prompt(template, tokens, encoded.grids, mode, start)


def stack_prompts(prompts: Sequence[Prompt]) -> TurnInput:
    """Returns prompts as a batch, padded to the bucket of the longest; vision features are added later.

    The arrays stay on the host: the compiled call that takes them moves them all at once.
    """
    bucket = padded_length(max(len(p.tokens) for p in prompts))

    def pad(arrays: Sequence[np.ndarray], fill: int) -> np.ndarray:
        out = np.full((len(arrays), *arrays[0].shape[:-1], bucket), fill, np.int32)
        for row, array in zip(out, arrays):
            row[..., : array.shape[-1]] = array
        return out

    return TurnInput(
        tokens=pad([p.tokens for p in prompts], 0),
        count=np.array([len(p.tokens) for p in prompts], np.int32),
        positions=pad([p.positions for p in prompts], 0),
        next_position=np.array([p.next_position for p in prompts], np.int32),
        vision_index=pad([p.vision_index for p in prompts], -1),
        vision_features=None,
    )


def padded_length(tokens: int, multiple: int = PROMPT_BUCKET) -> int:
    """Returns a number of tokens rounded up to a multiple."""
    return -(-tokens // multiple) * multiple
