"""Runs the phases of a line on Apache Beam: the same shards and functions as on one machine.

Beam hands out shards and takes back counts; the results of each unit lie in the run's folder, which all
workers must share. So nothing depends on what a runner keeps, groups or repeats: a bundle that is
repeated finds its units done.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from livecc_jax.errors import ConfigError, LiveCCError
from livecc_jax.produce.line.exchange import Exchange
from livecc_jax.produce.line.limits import Limits
from livecc_jax.produce.line.local import PhaseProgress, Report, missing_jobs
from livecc_jax.produce.line.phases import Phase
from livecc_jax.produce.line.shard import Job, Line
from livecc_jax.produce.line.worker import Worker, run_jobs
from livecc_jax.produce.line.workspace import Workspace

log = logging.getLogger(__name__)

LOCAL = "FnApiRunner"
# Runners that lose results or fetch programs: what they do instead is in docs/produce.md.
REFUSED = {
    "DirectRunner": "it downloads a program from the network first; name FnApiRunner",
    "DaskRunner": "it loses results of pipelines with several outputs",
}


def _import_beam() -> Any:
    try:
        import apache_beam
    except ImportError as error:
        raise ConfigError("--runner needs Apache Beam: pip install 'livecc_jax[produce]'") from error
    return apache_beam


@dataclass(frozen=True)
class BeamRunner:
    """Runs phases as Beam pipelines.

    Attributes:
        runner: Name of Beam's runner.
        options: Options of Beam, NAME=VALUE or NAME.
        workers: Processes of FnApiRunner; a cluster has options of its own for that.
        limits: What a unit may take.
        exchange: Address of a folder through which files go to workers that share no file system with
            this machine, such as `gs://bucket/produce`; "" where they share it.
    """

    runner: str = LOCAL
    options: tuple[str, ...] = ()
    workers: int = 1
    limits: Limits = field(default_factory=Limits)
    exchange: str = ""

    def __post_init__(self) -> None:
        """Raises ConfigError for a runner that cannot be used, or where Beam is not installed."""
        if self.runner in REFUSED:
            raise ConfigError(f"--runner {self.runner} is not offered: {REFUSED[self.runner]}")
        _import_beam()

    def close(self) -> None:
        """Ends nothing: each phase is a pipeline that ends by itself."""

    def run(self, line: Line, phase: Phase, report: Report) -> int:
        """Runs a phase over all shards that are missing, and returns the number of units done.

        Raises:
            LiveCCError: The pipeline failed, or something is wrong with the run.
        """
        beam = _import_beam()
        jobs, shards = missing_jobs(line, phase), line.workspace.shards
        progress = PhaseProgress(
            phase.name, phase.active(line.parameters), shards, finished=shards - len(jobs)
        )
        report(progress)
        if jobs:
            # Workers may run in another folder.
            out = Path(line.workspace.out).absolute()
            shared = dataclasses.replace(line, workspace=Workspace(out, shards))
            exchange = Exchange(self.exchange) if self.exchange else None
            if exchange:
                exchange.put_inputs(shared, phase, jobs)
            try:
                with beam.Pipeline(options=self._pipeline_options()) as pipeline:
                    _ = (
                        pipeline
                        | beam.Create([tuple(job) for job in jobs])
                        | beam.Reshuffle()
                        | beam.ParDo(_run_shard_fn(shared, self.limits, exchange))
                    )
            except LiveCCError as error:  # of this process; Beam adds where it was running
                raise LiveCCError(re.sub(r" \[while running .*", "", str(error))) from error
            except Exception as error:  # Beam raises what failed with a trace of the worker as text
                raise LiveCCError(
                    f"{line.workspace.out}: the Beam pipeline of phase {phase.name} failed: "
                    f"{_cause(error)}"
                ) from error
            if exchange:
                exchange.get_results(shared, phase, jobs)
        left = missing_jobs(line, phase)
        if left:
            raise LiveCCError(
                f"{line.workspace.out}: {len(left)} shards of phase {phase.name} are not there, though "
                "the pipeline has ended; do all workers share this folder?"
            )
        progress.finished = shards
        progress.units = sum(line.files(phase, job.shard).header()["units"] for job in jobs)
        report(progress)
        return progress.units

    def _pipeline_options(self) -> Any:
        from apache_beam.options.pipeline_options import PipelineOptions

        flags = [f"--runner={self.runner}", *(f"--{option.lstrip('-')}" for option in self.options)]
        if self.runner == LOCAL and not any("direct_num_workers" in o for o in self.options):
            flags.append(f"--direct_num_workers={self.workers}")
            if self.workers > 1:
                flags.append("--direct_running_mode=multi_processing")
        return PipelineOptions(flags)


def _run_shard_fn(line: Line, limits: Limits, exchange: Exchange | None) -> Any:
    """Returns the DoFn that runs a shard in a watched child process."""
    beam = _import_beam()

    class RunShard(beam.DoFn):
        """Keeps its child, and with it the models, from shard to shard."""

        def setup(self) -> None:
            self._worker = Worker(limits)

        def process(self, element: tuple[str, int]) -> Iterator[tuple[int, int]]:
            job = Job(*element)
            with exchange.fetched(line, job) if exchange else nullcontext(line) as own:
                for _, count in run_jobs(own, [job], [self._worker]):
                    yield job.shard, count

        def teardown(self) -> None:
            self._worker.close()

    return RunShard()


def _cause(error: Exception) -> str:
    """Returns the last line that says something of an error whose message is a whole trace."""
    lines = [part.strip() for part in str(error).splitlines() if part.strip()]
    said = [part for part in lines if "Error" in part and "File " not in part]
    return (said or lines or [type(error).__name__])[-1][:300]
