"""Runs one phase over one shard: the units that are missing, each logged as soon as it is done."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from livecc_jax.bounded_json import parse_json
from livecc_jax.produce.line.listing import read_shard, reject_entry
from livecc_jax.produce.line.phases import PHASES, Phase, active_phases, run_unit
from livecc_jax.produce.line.workspace import ShardFiles, Unit, Workspace, hash_bytes
from livecc_jax.produce.models import Models
from livecc_jax.produce.parameters import Parameters
from livecc_jax.produce.records import Clip, Record, Rejection, dumps, reject
from livecc_jax.produce.sources.entries import Entry

DROPPED = "duplicates"  # name of the comparison of all clips, and of its folder


class Job(NamedTuple):
    """What one worker does at a time: a phase over a shard."""

    phase: str
    shard: int


@dataclass(frozen=True)
class Line:
    """Everything that a worker has to know of a run; it can be pickled.

    Attributes:
        workspace: The working folder.
        parameters: The parameters.
        duplicates: Digest of the comparison of all clips; "" before it, or where it does not run.
        digests: (name, digest of its parameters) of each phase; without, they are computed.
    """

    workspace: Workspace
    parameters: Parameters
    duplicates: str = ""
    digests: tuple[tuple[str, str], ...] = ()

    def digest(self, phase: Phase) -> str:
        """Returns the digest of a phase's parameters, as the machine that began the run sees it: a
        worker may not see the same files."""
        return dict(self.digests).get(phase.name) or phase.digest(self.parameters)

    def phase(self, name: str) -> Phase:
        """Returns a phase by its name."""
        return next(phase for phase in PHASES if phase.name == name)

    def files(self, phase: Phase, shard: int) -> ShardFiles:
        """Returns the files of a phase for one shard."""
        return self.workspace.files(phase.name, self.digest(phase), shard)

    def before(self, phase: Phase) -> Phase | None:
        """Returns the active phase before this one; None for the first."""
        earlier = [p for p in active_phases(self.parameters) if PHASES.index(p) < PHASES.index(phase)]
        return earlier[-1] if earlier else None

    def dropped_file(self, shard: int) -> Path:
        """Returns the file that says which clips of a shard the comparison of all clips dropped."""
        return self.workspace.phase(DROPPED, self.duplicates) / f"{shard:05}.json"

    def dropped(self, shard: int) -> list[Rejection]:
        """Returns the rejections of the comparison of all clips in a shard, in order."""
        if not self.duplicates:
            return []
        value = parse_json(self.dropped_file(shard).read_bytes())
        return [Rejection.from_json(r) for r in value]

    def takes_dropped(self, phase: Phase) -> bool:
        """Whether a phase is the first after the comparison of all clips."""
        before = self.before(phase)
        return bool(self.duplicates) and phase.after_duplicates and not before.after_duplicates

    def input_digest(self, phase: Phase, shard: int) -> str:
        """Returns a digest of everything that goes into a phase for a shard.

        Raises:
            FileNotFoundError: The phase before has not finished the shard.
        """
        before = self.before(phase)
        if before is None:
            return hash_bytes(self.workspace.sources(shard).read_bytes())
        # The header of a finished file stands for its content, and costs no reading of it.
        header = self.files(before, shard).header()
        if header is None:
            raise FileNotFoundError(self.files(before, shard).finished)
        parts = [repr((self.digest(before), header)).encode()]
        if self.takes_dropped(phase):
            parts.append(self.dropped_file(shard).read_bytes())
        return hash_bytes(*parts)

    def inputs(self, phase: Phase, shard: int) -> Iterator[tuple[str, list[str], list[Record | Entry]]]:
        """Yields (key of the unit, keys of its records, its records) of a phase for a shard, in
        order.
        """
        records = self._records(phase, shard)
        while batch := list(itertools.islice(records, phase.batch)):
            keys = [key for key, _ in batch]
            key = keys[0] if phase.batch == 1 else hash_bytes(*[k.encode() for k in keys])
            yield key, keys, [record for _, record in batch]

    def _records(self, phase: Phase, shard: int) -> Iterator[tuple[str, Record | Entry]]:
        before = self.before(phase)
        if before is None:
            yield from read_shard(self.workspace, shard)
            return
        gone = set()
        if self.takes_dropped(phase):
            gone = {(r.order, r.index) for r in self.dropped(shard)}
        for line in self.files(before, shard).lines():
            for key, record in Unit.from_line(line):
                if isinstance(record, Rejection) or (record.order, _index(record)) in gone:
                    continue
                # By content: a clip that other parameters leave as it is need not be judged again.
                yield hash_bytes(key.encode(), dumps(record.to_json()).encode()), record


def _index(record: Record) -> int | None:
    return record.index if isinstance(record, Clip) else None


def is_finished(line: Line, job: Job) -> bool:
    """Whether a phase has finished a shard, with the input that it has now."""
    phase = line.phase(job.phase)
    header = line.files(phase, job.shard).header()
    return header is not None and header.get("inputs") == line.input_digest(phase, job.shard)


@dataclass
class Watched:
    """What a worker tells the process that watches it, while it runs a shard.

    Attributes:
        begin: Called before each unit with its number in the shard and its stage.
        done: Called with the number of units that are done.
    """

    begin: Callable[[int, str], None] = lambda unit, stage: None
    done: Callable[[int], None] = lambda count: None


def run_shard(line: Line, job: Job, models: Models, watched: Watched | None = None) -> int:
    """Runs a phase over one shard.

    Args:
        line: The run.
        job: The phase and the shard.
        models: Models of this worker.
        watched: Who is told of the progress.

    Returns:
        The number of units that were missing.

    Raises:
        LiveCCError: Something is wrong with the run, such as a full disk.
    """
    watched = watched or Watched()
    phase = line.phase(job.phase)
    files = line.files(phase, job.shard)
    inputs = line.input_digest(phase, job.shard)
    known, lines, missing = files.known(), [], 0
    with files.open_log() as log:
        for number, (key, keys, records) in enumerate(line.inputs(phase, job.shard)):
            text = known.get(key)
            if text is None:
                missing += 1
                results, seconds = run_unit(
                    phase, records, line.parameters, models,
                    lambda stage, number=number: watched.begin(number, stage),
                )  # fmt: skip
                unit = Unit(key, tuple(keys), tuple(map(tuple, results)), seconds)
                text = unit.to_line().encode()
                log.write(text)
            lines.append(text)
            watched.done(number + 1)
    files.finish(inputs, lines)
    return missing


def reject_unit(line: Line, job: Job, number: int, stage: str, reason: str) -> None:
    """Logs a unit as rejected: it ended its worker, or had to be ended.

    Args:
        line: The run.
        job: The phase and the shard.
        number: The unit's number in the shard.
        stage: Name of the stage that did not end.
        reason: Why the unit is rejected.
    """
    phase = line.phase(job.phase)
    key, keys, records = next(itertools.islice(line.inputs(phase, job.shard), number, None))
    files = line.files(phase, job.shard)
    if key in files.known():  # it was finished just before its worker was ended
        return
    with files.open_log() as log:
        first = line.before(phase) is None
        results = tuple([((reject_entry if first else reject)(r, stage, reason),) for r in records])
        log.write(Unit(key, tuple(keys), results, {}).to_line())
