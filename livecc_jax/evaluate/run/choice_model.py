"""Encode a batch of videos, prefill their shared prefixes and score their questions with a model.

Arrays are padded to few sizes (`evaluate.run.buckets`): the prefix is prefilled in chunks of one size
(a larger first chunk where attention is fused, which is enough for most videos), the cache grows in
buckets, and frame pairs are padded by up to a sixteenth. So the number of compiled programs is bounded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from livecc_jax.decoding.attention import cudnn_is_supported
from livecc_jax.decoding.kv_cache import KVCache, grow_cache
from livecc_jax.decoding.weights import prepare_weights
from livecc_jax.errors import ConfigError
from livecc_jax.evaluate.run.buckets import (
    DEFAULT_BUCKETS,
    ShapeBuckets,
    bucket_size,
    pad_and_stack,
    vision_calls,
    window_bucket,
)
from livecc_jax.evaluate.run.choice_steps import (
    embed_tokens,
    encode_windows,
    prefill_first_chunk,
    prefill_next_chunk,
    question_logits,
    scatter_patches,
)
from livecc_jax.evaluate.run.prompt_encoder import EncodedPrompt
from livecc_jax.evaluate.run.sampled_video import SampledVideo
from livecc_jax.families import DEFAULT
from livecc_jax.families.qwen2_vl import PATCH_VALUES
from livecc_jax.media.pixels import patch_coordinates
from livecc_jax.model.config import ModelConfig
from livecc_jax.model.qwen2_vl import Params
from livecc_jax.parallel.batch import shard_count
from livecc_jax.parallel.rules import partition_spec


class ChoiceModel:
    """A model with its weights on the devices, for batches of videos with questions.

    Args:
        config: Architecture of the model.
        params: Weights of the model.
        video_pad: Token id of a video's patches in a prompt.
        buckets: Sizes of the compiled programs.
        mesh: Devices to shard weights and videos over; None uses the default device.

    Attributes:
        batch_size: Number of videos in a batch.
        max_first_chunk: Maximum tokens of the first chunk of a prefix; 0 where attention is not fused,
            so that all chunks have one size.

    Raises:
        ConfigError: The mesh has a context axis, or the model does not divide over the mesh.
    """

    def __init__(
        self,
        config: ModelConfig,
        params: Params,
        video_pad: int,
        buckets: ShapeBuckets = DEFAULT_BUCKETS,
        mesh: Mesh | None = None,
    ) -> None:
        if mesh is not None and shard_count(mesh, "length") > 1:
            raise ConfigError("mesh.context splits rows of training; here it must be 1")
        self.config, self.video_pad, self.buckets, self.mesh = config, video_pad, buckets, mesh
        self.batch_size = shard_count(mesh, "batch") if mesh else 1
        # Layers are unstacked where the weights are (views, on the host) and moved afterwards, so that
        # no device holds them twice.
        if config.family is not DEFAULT:
            raise ConfigError(
                f"questions with options are not asked of {config.family.name} models yet"
            )
        self.weights = prepare_weights(params, shard_over=(config, mesh) if mesh else None)
        self.dtype = params["text"]["embed"].dtype
        with self.mesh_scope():
            q, k = (
                jax.ShapeDtypeStruct((self.batch_size, 1, heads, config.text.head_dim), self.dtype)
                for heads in (config.text.heads, config.text.kv_heads)
            )
            self.max_first_chunk = buckets.max_first_chunk if cudnn_is_supported(q, k) else 0

    def mesh_scope(self) -> contextlib.AbstractContextManager[Any]:
        """Returns the context in which the stages must be called."""
        return jax.set_mesh(self.mesh) if self.mesh else contextlib.nullcontext()

    def encode_videos(self, videos: Sequence[SampledVideo]) -> jax.Array:
        """Encodes a batch of videos.

        Returns:
            [B, M, D]: every merged patch of each video, in order; M is a bucket.
        """
        batch = len(videos)
        pair_patches = [rows * cols for _, rows, cols in (v.grid for v in videos)]
        bucket = window_bucket(max(pair_patches))
        calls = vision_calls(
            max(len(v.patches) for v in videos), max(1, self.buckets.vision_patches // bucket)
        )
        length = bucket_size(
            max(len(v.patches) * n // 4 for v, n in zip(videos, pair_patches)),
            self.buckets.prefill_chunk,
        )
        sharding = self.mesh and NamedSharding(self.mesh, partition_spec(("batch",)))
        vision_embeds = jnp.zeros((batch, length, self.config.text.width), self.dtype, device=sharding)
        coordinates = np.zeros((batch, 2, calls[0][1], bucket), np.int32)
        for i, (video, size) in enumerate(zip(videos, pair_patches)):
            coordinates[i, :, :, :size] = np.array(patch_coordinates(*video.grid[1:]))[:, None]
        for first, windows in calls:
            patches = np.zeros((batch, windows, bucket, PATCH_VALUES), np.uint8)
            counts = np.zeros((batch, windows), np.int32)
            # Padding is scattered past the end, where it is dropped.
            targets = np.full((batch, windows, bucket // 4), length, np.int32)
            for i, (video, size) in enumerate(zip(videos, pair_patches)):
                pairs = video.patches[first : first + windows]
                n, merged = len(pairs), size // 4
                patches[i, :n, :size], counts[i, :n] = pairs, size
                targets[i, :n, :merged] = (first + np.arange(n))[:, None] * merged + np.arange(merged)
            inputs = patches, counts, coordinates[:, :, :windows]
            merged_patches = encode_windows(self.config, self.weights, *map(self._to_devices, inputs))
            vision_embeds = scatter_patches(
                vision_embeds, merged_patches, self._to_devices(targets.reshape(batch, -1))
            )
        return vision_embeds

    def prefill_prefixes(
        self, prompts: Sequence[EncodedPrompt], prefix_lengths: np.ndarray, vision_embeds: jax.Array
    ) -> KVCache:
        """Prefills the shared prefix of each video's prompts, in chunks.

        A video with a shorter prefix is padded, and what is written beyond its prefix is not attended
        to.

        Args:
            prompts: One prompt of each video.
            prefix_lengths: int32 [B], tokens of each prefix.
            vision_embeds: [B, M, D], what `encode_videos` returned.
        """
        chunk, longest = self.buckets.prefill_chunk, int(prefix_lengths.max())
        step = max(1, chunk // 2)
        first_chunk = (
            min(-(-longest // step) * step, self.max_first_chunk) if self.max_first_chunk else chunk
        )
        is_vision = [p.tokens == self.video_pad for p in prompts]
        vision_index = [np.where(v, np.cumsum(v) - 1, -1) for v in is_vision]

        def inputs(first: int, size: int) -> tuple[jax.Array, Any]:
            spans = [slice(first, min(first + size, end)) for end in prefix_lengths]
            tokens = pad_and_stack([p.tokens[s] for p, s in zip(prompts, spans)], size, 0)
            index = pad_and_stack([i[s] for i, s in zip(vision_index, spans)], size, -1)
            positions = pad_and_stack([p.positions[:, s] for p, s in zip(prompts, spans)], size, 0)
            x = embed_tokens(
                self.config,
                self.weights,
                self._to_devices(tokens),
                self._to_devices(index),
                vision_embeds,
            )
            return x, self._to_devices(positions)

        cache = prefill_first_chunk(
            self.config, self.weights, *inputs(0, first_chunk), bucket_size(first_chunk, chunk)
        )
        for start in range(first_chunk, longest, chunk):
            cache = self._grow_cache(cache, start + chunk)
            length = self._to_devices(np.full(len(prompts), start, np.int32))
            cache = prefill_next_chunk(self.config, self.weights, cache, length, *inputs(start, chunk))
        return cache

    def score_questions(
        self,
        questions: Sequence[Sequence[EncodedPrompt]],
        prefix_lengths: np.ndarray,
        cache: KVCache,
    ) -> jax.Array:
        """Scores a group of questions about each video of a batch.

        Args:
            questions: Prompts of the group of each video.
            prefix_lengths: int32 [B], tokens of each shared prefix.
            cache: Keys and values of the prefixes.

        Returns:
            float32 [B, N, V]: logits after each prompt; N is a power of two.
        """
        batch = len(questions)
        sizes = [[len(p.tokens) - int(n) for p in group] for group, n in zip(questions, prefix_lengths)]
        length = bucket_size(max(map(sum, sizes)), self.buckets.min_question_tokens)
        count = 1 << (max(map(len, questions)) - 1).bit_length()
        tokens, segments = np.zeros((2, batch, length), np.int32)
        positions = np.zeros((batch, 3, length), np.int32)
        last = np.zeros((batch, count), np.int32)
        for i, (group, n) in enumerate(zip(questions, prefix_lengths)):
            start = 0
            for number, (prompt, size) in enumerate(zip(group, sizes[i])):
                span = slice(start, start + size)
                tokens[i, span], positions[i, :, span] = prompt.tokens[n:], prompt.positions[:, n:]
                segments[i, span], last[i, number] = number + 1, start + size - 1
                start += size
        inputs = map(self._to_devices, (prefix_lengths, tokens, positions, segments, last))
        return question_logits(self.config, self.weights, cache, *inputs)

    def _grow_cache(self, cache: KVCache, tokens: int) -> KVCache:
        capacity = bucket_size(int(tokens), self.buckets.prefill_chunk)
        return cache if cache[0][0].shape[1] >= capacity else grow_cache(cache, capacity)

    def _to_devices(self, x: np.ndarray) -> Any:
        """Shards an array [B, ...] over the batch axes of the mesh."""
        if self.mesh is None:
            return x
        return jax.device_put(x, NamedSharding(self.mesh, partition_spec(("batch",))))
