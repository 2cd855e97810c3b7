"""Paged storage: all conversations share one pool of cache slots.

A step takes a batch of conversations, gathers the context of each and writes their new keys and values
to reserved slots. Evicted and forked contexts move no data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import numpy as np

from livecc_jax.decoding.engine_step import CacheSlots, engine_step
from livecc_jax.decoding.options import stack_sampling_params
from livecc_jax.decoding.paged_cache import Context, PagedCache, empty_paged_cache
from livecc_jax.errors import ConfigError
from livecc_jax.stream.cache_store import CachedContext, CacheStore, Row
from livecc_jax.stream.history import EMPTY, KVHistory, Segment
from livecc_jax.stream.model import StreamModel
from livecc_jax.stream.options import EngineOptions
from livecc_jax.stream.prompt import Prompt, stack_prompts
from livecc_jax.stream.slot_allocator import SlotAllocator

SMALLEST_CONTEXT = 512


class PagedContext(CachedContext):
    """One conversation's tokens in the pool.

    Args:
        history: The tokens in the context, with their slots.
        allocator: Allocates slots in the group's part of the pool.
        group: Index of the device group.
    """

    def __init__(self, history: KVHistory, allocator: SlotAllocator, group: int) -> None:
        self.history, self.group = history, group
        self._allocator = allocator
        self._reserved = EMPTY.slots

    @property
    def length(self) -> int:
        """Number of tokens in the context."""
        return self.history.length

    @property
    def next_position(self) -> int:
        """Position of the next prompt's first token."""
        return self.history.next_position

    @property
    def reserved(self) -> np.ndarray:
        """int32 [n], slots for the next turn's prompt and answer."""
        return self._reserved

    def evict(self) -> None:
        """Frees what the eviction policy removes before the next turn."""
        self._allocator.release(self.history.evict())

    def reserve(self, prompt_tokens: int, limit: int) -> None:
        """Reserves slots for a prompt and an answer of at most `limit` tokens."""
        self._release_reserved()
        self._reserved = self._allocator.allocate(prompt_tokens + limit)

    def append(self, prompt: Prompt, answer: Sequence[int]) -> None:
        """Records a turn in the reserved slots and frees those that its answer did not need."""
        stop = len(prompt) + len(answer)
        start = self.history.next_position
        self.history.add(
            Segment(
                self._reserved[: len(prompt)],
                prompt.tokens,
                prompt.positions - start,
                prompt.next_position - start,
            ),
            Segment.of_text(self._reserved[len(prompt) : stop], np.array(answer, np.int32)),
        )
        self._reserved = self._reserved[stop:]
        self._release_reserved()

    def fork(self) -> PagedContext:
        """Returns an independent context that shares the slots of this one."""
        other = PagedContext(self.history.fork(), self._allocator, self.group)
        self._allocator.share(other.history.slots())
        return other

    def release(self) -> None:
        """Frees all slots."""
        self._release_reserved()
        self._allocator.release(self.history.slots())
        self.history = KVHistory(self.history.policy)

    def _release_reserved(self) -> None:
        self._allocator.release(self._reserved)
        self._reserved = EMPTY.slots


