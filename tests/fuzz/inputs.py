"""The inputs of a reader: number N of a seed is the same on every run."""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.mutations import damage_bytes, damaged_json, draw
from tests.fuzz.reader import Reader

BLOCK = (
    40  # inputs of one file in a row; those of even numbers are drawn by hypothesis where it is JSON
)
MAX_BLOCK_BYTES = 200_000  # of a JSON file that hypothesis changes


@dataclass(frozen=True)
class Input:
    """A damaged file.

    Attributes:
        file: The file, relative to the folder of good files.
        data: Its damaged contents.
    """

    file: str
    data: bytes


class Inputs:
    """Makes the damaged files of a reader.

    Args:
        reader: The reader.
        folder: Folder of its good files.
        seed: Seed of the run.
    """

    def __init__(self, reader: Reader, folder: Path, seed: int) -> None:
        self.reader, self.folder, self.seed = reader, folder, seed
        self.good = {name: (folder / name).read_bytes() for name in reader.files(folder)}
        self._block: tuple[int, list[bytes]] = (-1, [])

    def __getitem__(self, number: int) -> Input:
        """Returns an input by its number."""
        key = f"{self.seed} {self.reader.name}"
        block, within = divmod(number, BLOCK)
        names = list(self.good)
        file = names[random.Random(f"{key} {block}").randrange(len(names))]
        if block < len(names):
            file = names[block]  # in a long run, hypothesis changes every file
        if self.reader.is_text and number % 2 == 0 and len(self.good[file]) < MAX_BLOCK_BYTES:
            if self._block[0] != block:
                strategy = damaged_json(self.good[file])
                seed = zlib.crc32(f"{key} {block}".encode())
                self._block = block, draw(strategy, seed, BLOCK // 2) if strategy is not None else []
            if within // 2 < len(self._block[1]):
                return Input(file, self._block[1][within // 2])
        rng = random.Random(f"{key} {number}")
        file = names[rng.randrange(len(names))]
        return Input(file, damage_bytes(rng, self.good[file], self.reader.is_text))
