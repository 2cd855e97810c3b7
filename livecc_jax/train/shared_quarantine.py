"""The quarantine list of a run of several processes, each of which finds its own unusable examples."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from livecc_jax.data.index.reader import Index
from livecc_jax.data.rows.quarantine import Quarantine, Quarantined
from livecc_jax.errors import DataError
from livecc_jax.parallel.processes import gather, is_first

log = logging.getLogger(__name__)

FILE = "quarantine.jsonl"
SOME_BAD = 20  # so many bad examples never end a run


class SharedQuarantine:
    """A list that is the same in every process after `share`.

    Args:
        known: entries that the run begins with.
        index: whose examples they are.
        directory: of the run, for the file.
        most: share of the examples that may be unusable.
    """

    def __init__(self, known: Quarantine, index: Index, directory: Path, most: float) -> None:
        self._all, self._directory, self._size = known, directory, len(index)
        self._most = max(SOME_BAD, most * self._size)
        self._fresh: list[Quarantined] = []

    def __len__(self) -> int:
        return len(self._all)

    def to_json(self) -> list[dict[str, Any]]:
        """Every entry that all processes know."""
        return self._all.to_json()

    def found(self, entries: Iterable[Quarantined]) -> None:
        """Note what this process found."""
        self._fresh.extend(entries)

    def share(self) -> None:
        """Give every process what any of them found; every process must call it at the same step.

        Raises DataError when more than the run may do without are unusable.
        """
        told = gather([dataclasses.asdict(e) for e in self._fresh])
        self._fresh = []
        new = [e for e in (Quarantined(**d) for found in told for d in found) if self._all.add(e)]
        for e in new if is_first() else []:
            log.warning("left out and quarantined: %s line %d: %s", e.annotations, e.line, e.reason)
        if new:
            self.write()
        if len(self._all) > self._most:
            raise DataError(
                f"{self._directory / FILE}: {len(self._all)} of {self._size} examples cannot be used; "
                f"the last: {self._all.entries[-1].reason}"
            )

    def write(self) -> None:
        """Write the list, in the first process."""
        if is_first():
            self._all.save(self._directory / FILE)
