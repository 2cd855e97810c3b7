"""Checksums of an index: of its columns by block, and of what meta.json says.

A column may have gigabytes, so it is not read whole to be checked. Each block has a checksum of its own
(4 bytes for 16,384), and a block is checked when an example first needs it.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from livecc_jax.data.index.columns import COLUMNS, NOT_IN_DIGEST, array_bytes, open_array
from livecc_jax.errors import DataError

FILE = "checksums.npy"  # uint32: CRC-32 of each block of each column, in the order of COLUMNS
FIELD = "checksums"  # of meta.json
BLOCK_BYTES = 1 << 14
MAX_BLOCK_BYTES = 1 << 24
# A user may correct in meta.json where the data lies; everything else must be as it was written.
EDITABLE = ("root", "root_from_index")


def block_checksums(data: Any, block_bytes: int = BLOCK_BYTES) -> list[int]:
    """Returns the CRC-32 of each block of some bytes, of which the last block may be shorter.

    Args:
        data: Bytes, or an object that has them as a buffer.
        block_bytes: Number of bytes of a block.
    """
    view = memoryview(data)
    return [zlib.crc32(view[i : i + block_bytes]) for i in range(0, len(view), block_bytes)]


def seal(folder: Path, meta: dict[str, Any], blocks: list[int]) -> None:
    """Writes the columns' checksums and adds to `meta` what verifies them and `meta` itself.

    Args:
        folder: Folder of the index.
        meta: The content of meta.json, complete but for this.
        blocks: Checksums of all blocks of all columns, in the order of COLUMNS.
    """
    array = np.array(blocks, np.uint32)
    with open(folder / FILE, "wb") as file:
        np.lib.format.write_array(file, array, (1, 0))
    meta[FIELD] = {"block_bytes": BLOCK_BYTES, "blocks": zlib.crc32(array.tobytes())}
    meta[FIELD]["meta"] = _meta_checksum(meta)


def _meta_checksum(meta: Mapping[str, Any]) -> int:
    """Returns the CRC-32 of what meta.json says, except for what may be edited."""
    sealed = {k: v for k, v in meta.items() if k not in EDITABLE}
    sealed[FIELD] = {k: v for k, v in meta[FIELD].items() if k != "meta"}
    return zlib.crc32(json.dumps(sealed, sort_keys=True).encode())


class BlockCheck:
    """Checks blocks of the columns of one index, each at most once.

    Args:
        folder: Folder of the index.
        columns: The columns by name.
        meta: The content of meta.json, with checksums.

    Raises:
        DataError: meta.json or the file of checksums is not as it was written.
    """

    def __init__(
        self, folder: Path, columns: Mapping[str, np.ndarray], meta: Mapping[str, Any]
    ) -> None:
        fields, self._folder = meta[FIELD], folder
        keys = ("block_bytes", "blocks", "meta")
        is_valid = isinstance(fields, dict) and all(type(fields.get(k)) is int for k in keys)
        if not is_valid or not 0 < fields["block_bytes"] <= MAX_BLOCK_BYTES:
            raise DataError(f"{folder / 'meta.json'}: its checksums are damaged")
        if _meta_checksum(meta) != fields["meta"]:
            raise DataError(
                f"{folder / 'meta.json'}: is damaged or was edited: it does not say what was written; "
                f"only {' and '.join(EDITABLE)} may be changed"
            )
        self._size: int = fields["block_bytes"]
        self._sums = open_array(folder / FILE, np.uint32)
        self._bytes = {name: array_bytes(values) for name, values in columns.items()}
        self._first: dict[str, int] = {}
        count = 0
        for name, data in self._bytes.items():
            self._first[name] = count
            count += -(-len(data) // self._size)
        if len(self._sums) != count or zlib.crc32(self._sums.tobytes()) != fields["blocks"]:
            raise DataError(f"{folder / FILE}: is damaged or belongs to another index; index again")
        self._checked = np.zeros(count, bool)

    def check(self, name: str, start: int, stop: int) -> None:
        """Checks the blocks that hold some bytes of a column.

        Args:
            name: Name of the column.
            start: First of the bytes, from the beginning of its values.
            stop: The byte after the last one.

        Raises:
            DataError: A block is not as it was written.
        """
        size, data, base = self._size, self._bytes[name], self._first[name]
        for block in range(start // size, -(-stop // size)):
            if self._checked[base + block]:
                continue
            if zlib.crc32(data[block * size : (block + 1) * size]) != self._sums[base + block]:
                raise DataError(
                    f"{self._folder / name}.npy: is damaged: bytes {block * size} to "
                    f"{min((block + 1) * size, len(data))} of its values are not those that were "
                    "written; copy the index again or make it anew"
                )
            self._checked[base + block] = True


def digest_of(settings: str, columns: Mapping[str, np.ndarray]) -> str:
    """Returns the digest that an index without checksums has in its meta.json.

    Args:
        settings: The settings that decide rows, as JSON.
        columns: The columns by name.
    """
    digest = hashlib.sha256(settings.encode())
    for name in COLUMNS:
        if name not in NOT_IN_DIGEST:
            digest.update(array_bytes(columns[name]))
    return digest.hexdigest()[:16]
