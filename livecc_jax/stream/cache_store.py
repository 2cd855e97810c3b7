"""The interface between the engine and the two stores of keys and values.

`contiguous_store` holds one array per conversation and layer; a step takes one conversation, and
nothing is evicted. It is the fast one for a single stream. `paged_store` holds one pool for all
conversations; a step takes a batch, contexts may be evicted, and forks share their past.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

import jax
import numpy as np

from livecc_jax.decoding.options import StreamOptions
from livecc_jax.stream.prompt import Prompt


class CachedContext(abc.ABC):
    """The keys and values of one conversation in a store.

    Attributes:
        group: Index of the device group that holds them.
    """

    group: int = 0

    @property
    @abc.abstractmethod
    def length(self) -> int:
        """Number of tokens in the context."""

    @property
    @abc.abstractmethod
    def next_position(self) -> int:
        """Position of the next prompt's first token."""

    @abc.abstractmethod
    def evict(self) -> None:
        """Removes what the next turn must not attend to."""

    @abc.abstractmethod
    def reserve(self, prompt_tokens: int, limit: int) -> None:
        """Makes room for a prompt and an answer of at most `limit` tokens.

        Raises:
            PoolFull: The store has no room; the context is as it was before.
        """

    @abc.abstractmethod
    def append(self, prompt: Prompt, answer: Sequence[int]) -> None:
        """Records a turn whose prompt and answer tokens are now in the cache."""

    @abc.abstractmethod
    def fork(self) -> Self:
        """Returns an independent context with the same contents."""

    @abc.abstractmethod
    def release(self) -> None:
        """Returns the memory to the store."""


class Row(NamedTuple):
    """One turn of an engine step.

    Attributes:
        context: The conversation's context, with reserved room.
        prompt: The tokens that the turn adds before its answer.
        options: Decoding options of the conversation.
        number: Number of the turn or question, which its random draws depend on.
        limit: Largest number of tokens of the answer.
        is_question: Whether this is a question, without frames.
    """

    context: CachedContext
    prompt: Prompt
    options: StreamOptions
    number: int
    limit: int
    is_question: bool


class CacheStore(abc.ABC):
    """A store of keys and values, and the compiled step that runs over it.

    Attributes:
        max_rows: Largest number of rows that a device group can have in a step.
        min_rows: Smallest number of rows of a device group.
    """

    max_rows: int
    min_rows: int

    @property
    @abc.abstractmethod
    def free(self) -> int:
        """Number of tokens that the store has room for."""

    @abc.abstractmethod
    def open(self, group: int = 0) -> CachedContext:
        """Returns an empty context on a device group."""

    @abc.abstractmethod
    def run(
        self,
        rows: Sequence[Row],
        slots: Sequence[int],
        batch: int,
        vision_features: jax.Array | None,
        meanwhile: Callable[[], None],
    ) -> np.ndarray:
        """Runs one compiled step.

        Args:
            rows: Turns of different conversations, all with frames or all questions.
            slots: Batch slot of each row.
            batch: Number of batch slots B; those without a row are padding.
            vision_features: [B, P, D] of the turns' frames; None for questions.
            meanwhile: Called while the device runs.

        Returns:
            int32 [rows, M] generated tokens, -1 after the end of a turn. The last token of a row that
            reached its limit is not in the cache.
        """
