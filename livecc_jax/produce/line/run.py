"""A whole run: lists the sources, runs every phase, compares all clips, and writes the results."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import resource
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from livecc_jax.bounded_json import JsonError, parse_json
from livecc_jax.directory_lock import DirectoryLock
from livecc_jax.errors import OutputError
from livecc_jax.produce.line.comparing import compare_clips
from livecc_jax.produce.line.joining import join_results
from livecc_jax.produce.line.listing import list_into_shards
from livecc_jax.produce.line.local import LocalPool, PhaseProgress, Report
from livecc_jax.produce.line.phases import PHASES, Phase, active_phases, stages_of
from livecc_jax.produce.line.shard import DROPPED, Line
from livecc_jax.produce.line.statistics import Statistics
from livecc_jax.produce.line.workspace import SOURCES, STATE, WORK, Workspace
from livecc_jax.produce.parameters import STAGE_FIELDS, Parameters
from livecc_jax.produce.sources.entries import Entry
from livecc_jax.writing import DISK_FULL, make_folder, output_error, write_text

log = logging.getLogger(__name__)


class ProduceLock(DirectoryLock):
    """The lock of an output folder."""

    activity = ("produces data there", "give --out another folder")


class Runner(Protocol):
    """What runs a phase over all shards: `LocalPool` or `beam.BeamRunner`."""

    def run(self, line: Line, phase: Phase, report: Report) -> int:
        """Runs what is missing of a phase, and returns the number of units that were missing."""
        ...

    def close(self) -> None:
        """Ends what the runner started."""
        ...


@dataclass
class Produced:
    """What a run did.

    Attributes:
        statistics: Counts over all results.
        stages: Names of the stages that ran, in order.
        done: Units that were missing and are done now, by phase.
        wall_seconds: Seconds of this run, by phase.
        changed: What differs from the parameters of the run before, in words.
        parameters: The parameters.
        shards: Number of shards.
        out: The output folder.
    """

    statistics: Statistics
    stages: tuple[str, ...]
    done: dict[str, int] = field(default_factory=dict)
    wall_seconds: dict[str, float] = field(default_factory=dict)
    changed: tuple[str, ...] = ()
    parameters: Parameters | None = None
    shards: int = 0
    out: Path = Path()


def produce(
    entries: Iterable[Entry],
    out: str | Path,
    parameters: Parameters,
    runner: Runner | None = None,
    *,
    shards: int = 0,
    report: Report = lambda progress: None,
    say: Callable[[str], None] = log.info,
) -> Produced:
    """Makes annotations of sources, or goes on with a run that was stopped.

    Args:
        entries: The sources as `sources.listing.list_sources` names them.
        out: Folder of the results; it is created if it does not exist.
        parameters: Parameters of all stages.
        runner: Where the phases run; it is closed at the end. None is one process on this machine.
        shards: Number of shards; 0 chooses it by the number of sources.
        report: Called a few times a second with the progress.
        say: Called with sentences about what is done.

    Returns:
        What was done. `annotations.jsonl` and `rejected.jsonl` lie in the folder.

    Raises:
        ConfigError: Another process produces data in this folder.
        DataError: There is no source.
        OutputError: The disk is full, or the folder cannot be written; what is done is kept.
    """
    out, runner = Path(out), runner or LocalPool()
    make_folder(out)
    lock = ProduceLock(out)
    try:
        with _full_disk_reported(out):
            return _produce(entries, out, parameters, runner, shards, report, say)
    finally:
        runner.close()
        lock.release()


def _produce(
    entries: Iterable[Entry],
    out: Path,
    parameters: Parameters,
    runner: Runner,
    shards: int,
    report: Report,
    say: Callable[[str], None],
) -> Produced:
    _allow_open_files()
    began = time.monotonic()
    say("listing the sources")
    workspace, count = list_into_shards(out, entries, shards)
    say(f"{count:,} sources in {workspace.shards:,} shards")
    digests = tuple((phase.name, phase.digest(parameters)) for phase in active_phases(parameters))
    line = Line(workspace, parameters, digests=digests)
    changed = _changed(workspace, parameters)
    for sentence in changed:
        say(sentence)
    _write_state(workspace, parameters)
    produced = Produced(
        Statistics(), stages_of(parameters), changed=changed, parameters=parameters,
        shards=workspace.shards, out=out,
    )  # fmt: skip
    produced.wall_seconds["listing"] = time.monotonic() - began
    compared = False
    for phase in active_phases(parameters):
        if phase.after_duplicates and not compared:
            line, compared = _compare(line, produced, report), True
        phase_began = time.monotonic()
        produced.done[phase.name] = runner.run(line, phase, report)
        produced.wall_seconds[phase.name] = time.monotonic() - phase_began
    if not compared:
        line = _compare(line, produced, report)
    say("joining the results in the order of the sources")
    join_began = time.monotonic()
    join_results(line, produced.statistics, out)
    produced.wall_seconds["joining"] = time.monotonic() - join_began
    _remove_old(line)
    return produced


def _compare(line: Line, produced: Produced, report: Report) -> Line:
    began = time.monotonic()
    progress = PhaseProgress(DROPPED, (DROPPED,), 1)

    def read(clips: int) -> None:
        progress.units = clips
        report(progress)

    compared = compare_clips(line, read)
    if compared.duplicates:
        progress.finished = 1
        report(progress)
        produced.wall_seconds[DROPPED] = time.monotonic() - began
    return compared


def _changed(workspace: Workspace, parameters: Parameters) -> tuple[str, ...]:
    """Returns sentences about the parameters that differ from those of the run before."""
    try:
        before = parse_json((workspace.root / STATE).read_bytes())["parameters"]
    except (FileNotFoundError, JsonError, KeyError, TypeError):
        return ()
    now = parse_json(json.dumps(dataclasses.asdict(parameters)), half_characters=True)
    names = [name for name in now if before.get(name) != now[name]]
    if not names:
        return ()
    values = "; ".join(f"{name}: {_short(before.get(name))} -> {_short(now[name])}" for name in names)
    sentences = [f"parameters have changed since the run before in this folder ({values})"]
    fields = {field: stage for stage, fields in STAGE_FIELDS.items() for field in fields}
    stages = {fields[name] for name in names if name in fields}
    redone = [
        phase.name
        for phase in PHASES
        if phase.active(parameters)
        and not workspace.phase(phase.name, phase.digest(parameters)).exists()
    ]
    if redone:
        sentences.append(f"done again, with what follows from it: {', '.join(redone)}")
    elif stages:
        sentences.append("what there is of an earlier run with these parameters is used")
    return tuple(sentences)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _write_state(workspace: Workspace, parameters: Parameters) -> None:
    state = {"parameters": dataclasses.asdict(parameters), "shards": workspace.shards}
    write_text(workspace.root / STATE, json.dumps(state, ensure_ascii=False, indent=1) + "\n")


def _remove_old(line: Line) -> None:
    """Removes the results of phases with other parameters, which nothing refers to any more."""
    used = {SOURCES, line.workspace.phase(DROPPED, line.duplicates).name}
    used |= {
        line.workspace.phase(phase.name, phase.digest(line.parameters)).name
        for phase in active_phases(line.parameters)
    }
    names = [phase.name for phase in PHASES] + [DROPPED]
    for path in line.workspace.root.iterdir():
        if path.is_dir() and path.name not in used and path.name.rpartition("-")[0] in names:
            shutil.rmtree(path, ignore_errors=True)


def _allow_open_files() -> None:
    """Raises the number of files that may be open: joining reads all shards of all phases at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 1 << 16), hard))


@contextlib.contextmanager
def _full_disk_reported(out: Path) -> Any:
    """Turns an error of the disk into an OutputError that says how the run can be continued."""
    try:
        yield
    except (OSError, OutputError) as error:
        if isinstance(error, OSError):
            if error.filename is not None and error.errno not in DISK_FULL:
                raise
            error = output_error(out / WORK, error)
        raise OutputError(
            f"{error}; what is done is kept: make room and run the same command again"
        ) from error
