"""The quarantine list of a run, shared by its processes; each finds unusable examples of its own."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from livecc_jax.data.index.reader import Index
from livecc_jax.data.rows.quarantine import Quarantine, Quarantined
from livecc_jax.errors import DataError
from livecc_jax.parallel.processes import gather_json, is_main_process

log = logging.getLogger(__name__)

QUARANTINE_FILE = "quarantine.jsonl"
ALWAYS_ALLOWED = 20  # a run never ends because of so few unusable examples


class SharedQuarantine:
    """A quarantine list that is the same in every process after `synchronize`.

    Args:
        quarantine: The entries that the run starts with.
        index: The index that the entries are from.
        directory: The run directory, for the file.
        max_share: Maximum share of the examples that may be unusable.
    """

    def __init__(self, quarantine: Quarantine, index: Index, directory: Path, max_share: float) -> None:
        self._quarantine, self._directory, self._size = quarantine, directory, len(index)
        self._max_entries = max(ALWAYS_ALLOWED, max_share * self._size)
        self._unshared: list[Quarantined] = []

    def __len__(self) -> int:
        return len(self._quarantine)

    def to_json(self) -> list[dict[str, Any]]:
        """Returns every entry that has been shared."""
        return self._quarantine.to_json()

    def add(self, entries: Iterable[Quarantined]) -> None:
        """Adds entries of this process, to be shared by the next `synchronize`."""
        self._unshared.extend(entries)

    def synchronize(self) -> None:
        """Adds the new entries of all processes to the list of every process.

        Every process must call this at the same step.

        Raises DataError when more examples are unusable than the run allows.
        """
        gathered = gather_json([dataclasses.asdict(e) for e in self._unshared])
        self._unshared = []
        entries = (Quarantined(**fields) for of_process in gathered for fields in of_process)
        new = [entry for entry in entries if self._quarantine.add(entry)]
        for e in new if is_main_process() else []:
            log.warning("left out and quarantined: %s line %d: %s", e.annotations, e.line, e.reason)
        if new:
            self.write()
        if len(self._quarantine) > self._max_entries:
            raise DataError(
                f"{self._directory / QUARANTINE_FILE}: {len(self._quarantine)} of {self._size} "
                f"examples cannot be used; the last: {self._quarantine.entries[-1].reason}"
            )

    def write(self) -> None:
        """Writes the file, in the main process."""
        if is_main_process():
            self._quarantine.save(self._directory / QUARANTINE_FILE)
