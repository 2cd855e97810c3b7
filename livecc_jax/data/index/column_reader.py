"""Reads values of an index's columns; damage is noticed before a damaged value is used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from livecc_jax.data.index.columns import open_columns
from livecc_jax.data.index.consistency import check_columns, check_integrity


class ColumnReader:
    """The columns of an index on disk, memory-mapped.

    Opening reads the columns that hold numbers of examples, media and files, to check them against each
    other; text and frames are read and checked when an example needs them.

    Args:
        folder: Folder of the index.
        meta: The content of its meta.json.

    Raises:
        DataError: A column is missing or damaged, or does not fit the others.
    """

    def __init__(self, folder: Path, meta: Mapping[str, Any]) -> None:
        self._columns = open_columns(folder, meta["examples"])
        check_columns(folder, self._columns, meta)
        self._checks = check_integrity(folder, self._columns, meta)
        self._checked_whole: set[str] = set()

    def length(self, name: str) -> int:
        """Returns the number of records of a column."""
        return len(self._columns[name])

    def whole(self, name: str) -> np.ndarray:
        """Returns a whole column. Raises DataError when any of it is damaged."""
        values = self._columns[name]
        if self._checks and name not in self._checked_whole:
            self._checks.check(name, 0, values.nbytes)
            self._checked_whole.add(name)
        return values

    def span(self, name: str, start: int, stop: int) -> np.ndarray:
        """Returns records start, ..., stop - 1 of a column. Raises DataError when they are damaged."""
        values = self._columns[name]
        if self._checks:
            size = values.strides[0]
            self._checks.check(name, start * size, stop * size)
        return values[start:stop]

    def record(self, name: str, i: int) -> Any:
        """Returns record i of a column. Raises DataError when it is damaged."""
        return self.span(name, i, i + 1)[0]

    def ragged(self, name: str, starts: str, i: int) -> np.ndarray:
        """Returns the values of record i of a column whose records another column delimits.

        Args:
            name: Name of the column.
            starts: Name of the column that delimits its records.
            i: Number of the record.

        Raises:
            DataError: The values are damaged.
        """
        return self.span(name, *self.bounds(starts, i))

    def bounds(self, starts: str, i: int) -> tuple[int, int]:
        """Returns where record i begins and ends, from the column that delimits records."""
        first, stop = self.span(starts, i, i + 2).tolist()
        return first, stop
