"""Questions about a whole video or image: it is seen once, and then asked about in several turns."""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp
import numpy as np

from livecc_jax.decoding.options import StreamOptions
from livecc_jax.decoding.session_step import read
from livecc_jax.errors import MediaError
from livecc_jax.media.pixels import PATCH
from livecc_jax.media.shown import Shown
from livecc_jax.stream.prompt import Prompt, make_prompt, stack_prompts
from livecc_jax.stream.session import MAX_ANSWER, Answer, ContextFull, Dialogue, StreamModel
from livecc_jax.timeline.chat import Visual
from livecc_jax.timeline.positions import token_positions

CHUNK = 1024  # tokens read at a time
PATCHES = 16384  # encoded at a time, about
NO_GRIDS = np.zeros((0, 3), np.int32)


class VideoChat(Dialogue):
    """A conversation that opens with a video or an image, token for token as training has it.

    What is shown is read when this is made; every question and answer then adds to the same context,
    which later ones see.

    Args:
        model: shared weights.
        options: decoding; `max_new_tokens` and silence control are for streams and mean nothing here.
        shown: what it is about.

    Raises:
        MediaError: an odd number of frames, or none.
        ContextFull: what is shown does not fit.
    """

    def __init__(self, model: StreamModel, options: StreamOptions, shown: Shown) -> None:
        super().__init__(model, options)
        count, height, width = shown.frames.shape[:3]
        if count == 0 or count % 2:
            raise MediaError(f"a conversation shows an even number of frames, not {count}")
        self._visual = Visual(shown.kind, (count // 2, height // PATCH, width // PATCH))
        self._until = shown.until
        self._read(shown.frames)

    def ask(self, question: str, max_new_tokens: int = MAX_ANSWER) -> Answer:
        """Answer one more question; it ends by itself, or after so many tokens.

        Raises:
            ContextFull: it does not fit; the conversation is as it was before.
            ConfigError: fewer tokens than one.
        """
        began = time.perf_counter()
        if self._asked:
            prompt = make_prompt(
                self.model.template,
                None,
                "",
                question,
                first=False,
                positions=self.options.positions,
                start=self.next_position,
                unkept=self._unkept,
            )
        else:
            # What comes before the question is read already.
            rest = self._opening(question)[self.length :]
            prompt = self._prompt(rest, NO_GRIDS)
        return self._answer(question, prompt, max_new_tokens, self._until, began)

    def _opening(self, question: str) -> np.ndarray:
        return self.model.template.opening((self._visual, question)).tokens

    def _prompt(self, tokens: np.ndarray, grids: np.ndarray) -> Prompt:
        special = self.model.tokenizer.special
        # Before the first answer, `hybrid` is `mrope`.
        mode = "sequential" if self.options.positions == "sequential" else "mrope"
        places, following = token_positions(tokens, grids, special, mode, self.next_position)
        is_vision = (tokens == special.video_pad) | (tokens == special.image_pad)
        index = np.where(is_vision, np.cumsum(is_vision) - 1, -1).astype(np.int32)
        return Prompt(tokens, places, following, index)

    def _read(self, frames: np.ndarray) -> None:
        """Everything before the first question: the system's turn and what is shown."""
        tokens = self._opening("")
        shown = int(np.flatnonzero(tokens == self.model.tokenizer.special.vision_end)[-1]) + 1
        whole = self._prompt(tokens[:shown], np.array([self._visual.grid], np.int32))
        if shown >= self.options.context:
            raise ContextFull(
                f"what is shown takes {shown} tokens, which with a question do not fit the context of "
                f"{self.options.context}: show fewer frames, or smaller ones"
            )
        pictures = self._look(frames)
        self._make_room(-(-shown // CHUNK) * CHUNK, shown, 0)
        for first in range(0, shown, CHUNK):
            part = slice(first, first + CHUNK)
            prompt = Prompt(whole.tokens[part], whole.positions[:, part], 0, whole.vision_index[part])
            turn = stack_prompts([prompt])._replace(pictures=pictures)
            with self.model.devices():
                self._cache, self._state = read(
                    self.model.config, self.model.weights.for_saying(), self._cache, self._state, turn
                )
            self.length += len(prompt.tokens)
        self.next_position = whole.next_position

    def _look(self, frames: np.ndarray) -> jax.Array:
        """[1, P, D] for all pairs, and padding behind them; so many at a time that any number fits."""
        _, rows, cols = self._visual.grid
        size = 2 * min(len(frames) // 2, max(1, PATCHES // (rows * cols)))
        pieces = []
        for first in range(0, len(frames), size):
            part = frames[first : first + size]
            # One size for all, so that they share a program.
            part = np.pad(part, ((0, size - len(part)), (0, 0), (0, 0), (0, 0)))
            pieces.append(self.model.look((part,)))
        return jnp.concatenate(pieces, axis=1)

    def _so_far(self) -> str:
        return f" after {self._asked} answer{'' if self._asked == 1 else 's'}"
