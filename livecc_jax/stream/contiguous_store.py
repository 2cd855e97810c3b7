"""Contiguous storage: each conversation has its own key/value cache, which doubles as it grows.

A step takes one conversation. Nothing is evicted, so no context is gathered: this is the fast store
for a single stream.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from livecc_jax.decoding.kv_cache import KVCache, empty_cache, grow_cache
from livecc_jax.decoding.options import stack_sampling_params
from livecc_jax.decoding.session_step import SlotState, prefill_step, session_step
from livecc_jax.stream.cache_store import CachedContext, CacheStore, Row
from livecc_jax.stream.model import StreamModel
from livecc_jax.stream.prompt import Prompt, padded_length, stack_prompts


class ContiguousContext(CachedContext):
    """One conversation's own cache.

    Args:
        model: Shared weights.
        initial_tokens: Number of tokens to make room for at first; growing beyond it compiles again.
    """

    def __init__(self, model: StreamModel, initial_tokens: int) -> None:
        self._model, self._initial_tokens = model, initial_tokens
        self._length = 0
        self._next_position = 0
        self._cache: KVCache | None = None
        vocab = model.config.text.vocab_size
        self._state = SlotState(jnp.zeros(1, jnp.int32), jnp.zeros((1, vocab), bool))

    @property
    def length(self) -> int:
        """Number of tokens in the context."""
        return self._length

    @property
    def next_position(self) -> int:
        """Position of the next prompt's first token."""
        return self._next_position

    @property
    def cache(self) -> KVCache | None:
        """The key/value cache, or None before the first turn. The next step donates it."""
        return self._cache

    @property
    def state(self) -> SlotState:
        """The device's own record of length and token ids. The next step donates it."""
        return self._state

    def evict(self) -> None:
        """Does nothing: a contiguous cache keeps everything."""

    def reserve(self, prompt_tokens: int, limit: int) -> None:
        """Makes room for a prompt, padded to its bucket, and an answer; the cache doubles as needed."""
        needed = self._length + padded_length(prompt_tokens) + limit
        if self._cache is not None and self._cache[0][0].shape[1] >= needed:
            return
        # Doubling keeps the number of compiled programs logarithmic in the stream's length.
        capacity = max(self._initial_tokens, 1 << (needed - 1).bit_length())
        if self._cache is None:
            model = self._model
            self._cache = empty_cache(model.config, 1, capacity, model.dtype, model.mesh)
        else:
            self._cache = grow_cache(self._cache, capacity)

    def append(self, prompt: Prompt, answer: Sequence[int]) -> None:
        """Records a turn whose prompt and answer tokens are now in the cache."""
        self._length += len(prompt) + len(answer)
        self._next_position = prompt.next_position + len(answer)

    def prefill(self, prompt: Prompt, chunk: int, vision_features: jax.Array | None = None) -> None:
        """Adds a long prompt, a chunk at a time and without an answer.

        Args:
            prompt: The tokens to add.
            chunk: Number of tokens in a compiled call, a multiple of the prompt bucket.
            vision_features: [1, P, D] features of all its frames.
        """
        model = self._model
        self.reserve(padded_length(len(prompt), chunk), 0)
        for first in range(0, len(prompt), chunk):
            part = stack_prompts([prompt.select(slice(first, first + chunk))])
            part = part._replace(vision_features=vision_features)
            with model.device_scope():
                self._cache, self._state = prefill_step(
                    model.config, model.weights.for_text(), self._cache, self._state, part
                )
        self.append(prompt, ())

    def run(
        self, row: Row, vision_features: jax.Array | None, meanwhile: Callable[[], None]
    ) -> np.ndarray:
        """Runs a turn: int32 [1, M] generated tokens, as `CacheStore.run` returns them."""
        model = self._model
        turn = stack_prompts([row.prompt])._replace(vision_features=vision_features)
        silence_base = None if row.is_question else row.options.silence_base
        with model.device_scope():
            generated, self._cache, self._state = session_step(
                model.config,
                model.stop.with_silence_control([silence_base]),
                row.limit,
                model.weights.for_text(),
                self._cache,
                self._state,
                turn,
                stack_sampling_params([row.options], [row.number]),
                row.options.temperature > 0,
            )
        generated.copy_to_host_async()
        meanwhile()
        return np.asarray(generated)

    def fork(self) -> ContiguousContext:
        """Returns an independent context with a copy of the cache."""
        other = copy.copy(self)
        # Each step donates both.
        other._cache, other._state = jax.tree.map(jnp.copy, (self._cache, self._state))
        return other

    def release(self) -> None:
        """Drops the cache."""
        self._cache = None
        self._length = self._next_position = 0


class ContiguousStore(CacheStore):
    """Contexts with a cache of their own; a step takes one of them.

    Args:
        model: Shared weights.
        initial_tokens: Number of tokens that a new cache has room for.
    """

    max_rows = 1
    min_rows = 1

    def __init__(self, model: StreamModel, initial_tokens: int) -> None:
        self._model, self._initial_tokens = model, initial_tokens

    @property
    def free(self) -> int:
        """Number of tokens that a new context has room for before it grows."""
        return self._initial_tokens

    def open(self, group: int = 0) -> ContiguousContext:
        """Returns an empty context."""
        return ContiguousContext(self._model, self._initial_tokens)

    def run(
        self,
        rows: Sequence[Row],
        slots: Sequence[int],
        batch: int,
        vision_features: jax.Array | None,
        meanwhile: Callable[[], None],
    ) -> np.ndarray:
        """Runs the only row; arguments as `CacheStore.run`."""
        (row,) = rows
        return row.context.run(row, vision_features, meanwhile)
