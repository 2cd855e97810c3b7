"""Which places of the pool are taken, and by how many conversations."""

from __future__ import annotations

import numpy as np

from livecc_jax.errors import LiveCCError


class PoolFull(LiveCCError):
    """There is no room for another turn."""


class Places:
    """Hands out places 0 to `total` - 1 of a pool."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._free = np.arange(total - 1, -1, -1, dtype=np.int32)  # a stack: its top is at the end
        self._count = total
        self._owners = np.zeros(total, np.int32)

    @property
    def free(self) -> int:
        """How many are free."""
        return self._count

    def take(self, count: int) -> np.ndarray:
        """int32 [count] of places, each with one owner. Raises PoolFull when there are fewer."""
        if count > self._count:
            raise PoolFull(
                f"the pool of {self.total} tokens has room for {self._count} more, not for {count}"
            )
        self._count -= count
        taken = self._free[self._count : self._count + count].copy()
        self._owners[taken] = 1
        return taken

    def share(self, places: np.ndarray) -> None:
        """One owner more for each."""
        self._owners[places] += 1

    def release(self, places: np.ndarray) -> None:
        """One owner fewer for each; those without any are free again."""
        self._owners[places] -= 1
        freed = places[self._owners[places] == 0]
        self._free[self._count : self._count + len(freed)] = freed
        self._count += len(freed)
