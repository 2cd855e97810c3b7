"""Allocation of the slots of a paged key/value cache, with a reference count for each slot."""

from __future__ import annotations

import numpy as np

from livecc_jax.errors import LiveCCError


class PoolFull(LiveCCError):
    """The pool of cache slots has no room for another turn."""


class SlotAllocator:
    """Allocates the cache slots 0 to `total` - 1; forked conversations share slots.

    Args:
        total: Number of slots.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        # A stack of free slots; its top is at index `_free_count` - 1.
        self._free_stack = np.arange(total - 1, -1, -1, dtype=np.int32)
        self._free_count = total
        self._reference_counts = np.zeros(total, np.int32)

    @property
    def free(self) -> int:
        """Number of free slots."""
        return self._free_count

    def allocate(self, count: int) -> np.ndarray:
        """Returns int32 [count] slots with one reference each.

        Raises:
            PoolFull: Fewer slots are free.
        """
        if count > self._free_count:
            raise PoolFull(
                f"the pool of {self.total} tokens has room for {self._free_count} more, and {count} "
                "are needed"
            )
        self._free_count -= count
        slots = self._free_stack[self._free_count : self._free_count + count].copy()
        self._reference_counts[slots] = 1
        return slots

    def share(self, slots: np.ndarray) -> None:
        """Adds one reference to each of these slots, int32 [n]."""
        self._reference_counts[slots] += 1

    def release(self, slots: np.ndarray) -> None:
        """Removes one reference from each of these slots, int32 [n], and frees those without any."""
        self._reference_counts[slots] -= 1
        freed = slots[self._reference_counts[slots] == 0]
        self._free_stack[self._free_count : self._free_count + len(freed)] = freed
        self._free_count += len(freed)

    def reference_counts(self) -> np.ndarray:
        """Returns int32 [total], the number of conversations that use each slot."""
        return self._reference_counts.copy()
