"""Option logits: what a model would answer next, among the options, after the answer prefix.

A video is encoded and prefilled once. Its questions go on from there side by side: each sees the shared
prefix and itself, never another. So the logits are those of the whole conversation, the video costs
once, and weights and cache are read once for all its questions.

Over a mesh as many videos go together as its batch axes have devices, and take what the longest takes.

Shapes are few: tokens come in pieces of one size (where attention is fused, a video's first piece is a
multiple of half of it, and most videos are no more), the cache grows through a ladder of sizes, frame
pairs are padded to sixteenths of a power of two. So the number of programs a run compiles is bounded,
whatever it is asked.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from livecc_jax.decoding.attention import fused
from livecc_jax.decoding.kv_cache import Cache, grow_cache
from livecc_jax.decoding.weights import lay_out
from livecc_jax.errors import ConfigError
from livecc_jax.evaluate.benchmarks.questions import PromptTemplate
from livecc_jax.evaluate.run.choice_steps import (
    embed_tokens,
    encode_windows,
    prefill_first_chunk,
    prefill_next_chunk,
    question_logits,
    scatter_patches,
)
from livecc_jax.evaluate.run.prompt_encoder import PromptEncoder
from livecc_jax.evaluate.run.sampled_video import SampledVideo
from livecc_jax.media.pixels import patch_places
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.qwen2_vl import Params
from livecc_jax.parallel.batch import parts
from livecc_jax.parallel.rules import partition_spec
from livecc_jax.text.tokenizer import Tokenizer
from livecc_jax.timeline.modes import MODES
from livecc_jax.timeline.positions import token_positions

PATCH_VALUES = 1176


@dataclass(frozen=True)
class ShapeBuckets:
    """Sizes of the compiled programs.

    prefix: tokens of a video's part at a time, and the smallest cache; whole: of its first part at
    most, by halves of `prefix`, where attention is fused (elsewhere its scores would be too large);
    suffix: the fewest that questions are padded to, and aside: the most of several questions at once
    (a longer one goes alone); patches: encoded at a time, about.
    """

    prefix: int = 1024
    whole: int = 32768
    suffix: int = 256
    aside: int = 1024
    patches: int = 16384


def bucket_size(size: int, smallest: int) -> int:
    """The least of smallest * (1, 1.5, 2, 3, 4, 6, 8, 12, ...) that holds `size`; smallest is even."""
    step = smallest
    while True:
        if size <= step:
            return step
        if size <= step * 3 // 2:
            return step * 3 // 2
        step *= 2


def window_bucket(patches: int) -> int:
    """A frame pair's patches, padded by a sixteenth at most: 16 sizes to each power of two."""
    step = max(4, 1 << max(0, patches.bit_length() - 5))
    return -(-patches // step) * step


@dataclass(frozen=True)
class EncodedPrompt:
    """A question with its video as tokens: ids [T], positions [3, T]."""

    tokens: np.ndarray
    positions: np.ndarray


class ChoiceScores(NamedTuple):
    """A question's option logits, float32 [options], and how many tokens its conversation has."""

    logits: np.ndarray
    tokens: int


class VideoQuestions(NamedTuple):
    """A video with its questions: the user's text and the options of each."""

    watched: SampledVideo
    texts: Sequence[str]
    options: Sequence[Sequence[str]]


class ChoiceScorer:
    """A model that answers multiple-choice questions about videos.

    Args:
        config: the architecture.
        params: its weights.
        tokenizer: its tokenizer.
        positions: rotary position mode.
        asking: answer prefix and what precedes options.
        shapes: of the compiled programs.
        mesh: devices to split weights and videos over; without one, the default device.

    Raises ConfigError for another position mode, or a model that does not divide over the mesh.
    """

    def __init__(
        self,
        config: ModelConfig,
        params: Params,
        tokenizer: Tokenizer,
        positions: str,
        asking: PromptTemplate,
        shapes: ShapeBuckets = ShapeBuckets(),
        mesh: Mesh | None = None,
    ) -> None:
        if positions not in MODES:
            raise ConfigError(f"positions {positions!r} is not one of {', '.join(MODES)}")
        if mesh is not None and parts(mesh, "length") > 1:
            raise ConfigError("mesh.context splits rows of training; here it must be 1")
        self.config, self.tokenizer, self.positions = config, tokenizer, positions
        self.phrasing, self.shapes, self.mesh = PromptEncoder(tokenizer, asking), shapes, mesh
        self.rows = parts(mesh, "batch") if mesh else 1  # videos at once
        # Taken apart where they are (views, on the host) and then moved, so they never lie there twice.
        self.weights = lay_out(params, spread=(config, mesh) if mesh else None)
        self.dtype = params["text"]["embed"].dtype
        with self._devices():
            q, k = (
                jax.ShapeDtypeStruct((self.rows, 1, heads, config.text.head_dim), self.dtype)
                for heads in (config.text.heads, config.text.kv_heads)
            )
            self.whole = shapes.whole if fused(q, k) else 0

    def _devices(self) -> contextlib.AbstractContextManager[Any]:
        return jax.set_mesh(self.mesh) if self.mesh else contextlib.nullcontext()

    def conversation(self, grid: tuple[int, int, int], text: str) -> EncodedPrompt:
        """System turn, video, question, header of the answer, answer prefix."""
        opening = self.phrasing.opening(grid, text)
        special = self.tokenizer.special
        positions, _ = token_positions(opening.tokens, opening.grids, special, self.positions)
        return EncodedPrompt(opening.tokens, positions)

    def choose(
        self, watched: SampledVideo, texts: Sequence[str], options: Sequence[Sequence[str]]
    ) -> list[ChoiceScores]:
        """Option logits of several questions about one video; see `question_logits`."""
        return self.ask([VideoQuestions(watched, texts, options)])()[0]

    def ask(self, shown: Sequence[VideoQuestions]) -> Callable[[], list[list[ChoiceScores]]]:
        """Begin to answer the questions about each of several videos.

        The devices are given all their work, and the host is free for the next videos meanwhile. A
        conversation may be longer than the model's context, as in the published runs (Video-MME's
        subtitles of an hour): rotary positions simply go on.

        Args:
            shown: at most `rows` videos.

        Returns:
            What waits for the option logits, of each video's questions in order.
        """
        ids = [[self.phrasing.option_ids(o) for o in one.options] for one in shown]
        # Rows without a video repeat the last one's.
        batch = [*shown, *[shown[-1]] * (self.rows - len(shown))]
        with self._devices():
            seen = self._encode([b.watched for b in batch])
            asked = [[self.conversation(b.watched.grid, text) for text in b.texts] for b in batch]
            shared = np.array([common_prefix([c.tokens for c in row]) for row in asked], np.int32)
            cache = self._prefill([row[0] for row in asked], shared, seen)
            del seen
            groups = [_together(row, n, self.shapes.aside) for row, n in zip(asked, shared)]
            rounds = [
                self._finish(now, shared, cache) for now in itertools.zip_longest(*groups, fillvalue=[])
            ]

        def answers() -> list[list[ChoiceScores]]:
            fetched = [np.asarray(logits) for logits in rounds]
            found = []
            for row, wanted in enumerate(ids):
                ends = [x[row, i] for x, now in zip(fetched, groups[row]) for i in range(len(now))]
                lengths = [len(c.tokens) for c in asked[row]]
                found.append(
                    [ChoiceScores(e[w], n) for e, w, n in zip(ends, wanted, lengths, strict=True)]
                )
            return found

        return answers

    def _place(self, x: np.ndarray) -> Any:
        """Rows, on their devices."""
        if self.mesh is None:
            return x
        return jax.device_put(x, NamedSharding(self.mesh, partition_spec(("batch",))))

    def _encode(self, videos: Sequence[SampledVideo]) -> jax.Array:
        """Every merged patch of each video, in order: [B, M, D], M on the ladder."""
        count = len(videos)
        each = [rows * cols for _, rows, cols in (v.grid for v in videos)]
        bucket = window_bucket(max(each))
        calls = _calls(max(len(v.patches) for v in videos), max(1, self.shapes.patches // bucket))
        most = bucket_size(
            max(len(v.patches) * n // 4 for v, n in zip(videos, each)), self.shapes.prefix
        )
        shape = (count, most, self.config.text.width)
        sharding = self.mesh and NamedSharding(self.mesh, partition_spec(("batch",)))
        seen = jnp.zeros(shape, self.dtype, device=sharding)
        places = np.zeros((count, 2, calls[0][1], bucket), np.int32)
        for row, (video, size) in enumerate(zip(videos, each)):
            places[row, :, :, :size] = np.array(patch_places(*video.grid[1:]))[:, None]
        for first, windows in calls:
            patches = np.zeros((count, windows, bucket, PATCH_VALUES), np.uint8)
            counts = np.zeros((count, windows), np.int32)
            to = np.full((count, windows, bucket // 4), most, np.int32)
            for row, (video, size) in enumerate(zip(videos, each)):
                some = video.patches[first : first + windows]
                n, merged = len(some), size // 4
                patches[row, :n, :size], counts[row, :n] = some, size
                to[row, :n, :merged] = (first + np.arange(n))[:, None] * merged + np.arange(merged)
            inputs = patches, counts, places[:, :, :windows]
            fresh = encode_windows(self.config, self.weights, *map(self._place, inputs))
            seen = scatter_patches(seen, fresh, self._place(to.reshape(count, -1)))
        return seen

    def _prefill(self, rows: Sequence[EncodedPrompt], shared: np.ndarray, seen: jax.Array) -> Cache:
        """The shared prefix of each row, in pieces; a row that is through sees padding behind it."""
        size, end = self.shapes.prefix, int(shared.max())
        step = max(1, size // 2)
        first = min(-(-end // step) * step, self.whole) if self.whole else size
        is_vision = [c.tokens == self.tokenizer.special.video_pad for c in rows]
        index = [np.where(v, np.cumsum(v) - 1, -1) for v in is_vision]

        def piece(first: int, size: int) -> tuple[jax.Array, Any]:
            spans = [slice(first, min(first + size, end)) for end in shared]
            tokens = _stacked([c.tokens[s] for c, s in zip(rows, spans)], size, 0)
            places = _stacked([i[s] for i, s in zip(index, spans)], size, -1)
            x = embed_tokens(self.config, self.weights, self._place(tokens), self._place(places), seen)
            return x, self._place(_stacked([c.positions[:, s] for c, s in zip(rows, spans)], size, 0))

        cache = prefill_first_chunk(
            self.config, self.weights, *piece(0, first), bucket_size(first, size)
        )
        for start in range(first, end, size):
            cache = self._with_room(cache, start + size)
            length = self._place(np.full(len(rows), start, np.int32))
            cache = prefill_next_chunk(self.config, self.weights, cache, length, *piece(start, size))
        return cache

    def _finish(
        self, rows: Sequence[Sequence[EncodedPrompt]], shared: np.ndarray, cache: Cache
    ) -> jax.Array:
        """Some questions of each row: float32 [B, N, V] logits after each, N a power of two."""
        sizes = [[len(c.tokens) - int(n) for c in row] for row, n in zip(rows, shared)]
        room = bucket_size(max(map(sum, sizes)), self.shapes.suffix)
        most = 1 << (max(map(len, rows)) - 1).bit_length()
        tokens, segments = np.zeros((2, len(rows), room), np.int32)
        positions = np.zeros((len(rows), 3, room), np.int32)
        last = np.zeros((len(rows), most), np.int32)
        for i, (row, n) in enumerate(zip(rows, shared)):
            at = 0
            for number, (one, size) in enumerate(zip(row, sizes[i])):
                span = slice(at, at + size)
                tokens[i, span], positions[i, :, span] = one.tokens[n:], one.positions[:, n:]
                segments[i, span], last[i, number] = number + 1, at + size - 1
                at += size
        inputs = map(self._place, (shared, tokens, positions, segments, last))
        return question_logits(self.config, self.weights, cache, *inputs)

    def _with_room(self, cache: Cache, tokens: int) -> Cache:
        need = bucket_size(int(tokens), self.shapes.prefix)
        return cache if cache[0][0].shape[1] >= need else grow_cache(cache, need)


def _together(row: Sequence[EncodedPrompt], shared: int, most: int) -> list[list[EncodedPrompt]]:
    """Questions in order, as many at a time as have `most` tokens behind the shared ones, or one."""
    groups: list[list[EncodedPrompt]] = []
    room = 0
    for one in row:
        size = len(one.tokens) - int(shared)
        if size > room:
            groups.append([])
            room = most
        groups[-1].append(one)
        room -= size
    return groups


def common_prefix(sequences: Sequence[np.ndarray]) -> int:
    """How many leading tokens all have in common, leaving each at least its last."""
    shared = min(len(s) for s in sequences) - 1
    for other in sequences[1:]:
        differ = np.flatnonzero(sequences[0][:shared] != other[:shared])
        shared = int(differ[0]) if len(differ) else shared
    return shared


def _calls(pairs: int, most: int) -> list[tuple[int, int]]:
    """Calls of the tower, (first frame pair, windows); the last has half of them if that will do."""
    calls = [(first, most) for first in range(0, pairs, most)]
    first, half = calls[-1][0], -(-most // 2)
    if pairs - first <= half:
        calls[-1] = first, half
    return calls


def pad_last_axis(x: np.ndarray, size: int, fill: int) -> np.ndarray:
    """int32 [1, ..., size] with padding behind."""
    return _stacked([x], size, fill)


def _stacked(rows: Sequence[np.ndarray], size: int, fill: int) -> np.ndarray:
    """int32 [B, ..., size] with padding behind each."""
    pads = ([(0, 0)] * (x.ndim - 1) + [(0, size - x.shape[-1])] for x in rows)
    return np.stack([np.pad(x, p, constant_values=fill) for x, p in zip(rows, pads)]).astype(np.int32)
