"""Carries the files of shards to workers that share no file system with the run, and back.

The run's own folder stays where it is. For each phase its input is put into a folder that everybody
reaches, such as a bucket; a worker fetches the input of one shard into a folder of its own, runs it
there, and puts the finished file back. A shard is what is done or not on such a worker: units that it
had finished when it was lost are done again.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from livecc_jax.errors import ConfigError, LiveCCError
from livecc_jax.produce.line.phases import Phase
from livecc_jax.produce.line.shard import Job, Line
from livecc_jax.produce.line.workspace import Workspace

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Exchange:
    """A folder that the submitting machine and all workers reach.

    Attributes:
        address: Address for fsspec, such as `gs://bucket/produce`.
    """

    address: str

    def _store(self) -> tuple[Any, str]:
        import fsspec

        try:
            return fsspec.core.url_to_fs(self.address)
        except (ImportError, ValueError) as error:
            raise ConfigError(f"{self.address}: cannot be reached: {error}") from error

    def put_inputs(self, line: Line, phase: Phase, jobs: list[Job]) -> None:
        """Puts what the jobs need into the exchange. Raises LiveCCError."""
        for job in jobs:
            for path in _inputs(line, phase, job.shard):
                self._put(line.workspace.out, path)

    def get_results(self, line: Line, phase: Phase, jobs: list[Job]) -> None:
        """Fetches the finished files of jobs into the run's folder. Raises LiveCCError."""
        for job in jobs:
            self._get(line.workspace.out, line.files(phase, job.shard).finished)

    @contextmanager
    def fetched(self, line: Line, job: Job) -> Iterator[Line]:
        """Yields the run in a folder of this worker's own, with the input of one shard; puts the result
        back when the block ends without an error."""
        phase = line.phase(job.phase)
        folder = Path(tempfile.mkdtemp(prefix="livecc-produce-"))
        try:
            own = dataclasses.replace(line, workspace=Workspace(folder, line.workspace.shards))
            for path in _inputs(own, phase, job.shard):
                self._get(folder, path)
            yield own
            self._put(folder, own.files(phase, job.shard).finished)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _put(self, root: Path, path: Path) -> None:
        store, base = self._store()
        target = f"{base}/{path.relative_to(root).as_posix()}"
        try:
            store.makedirs(target.rpartition("/")[0], exist_ok=True)
            store.put_file(str(path), target)
        except Exception as error:  # each kind of store has errors of its own
            raise LiveCCError(f"{self.address}: {path.name} cannot be put there: {error}") from error

    def _get(self, root: Path, path: Path) -> None:
        store, base = self._store()
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(path.name + ".part")
        try:
            store.get_file(f"{base}/{path.relative_to(root).as_posix()}", str(unfinished))
            unfinished.replace(path)
        except Exception as error:
            raise LiveCCError(f"{self.address}: {path.name} cannot be fetched: {error}") from error


def _inputs(line: Line, phase: Phase, shard: int) -> list[Path]:
    """Returns the files that a phase reads for a shard."""
    before = line.before(phase)
    if before is None:
        return [line.workspace.sources(shard)]
    paths = [line.files(before, shard).finished]
    return [*paths, line.dropped_file(shard)] if line.takes_dropped(phase) else paths