class PagedStore(CacheStore):
    """Contexts in one pool of keys and values.

    Over a mesh, each device group along `data` and `fsdp` has an equal part of the pool and of a
    step's batch.

    Args:
        model: Shared weights.
        options: Size of the pool and of a batch, eviction policy, limits.

    Raises:
        ConfigError: The batch or the pool does not divide over the device groups.
    """

    def __init__(self, model: StreamModel, options: EngineOptions) -> None:
        self._model, self._options = model, options
        for name in ("max_batch", "pool_tokens"):
            if getattr(options, name) % model.shards:
                raise ConfigError(
                    f"an engine's {name} of {getattr(options, name)} does not divide over the "
                    f"{model.shards} groups of devices along mesh.data and mesh.fsdp"
                )
        self.max_rows = min(options.max_batch // model.shards, options.max_conversations)
        # One row's activations would not be quantized to eight bits, those of several rows are.
        self.min_rows = 2 if model.precision == "fp8" else 1
        # Slots are numbered within each group's part of the pool.
        self._allocators = [
            SlotAllocator(options.pool_tokens // model.shards) for _ in range(model.shards)
        ]
        self._pool: PagedCache = empty_paged_cache(
            model.config, options.pool_tokens, model.dtype, model.mesh, options.cache_precision
        )

    @property
    def free(self) -> int:
        """Number of tokens that the pool has room for."""
        return sum(allocator.free for allocator in self._allocators)

    @property
    def pool(self) -> PagedCache:
        """The pool. The next step donates it."""
        return self._pool

    def open(self, group: int = 0) -> PagedContext:
        """Returns an empty context on a device group."""
        history = KVHistory(self._options.eviction, self._model.stop.silence)
        return PagedContext(history, self._allocators[group], group)

    def run(
        self,
        rows: Sequence[Row],
        slots: Sequence[int],
        batch: int,
        vision_features: jax.Array | None,
        meanwhile: Callable[[], None],
    ) -> np.ndarray:
        """Runs one compiled step; arguments and result as `CacheStore.run`."""
        # Padding slots repeat the first row's prompt without a context and without an answer, and write
        # behind the end of the pool, which drops what they write.
        padded, contexts = [rows[0]] * batch, [KVHistory(self._options.eviction).gather()] * batch
        for slot, row in zip(slots, rows):
            padded[slot], contexts[slot] = row, row.context.history.gather()
        limit = self._options.max_new_tokens
        if rows[0].is_question:
            limit = self._options.max_answer_tokens
        turn = stack_prompts([row.prompt for row in padded])
        bucket = turn.tokens.shape[1]
        # No two tokens may have the same slot.
        dropped = self._options.pool_tokens + np.arange(batch * (bucket + limit), dtype=np.int32)
        prompts, answers = np.split(dropped.reshape(batch, -1), [bucket], axis=1)
        limits = np.zeros(batch, np.int32)
        for slot, row in zip(slots, rows):
            size, reserved = len(row.prompt), row.context.reserved
            prompts[slot, :size] = reserved[:size]
            answers[slot, : len(reserved) - size] = reserved[size:]
            limits[slot] = row.limit
        silence_bases = [row.options.silence_base for row in rows if not row.is_question]
        model, shard = self._model, self._model.shard_batch
        with model.device_scope():
            generated, self._pool = engine_step(
                model.config,
                model.stop.with_silence_control(silence_bases),
                limit,
                model.weights.for_text(),
                self._pool,
                shard(_stack_contexts(contexts, self._options.context_size)),
                shard(turn)._replace(vision_features=vision_features),
                shard(CacheSlots(prompts, answers)),
                shard(
                    stack_sampling_params(
                        [row.options for row in padded], [row.number for row in padded]
                    )
                ),
                shard(limits),
                any(row.options.temperature > 0 for row in rows),
            )
        generated.copy_to_host_async()
        meanwhile()
        return np.asarray(generated)[slots]


def _stack_contexts(
    contexts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], context_size: int
) -> Context:
    """Returns contexts as a batch, padded to `context_size` or to the bucket of the longest."""
    batch = len(contexts)
    longest = max(len(slots) for slots, _, _ in contexts)
    size = context_size if longest <= context_size else _context_bucket(longest)
    all_slots, all_tokens = (np.zeros((batch, size), np.int32) for _ in range(2))
    all_positions = np.zeros((batch, 3, size), np.int32)
    lengths = np.zeros(batch, np.int32)
    for i, (slots, tokens, positions) in enumerate(contexts):
        all_slots[i, : len(slots)], all_tokens[i, : len(slots)] = slots, tokens
        all_positions[i, :, : len(slots)] = positions
        lengths[i] = len(slots)
    return Context(all_slots, all_tokens, all_positions, lengths)


def _context_bucket(length: int) -> int:
    """Returns the padded size of a context: 0, or one of four sizes an octave, for few programs."""
    if length == 0:
        return 0
    step = max(SMALLEST_CONTEXT, 1 << (length - 1).bit_length() >> 3)
    return -(-length // step) * step
