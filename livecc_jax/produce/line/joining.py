"""Joins the results of all shards into annotations and rejections, in the order of the sources."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from livecc_jax.produce.annotations import annotation_line, rejected_line, write_annotations
from livecc_jax.produce.line.listing import read_order
from livecc_jax.produce.line.phases import active_phases
from livecc_jax.produce.line.shard import Line
from livecc_jax.produce.line.statistics import Statistics
from livecc_jax.produce.line.workspace import Unit
from livecc_jax.produce.records import Clip, Rejection
from livecc_jax.writing import atomic_file

ANNOTATIONS, REJECTED = "annotations.jsonl", "rejected.jsonl"


class _ShardResults:
    """The results of one shard, source by source, read as they are needed.

    Every phase wrote its results in the order of the sources, so one reader of each phase's file is
    enough; between calls each holds one line.
    """

    def __init__(self, line: Line, shard: int, statistics: Statistics) -> None:
        phases = active_phases(line.parameters)
        self._streams = [
            _by_source(line, shard, number, number == len(phases) - 1, statistics)
            for number in range(len(phases))
        ]
        self._dropped = defaultdict(list)
        for rejection in line.dropped(shard):
            self._dropped[rejection.order].append(rejection)
        self._next: list[tuple[int, list[Clip | Rejection]] | None] = [
            next(stream, None) for stream in self._streams
        ]

    def of(self, order: int) -> tuple[list[Clip], list[Rejection]]:
        """Returns the clips and the rejections of a source, in order of time."""
        clips: list[Clip] = []
        rejections: list[Rejection] = self._dropped.pop(order, [])
        gone = {(r.order, r.index) for r in rejections}
        for number, stream in enumerate(self._streams):
            while (head := self._next[number]) is not None and head[0] == order:
                for result in head[1]:
                    if isinstance(result, Rejection):
                        rejections.append(result)
                    elif (result.order, result.index) not in gone:
                        clips.append(result)
                self._next[number] = next(stream, None)
        rejections.sort(key=_place)
        return sorted(clips, key=lambda clip: (clip.start_ms, clip.index)), rejections


def _place(rejection: Rejection) -> tuple:
    """Where a rejection stands among those of its source."""
    index = -1 if rejection.index is None else rejection.index
    return (rejection.clip or (-1, -1), index, rejection.stage, rejection.reason)


def _by_source(
    line: Line, shard: int, number: int, is_last: bool, statistics: Statistics
) -> Iterator[tuple[int, list[Clip | Rejection]]]:
    """Yields (order, results to write) of one phase for one shard; records that went on to a later
    phase are left out."""
    phase = active_phases(line.parameters)[number]
    order, results = -1, []
    for text in line.files(phase, shard).lines():
        unit = Unit.from_line(text)
        statistics.add_seconds(unit.seconds)
        for _, result in unit:
            if result.order != order:
                if results:
                    yield order, results
                order, results = result.order, []
            if is_last or isinstance(result, Rejection):
                results.append(result)
    if results:
        yield order, results


def join_results(line: Line, statistics: Statistics, folder: Path) -> None:
    """Writes annotations.jsonl and rejected.jsonl, each complete or not at all.

    Args:
        line: The run; all of its phases have finished.
        statistics: Counts what is written.
        folder: The run's output folder.

    Raises:
        OutputError: A file cannot be written.
    """
    shards = [_ShardResults(line, shard, statistics) for shard in range(line.workspace.shards)]
    with atomic_file(folder / REJECTED) as rejected:

        def clips() -> Iterator[str]:
            for order, shard in enumerate(read_order(line.workspace)):
                kept, dropped = shards[shard].of(order)
                statistics.add_source(kept, dropped)
                for rejection in dropped:
                    rejected.write(rejected_line(rejection).encode())
                for clip in kept:
                    yield annotation_line(clip, str(folder))

        write_annotations(folder / ANNOTATIONS, clips())
