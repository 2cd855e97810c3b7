"""Compares all clips of a run between the phases: clips that repeat an earlier one go."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator

import numpy as np

from livecc_jax.produce.filters.duplicates import find_duplicates
from livecc_jax.produce.line.listing import read_order
from livecc_jax.produce.line.phases import Phase, active_phases
from livecc_jax.produce.line.shard import DROPPED, Line
from livecc_jax.produce.line.workspace import Unit
from livecc_jax.produce.parameters import STAGE_FIELDS
from livecc_jax.produce.records import Clip, Rejection, digest, dumps, reject
from livecc_jax.writing import atomic_file, make_folder, write_text

DONE = "done"
REASONS = {"text": "says what an earlier clip says", "pictures": "shows what an earlier clip shows"}


def phase_before(line: Line) -> Phase:
    """Returns the last active phase before the comparison."""
    return [p for p in active_phases(line.parameters) if not p.after_duplicates][-1]


def compare_clips(line: Line, progress: Callable[[int], None] = lambda clips: None) -> Line:
    """Compares all clips, unless that has been done, and writes for each shard what is dropped.

    Args:
        line: The run; the phases before the comparison have finished.
        progress: Called with the number of clips that have been read, now and then.

    Returns:
        The run with the comparison's results.

    Raises:
        OutputError: The results cannot be written.
    """
    if "duplicates" not in line.parameters.filters:
        return line
    phase = phase_before(line)
    headers = [line.files(phase, shard).header() for shard in range(line.workspace.shards)]
    fields = {name: getattr(line.parameters, name) for name in STAGE_FIELDS["duplicates"]}
    compared = dataclasses.replace(line, duplicates=digest([line.digest(phase), headers, fields])[:12])
    folder = line.workspace.phase(DROPPED, compared.duplicates)
    if (folder / DONE).is_file():
        return compared
    if folder.exists():
        shutil.rmtree(folder)  # of a run that was stopped while it compared
    make_folder(folder)
    clips = _Clips(line, phase, progress)
    dropped: dict[int, list[Rejection]] = defaultdict(list)
    for duplicate in find_duplicates(clips, line.parameters, clips.read):
        found = clips.read([duplicate.clip, duplicate.earlier])
        earlier = found[duplicate.earlier]
        value = {
            "source": earlier.id,
            "clip": [earlier.start_ms / 1000, earlier.end_ms / 1000],
            "similarity": duplicate.value,
        }
        dropped[clips.shard(duplicate.clip)].append(
            reject(found[duplicate.clip], "duplicates", REASONS[duplicate.kind], value)
        )
    for shard in range(line.workspace.shards):
        with atomic_file(compared.dropped_file(shard)) as file:
            file.write(dumps([r.to_json() for r in dropped[shard]]).encode())
    write_text(folder / DONE, "")
    return compared


class _Clips:
    """All clips in source order; any of them can be read again by its number."""

    def __init__(self, line: Line, phase: Phase, progress: Callable[[int], None]) -> None:
        self._line, self._phase, self._progress = line, phase, progress
        self._shards, self._offsets, self._places = array("H"), array("Q"), array("L")
        self._unit = functools.lru_cache(maxsize=256)(self._read_unit)

    def __iter__(self) -> Iterator[Clip]:
        streams = [self._stream(shard) for shard in range(self._line.workspace.shards)]
        heads = [next(stream, None) for stream in streams]
        for order, shard in enumerate(np.asarray(read_order(self._line.workspace)).tolist()):
            while (head := heads[shard]) is not None and head[0].order == order:
                clip, offset, place = head
                self._shards.append(shard)
                self._offsets.append(offset)
                self._places.append(place)
                if len(self._shards) % 10_000 == 0:
                    self._progress(len(self._shards))
                yield clip
                heads[shard] = next(streams[shard], None)

    def _stream(self, shard: int) -> Iterator[tuple[Clip, int, int]]:
        """Yields each clip of a shard, the place of its unit in the file, and its own in the unit."""
        with open(self._line.files(self._phase, shard).finished, "rb") as file:
            offset = len(file.readline())
            for text in file:
                for place, (_, record) in enumerate(Unit.from_line(text)):
                    if isinstance(record, Clip):
                        yield record, offset, place
                offset += len(text)

    def shard(self, number: int) -> int:
        """Returns the shard of a clip."""
        return self._shards[number]

    def read(self, numbers: list[int]) -> dict[int, Clip]:
        """Returns clips by number."""
        return {n: self._unit(self._shards[n], self._offsets[n])[self._places[n]] for n in set(numbers)}

    def _read_unit(self, shard: int, offset: int) -> list[Clip | Rejection]:
        with open(self._line.files(self._phase, shard).finished, "rb") as file:
            file.seek(offset)
            return [record for _, record in Unit.from_line(file.readline())]
