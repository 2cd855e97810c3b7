"""Questions about a whole video or image: it is prefilled once, then asked about in several turns."""

from __future__ import annotations

import copy
import dataclasses
import time
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np

from livecc_jax.decoding.options import StreamOptions
from livecc_jax.errors import MediaError
from livecc_jax.media.clips import SampledFrames
from livecc_jax.stream.model import StreamModel
from livecc_jax.stream.prompt import encode_prompt
from livecc_jax.stream.session import check_one_stream, contiguous_engine, take_turn
from livecc_jax.stream.turn import MAX_ANSWER_TOKENS, Answer, ContextFull
from livecc_jax.timeline.chat import Visual

PREFILL_CHUNK = 1024  # tokens in a compiled call
MAX_PATCHES = 16384  # vision patches that are encoded at a time, about


class VideoChat:
    """A conversation that opens with a video or an image, token for token as training has it.

    The video is prefilled when the object is made; every question and answer is then added to the same
    context, which later ones see.

    Args:
        model: Shared weights.
        options: Decoding options; `max_new_tokens` and silence control are for streams and have no
            effect here.
        video: The frames of the video or image.
        chunk: Number of tokens that are prefilled at a time.
        max_patches: Number of vision patches that are encoded at a time, about.

    Raises:
        MediaError: The number of frames is odd or zero.
        ContextFull: The video does not fit in the context.
        ConfigError: The model is split over devices that serve several streams.
    """

    def __init__(
        self,
        model: StreamModel,
        options: StreamOptions,
        video: SampledFrames,
        chunk: int = PREFILL_CHUNK,
        max_patches: int = MAX_PATCHES,
    ) -> None:
        check_one_stream(model)
        self.model, self.options = model, options
        count, height, width = video.frames.shape[:3]
        if count == 0 or count % 2:
            raise MediaError(f"a conversation shows an even number of frames, not {count}")
        patch = model.config.vision.patch_size
        grid = (count // 2, height // patch, width // patch)
        self._visual = Visual(video.kind, grid, video.seconds)
        self._end_time = video.end_time
        self._answered = 0
        # Silence control is for streams.
        options = dataclasses.replace(options, silence_base=None)
        self._engine = contiguous_engine(model, options)
        self._conversation = self._engine.open(options=options)
        self._prefill(video.frames, chunk, max_patches)

    @property
    def length(self) -> int:
        """Number of tokens in the context."""
        return self._conversation.length

    def ask(self, question: str, max_new_tokens: int = MAX_ANSWER_TOKENS) -> Answer:
        """Answers a question; the answer ends by itself or after `max_new_tokens` tokens.

        Raises:
            ContextFull: The question does not fit; the conversation is as it was before.
            ConfigError: `max_new_tokens` is below 1.
        """
        began = time.perf_counter()
        # The first question completes the opening prompt, most of which is prefilled already.
        tokens = None if self._answered else self._opening(question)[self.length :]
        self._conversation.ask(question, max_new_tokens, tokens)
        answer = take_turn(self._engine, self._conversation, None, began)
        self._answered += 1
        return dataclasses.replace(answer, at=self._end_time)

    def fork(self, seed: int | None = None) -> Self:
        """Returns an independent conversation with the same past; the cache is copied.

        Args:
            seed: Random seed of the fork; by default it draws as this conversation does.
        """
        other = copy.copy(self)
        other._engine = contiguous_engine(self.model, self.options)
        other._conversation = other._engine.fork(self._conversation, seed)
        other.options = other._conversation.options
        return other

    def _opening(self, question: str) -> np.ndarray:
        return self.model.template.opening((self._visual, question)).tokens

    def _prefill(self, frames: np.ndarray, chunk: int, max_patches: int) -> None:
        """Prefills everything before the first question: the system message and the video."""
        tokens = self._opening("")
        count = int(np.flatnonzero(tokens == self.model.tokenizer.special.vision_end)[-1]) + 1
        if count >= self.options.context:
            raise ContextFull(
                f"the video takes {count} tokens, which do not fit in the context of "
                f"{self.options.context} together with a question: show fewer or smaller frames"
            )
        # Before the first answer `hybrid` is `mrope`.
        mode = "sequential" if self.options.positions == "sequential" else "mrope"
        grids = np.array([self._visual.grid], np.int32)
        prompt = encode_prompt(self.model.template, tokens[:count], grids, mode, 0)
        self._conversation.context.prefill(prompt, chunk, self._encode(frames, max_patches))

    def _encode(self, frames: np.ndarray, max_patches: int) -> jax.Array:
        """Returns [1, P, D] vision features of all frame pairs, and padding after them.

        Frames are encoded in groups of one size, so that any number fits in memory and all groups
        share a compiled program.
        """
        _, rows, columns = self._visual.grid
        size = 2 * min(len(frames) // 2, max(1, max_patches // (rows * columns)))
        features = []
        for first in range(0, len(frames), size):
            group = frames[first : first + size]
            group = np.pad(group, ((0, size - len(group)), (0, 0), (0, 0), (0, 0)))
            features.append(self.model.encode_frames((group,)))
        return jnp.concatenate(features, axis=1)
