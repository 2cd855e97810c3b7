"""Option logits: what a model would answer next, among the options, after the answer prefix.

A video is encoded and prefilled once. Its questions go on from there one after another over the same
cache: each writes behind the shared prefix, over what the question before wrote there, which attention
never looks beyond. So the logits are those of the whole conversation, and the video costs once.

Shapes are few: tokens come in chunks of one size, the cache grows through a ladder of sizes, frame
pairs are padded to eighths of a power of two. So the number of programs a run compiles is bounded,
whatever it is asked.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from livecc_jax.errors import ConfigError, TokenizerError
from livecc_jax.evaluate.questions import Asking
from livecc_jax.evaluate.watching import Watched
from livecc_jax.media.pixels import patch_places
from livecc_jax.model.cache import Cache, append, empty_cache, grow_cache
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.inference import Weights, lay_out
from livecc_jax.model.qwen2_vl import Params, bind
from livecc_jax.text.tokenizer import Tokenizer
from livecc_jax.timeline.chat import ChatTemplate, Visual
from livecc_jax.timeline.modes import MODES
from livecc_jax.timeline.positions import token_positions

PATCH_VALUES = 1176


@dataclass(frozen=True)
class Shapes:
    """Sizes of the compiled programs.

    prefix: tokens of a video's part at a time, and the smallest cache; suffix: of a question's;
    patches: encoded at a time, about.
    """

    prefix: int = 1024
    suffix: int = 256
    patches: int = 16384


def ladder(size: int, smallest: int) -> int:
    """The least of smallest * (1, 1.5, 2, 3, 4, 6, 8, 12, ...) that holds `size`; smallest is even."""
    step = smallest
    while True:
        if size <= step:
            return step
        if size <= step * 3 // 2:
            return step * 3 // 2
        step *= 2


def padded_window(patches: int) -> int:
    """A frame pair's patches, padded by an eighth at most: 8 sizes to each power of two."""
    step = max(4, 1 << max(0, patches.bit_length() - 4))
    return -(-patches // step) * step


@functools.partial(jax.jit, static_argnames="config")
def encode(
    config: ModelConfig, weights: Weights, patches: jax.Array, pairs: jax.Array, places: jax.Array
) -> jax.Array:
    """Encode windows.

    Args:
        config: the architecture.
        weights: for decoding.
        patches: uint8 [1, W, S, 1176].
        pairs: int32 [1, W, S], 0 for padding.
        places: int32 [2, 1, W, S], rows and columns.

    Returns:
        [1, W * S / 4, D].
    """
    return bind(config, weights.rest).encode(patches, pairs, places[0], places[1])


@functools.partial(jax.jit, donate_argnames="seen")
def place(seen: jax.Array, merged: jax.Array, to: jax.Array) -> jax.Array:
    """Put merged patches where they belong; `to` int32 [W * S / 4], past the end for padding."""
    return seen.at[0, to].set(merged[0].astype(seen.dtype), mode="drop")


@functools.partial(jax.jit, static_argnames="config")
def embed(
    config: ModelConfig, weights: Weights, tokens: jax.Array, index: jax.Array, seen: jax.Array
) -> jax.Array:
    """Embeddings [1, Q, D] of tokens int32 [1, Q] whose pictures are `seen[index]` (-1: no picture)."""
    return bind(config, weights.rest).embed(tokens, seen, index)


@functools.partial(jax.jit, static_argnames="config", donate_argnames="cache")
def see(
    config: ModelConfig,
    weights: Weights,
    cache: Cache,
    length: jax.Array,
    x: jax.Array,
    positions: jax.Array,
) -> Cache:
    """Append a chunk of the prefix: x [1, Q, D], positions int32 [1, 3, Q]."""
    model = bind(config, weights.rest)
    return append(model, weights.layers, cache, x, positions, length)[1]


@functools.partial(jax.jit, static_argnames="config", donate_argnames="cache")
def ask(
    config: ModelConfig,
    weights: Weights,
    cache: Cache,
    length: jax.Array,
    tokens: jax.Array,
    positions: jax.Array,
    last: jax.Array,
) -> tuple[jax.Array, Cache]:
    """Append a chunk of a question: (float32 [V] logits after its token `last`, cache)."""
    model = bind(config, weights.rest)
    x = model.embed(tokens, None, None)
    hidden, cache = append(model, weights.layers, cache, x, positions, length)
    return model.text.logits(hidden[0, last]), cache


@dataclass(frozen=True)
class Conversation:
    """A question with its video as tokens: ids [T], positions [3, T]."""

    tokens: np.ndarray
    positions: np.ndarray


class Choice(NamedTuple):
    """A question's option logits, float32 [options], and how many tokens its conversation has."""

    logits: np.ndarray
    tokens: int


class Chooser:
    """A model that answers multiple-choice questions about videos.

    Args:
        config: the architecture.
        params: its weights.
        tokenizer: its tokenizer.
        positions: rotary position mode.
        asking: answer prefix and what precedes options.
        shapes: of the compiled programs.
    """

    def __init__(
        self,
        config: ModelConfig,
        params: Params,
        tokenizer: Tokenizer,
        positions: str,
        asking: Asking,
        shapes: Shapes = Shapes(),
    ) -> None:
        if positions not in MODES:
            raise ConfigError(f"positions {positions!r} is not one of {', '.join(MODES)}")
        self.config, self.tokenizer, self.positions = config, tokenizer, positions
        self.asking, self.shapes = asking, shapes
        self.template = ChatTemplate(tokenizer)
        # Taken apart where they are (views, on the host) and then moved, so they never lie there twice.
        self.weights = lay_out(params, vision=False)
        self.dtype = params["text"]["embed"].dtype

    def option_ids(self, options: Sequence[str]) -> np.ndarray:
        """The token each option is compared by: the last of `before` + option.

        Raises TokenizerError when two options have the same.
        """
        ids = [self.tokenizer.encode(self.asking.before + option)[-1] for option in options]
        if len(set(ids)) < len(ids):
            raise TokenizerError(f"the tokenizer does not tell options {', '.join(options)} apart")
        return np.array(ids, np.int32)

    def conversation(self, grid: tuple[int, int, int], text: str) -> Conversation:
        """System turn, video, question, header of the answer, answer prefix."""
        opening = self.template.opening((Visual("video", grid), text))
        prefix = np.array(self.tokenizer.encode(self.asking.prefix), np.int32)
        tokens = np.concatenate([opening.tokens, prefix])
        positions, _ = token_positions(tokens, opening.grids, self.tokenizer.special, self.positions)
        return Conversation(tokens, positions)

    def choose(
        self, watched: Watched, texts: Sequence[str], options: Sequence[Sequence[str]]
    ) -> list[Choice]:
        """Option logits of several questions about one video.

        A conversation may be longer than the model's context, as in the published runs (Video-MME's
        subtitles of an hour): rotary positions simply go on.

        Args:
            watched: the video.
            texts: the user's text of each question.
            options: of each question.
        """
        asked = [self.conversation(watched.grid, text) for text in texts]
        ids = [self.option_ids(o) for o in options]
        longest = max(len(c.tokens) for c in asked)
        shared = common_prefix([c.tokens for c in asked])
        cache = self._prefill(asked[0], shared, self._encode(watched))
        # The longest question may need more room than the prefix has left.
        room = -(-(longest - shared) // self.shapes.suffix) * self.shapes.suffix
        cache = self._with_room(cache, shared + room)
        out = []
        for one, wanted in zip(asked, ids, strict=True):
            logits, cache = self._finish(one, shared, cache)
            out.append(Choice(np.asarray(logits)[wanted], len(one.tokens)))
        return out

    def _encode(self, watched: Watched) -> jax.Array:
        """Every merged patch, in order: [1, M, D], M on the ladder."""
        pairs, rows, cols = watched.grid
        each = rows * cols
        total = pairs * each // 4
        bucket = padded_window(each)
        windows = max(1, self.shapes.patches // bucket)
        most = ladder(total, self.shapes.prefix)
        seen = jnp.zeros((1, most, self.config.text.width), self.dtype)
        at_rows, at_cols = patch_places(rows, cols)
        for first in range(0, pairs, windows):
            n = min(windows, pairs - first)
            patches = np.zeros((1, windows, bucket, PATCH_VALUES), np.uint8)
            patches[0, :n, :each] = watched.patches[first : first + n]
            numbers = np.zeros((1, windows, bucket), np.int32)
            numbers[0, :n, :each] = 1
            places = np.zeros((2, 1, windows, bucket), np.int32)
            places[0, 0, :n, :each], places[1, 0, :n, :each] = at_rows, at_cols
            to = np.full((windows, bucket // 4), most, np.int32)
            to[:n, : each // 4] = (first + np.arange(n))[:, None] * (each // 4) + np.arange(each // 4)
            merged = encode(self.config, self.weights, patches, numbers, places)
            seen = place(seen, merged, to.reshape(-1))
        return seen

    def _prefill(self, one: Conversation, shared: int, seen: jax.Array) -> Cache:
        size = self.shapes.prefix
        cache = empty_cache(self.config, 1, ladder(size, size), self.dtype)
        is_vision = one.tokens == self.tokenizer.special.video_pad
        index = np.where(is_vision, np.cumsum(is_vision) - 1, -1).astype(np.int32)
        for first in range(0, shared, size):
            span = slice(first, min(first + size, shared))
            cache = self._with_room(cache, first + size)
            tokens, places = padded(one.tokens[span], size, 0), padded(index[span], size, -1)
            x = embed(self.config, self.weights, tokens, places, seen)
            positions = padded(one.positions[:, span], size, 0)
            length = np.array([first], np.int32)
            cache = see(self.config, self.weights, cache, length, x, positions)
        return cache

    def _finish(self, one: Conversation, shared: int, cache: Cache) -> tuple[jax.Array, Cache]:
        size, logits = self.shapes.suffix, None
        for first in range(shared, len(one.tokens), size):
            stop = min(first + size, len(one.tokens))
            logits, cache = ask(
                self.config,
                self.weights,
                cache,
                np.array([first], np.int32),
                padded(one.tokens[first:stop], size, 0),
                padded(one.positions[:, first:stop], size, 0),
                np.int32(stop - first - 1),
            )
        return logits, cache

    def _with_room(self, cache: Cache, tokens: int) -> Cache:
        need = ladder(tokens, self.shapes.prefix)
        return cache if cache[0][0].shape[1] >= need else grow_cache(cache, need)


def common_prefix(sequences: Sequence[np.ndarray]) -> int:
    """How many leading tokens all have in common, leaving each at least its last."""
    shared = min(len(s) for s in sequences) - 1
    for other in sequences[1:]:
        differ = np.flatnonzero(sequences[0][:shared] != other[:shared])
        shared = int(differ[0]) if len(differ) else shared
    return shared


def padded(x: np.ndarray, size: int, fill: int) -> np.ndarray:
    """[1, ..., size] with padding behind."""
    pad = [(0, 0)] * (x.ndim - 1) + [(0, size - x.shape[-1])]
    return np.pad(x, pad, constant_values=fill)[None].astype(np.int32)
