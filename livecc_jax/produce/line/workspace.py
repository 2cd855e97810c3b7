"""The files of a run: shards of sources, the results of each phase, and the state of the run.

All lie in `OUT/work`. A finished shard of a phase is one file, complete or absent; until then its
finished units lie in a log beside it, one line each. A line that was cut short by a kill is dropped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from livecc_jax.bounded_json import parse_json
from livecc_jax.produce.records import Clip, Record, Rejection, Source, dumps
from livecc_jax.writing import RecordFile, atomic_file

WORK = "work"
SOURCES = "sources"
STATE = "state.json"
KINDS = {"s": Source, "c": Clip, "r": Rejection}
LETTERS = {cls: letter for letter, cls in KINDS.items()}


def hash_bytes(*parts: bytes) -> str:
    """Returns a short digest of byte strings, 24 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=12)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def shard_of(name: bytes, shards: int) -> int:
    """Returns the shard of a source, by a hash of what it is called."""
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little") % shards


def shards_for(count: int) -> int:
    """Returns how many shards so many sources are divided into: a power of two, up to 512.

    Shards are what workers take, and batches of models are formed within them. A few sources a shard
    keep many workers busy where there are few sources; where there are many, a shard has 64 or more.
    """
    shards = 1
    while shards < min(512, max(min(64, count / 8), count / 64)):
        shards *= 2
    return shards


@dataclass(frozen=True)
class Unit:
    """The result of one unit.

    Attributes:
        key: Digest of what went into it.
        records: Digest of each record that went into it, with all that it was made of.
        results: What took the place of each of these records, in order.
        seconds: Seconds that each stage took by the clock, by name, and of a processor, by the name and
            " cpu".
    """

    key: str
    records: tuple[str, ...]
    results: tuple[tuple[Record | Rejection, ...], ...]
    seconds: dict[str, float]

    def __iter__(self) -> Iterator[tuple[str, Record | Rejection]]:
        """Yields each result with the digest of the record whose place it took."""
        for key, results in zip(self.records, self.results, strict=True):
            for result in results:
                yield key, result

    def to_line(self) -> str:
        """Returns the line of a log, with its line break."""
        value = {
            "key": self.key,
            "records": self.records,
            "seconds": {name: round(s, 4) for name, s in self.seconds.items()},
            "results": [[[LETTERS[type(r)], r.to_json()] for r in part] for part in self.results],
        }
        return dumps(value) + "\n"

    @staticmethod
    def from_line(line: bytes) -> Unit:
        """Reads `to_line`. Raises ValueError, KeyError or TypeError for anything else."""
        value = parse_json(line, half_characters=True)  # of names of files
        results = tuple(
            [
                tuple([KINDS[kind].from_json(record) for kind, record in part])
                for part in value["results"]
            ]
        )
        return Unit(value["key"], tuple(value["records"]), results, value["seconds"])


def line_key(line: bytes) -> str:
    """Returns the key of a log's line without reading the rest of it."""
    prefix = b'{"key":"'
    if not line.startswith(prefix):
        raise ValueError("no key")
    return line[len(prefix) : line.index(b'"', len(prefix))].decode("ascii")


class ShardFiles:
    """The files of one phase for one shard.

    Args:
        folder: Folder of the phase.
        shard: Number of the shard.
    """

    def __init__(self, folder: Path, shard: int) -> None:
        self.finished = folder / f"{shard:05}.jsonl"
        self.log = folder / f"{shard:05}.log"

    def header(self) -> dict[str, Any] | None:
        """Returns the first line of the finished file, which says what it was made of; or None."""
        try:
            with open(self.finished, "rb") as file:
                return parse_json(file.readline())
        except (FileNotFoundError, ValueError):
            return None

    def lines(self) -> Iterator[bytes]:
        """Yields the lines of the finished file, one for each unit, without its header."""
        with open(self.finished, "rb") as file:
            file.readline()
            yield from file

    def units(self) -> Iterator[Unit]:
        """Yields the units of the finished file in order."""
        for line in self.lines():
            yield Unit.from_line(line)

    def known(self) -> dict[str, bytes]:
        """Returns the lines of all units that are done, of this input or of an earlier one, by key."""
        found: dict[str, bytes] = {}
        for path, skip in ((self.finished, 1), (self.log, 0)):
            try:
                with open(path, "rb") as file:
                    for line in list(file)[skip:]:
                        if line.endswith(b"\n"):
                            found[line_key(line)] = line
            except FileNotFoundError:
                continue
            except ValueError:  # damaged: what follows is done again
                continue
        return found

    def open_log(self) -> RecordFile:
        """Opens the log to append to, without a line that was cut short."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self.log.is_file():
            with open(self.log, "r+b") as file:
                data = file.read()
                file.truncate(data.rfind(b"\n") + 1)
        return RecordFile(self.log, append=True)

    def finish(self, inputs: str, lines: list[bytes]) -> None:
        """Writes the finished file, and removes the log."""
        with atomic_file(self.finished) as file:
            file.write(dumps({"inputs": inputs, "units": len(lines)}).encode() + b"\n")
            file.writelines(lines)
        self.log.unlink(missing_ok=True)


@dataclass(frozen=True)
class Workspace:
    """The working folder of a run.

    Attributes:
        out: The run's output folder.
        shards: Number of shards.
    """

    out: Path
    shards: int

    @property
    def root(self) -> Path:
        """The working folder."""
        return self.out / WORK

    def sources(self, shard: int) -> Path:
        """Returns the file with the sources of a shard, in their order (`listing`)."""
        return self.root / SOURCES / f"{shard:05}.jsonl"

    def phase(self, name: str, digest: str) -> Path:
        """Returns the folder of a phase."""
        return self.root / f"{name}-{digest}"

    def files(self, name: str, digest: str, shard: int) -> ShardFiles:
        """Returns the files of a phase for one shard."""
        return ShardFiles(self.phase(name, digest), shard)
