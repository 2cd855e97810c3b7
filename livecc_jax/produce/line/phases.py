"""The phases of the line: which stages run together, over what units, and when their results are
old.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from livecc_jax.errors import LiveCCError
from livecc_jax.produce.line.identity import file_identities
from livecc_jax.produce.line.listing import reject_entry
from livecc_jax.produce.models import Models
from livecc_jax.produce.parameters import (
    STAGE_FIELDS,
    STAGE_FILTERS,
    STAGE_VERSIONS,
    Parameters,
    stage_digest,
)
from livecc_jax.produce.records import SCHEMA, Clip, Record, Rejection, Source, digest, reject
from livecc_jax.produce.sources.entries import Entry

log = logging.getLogger(__name__)

Stage = Callable[[Record, Parameters, Models], list[Record | Rejection]]
BatchStage = Callable[[Sequence[Record], Parameters, Models], list[list[Record | Rejection]]]
CPU = " cpu"  # behind a stage's name: seconds of a processor, rather than by the clock
RECORDS = (Source, Clip, Rejection)
# Called as each stage begins, with its name, so that a unit that never ends is known by its stage.
Progress = Callable[[str], None]

# Where each stage is; it is imported by the worker that runs it.
STAGES: dict[str, str] = {
    "source": "livecc_jax.produce.sources.read:read_source",
    "select": "livecc_jax.produce.stages.select:select",
    "words": "livecc_jax.produce.stages.words:words",
    "language": "livecc_jax.produce.stages.language:language",
    "distinct": "livecc_jax.produce.stages.language:distinct",
    "cut": "livecc_jax.produce.stages.cut:cut",
    "fingerprints": "livecc_jax.produce.filters.fingerprints:fingerprints",
    "pictures": "livecc_jax.produce.filters.pictures:pictures",
    "decontamination": "livecc_jax.produce.filters.decontamination:decontaminate",
    "text": "livecc_jax.produce.filters.text:text_batch",
    "faces": "livecc_jax.produce.filters.faces:faces",
    "shots": "livecc_jax.produce.filters.shots:shots",
    "prompts": "livecc_jax.produce.filters.prompts:prompts_batch",
}
# Parts of the stage "duplicates" that look at one clip, with the fields that they read. The comparison
# of all clips lies between the phases (`run`).
PARTS = {
    "fingerprints": ("shingle_words", "minhash_permutations"),
    "pictures": ("duplicate_frames",),
}


@dataclass(frozen=True)
class Phase:
    """Stages that run together over one unit after another.

    Attributes:
        name: Name of the phase, and of its folder.
        stages: Names of its stages in order, of STAGES.
        batch: Records of a unit; more than 1 for a model that takes batches, which are formed within a
            shard.
        after_duplicates: Whether its records are what the comparison of all clips has left.
    """

    name: str
    stages: tuple[str, ...]
    batch: int = 1
    after_duplicates: bool = False

    def active(self, parameters: Parameters) -> tuple[str, ...]:
        """Returns the names of its stages that these parameters switch on."""
        return tuple(name for name in self.stages if runs(name, parameters))

    def digest(self, parameters: Parameters) -> str:
        """Returns a digest of what decides its results, given what goes in."""
        values = []
        for name in self.active(parameters):
            if name in PARTS:
                fields = {field: getattr(parameters, field) for field in PARTS[name]}
                values.append([SCHEMA, name, STAGE_VERSIONS["duplicates"], fields])
            elif name == "source":
                values.append([SCHEMA, name, parameters.caption_language])
            else:
                values.append([stage_digest(parameters, name), *file_identities(name, parameters)])
        return digest([self.batch, *values])[:12]


PHASES = (
    Phase("words", ("source", "select", "words")),
    Phase("clips", ("language", "distinct", "cut", "fingerprints")),
    Phase("pictures", ("pictures",)),
    Phase("decontamination", ("decontamination",), after_duplicates=True),
    Phase("text", ("text",), batch=32, after_duplicates=True),
    Phase("faces", ("faces",), after_duplicates=True),
    Phase("shots", ("shots",), after_duplicates=True),
    Phase("prompts", ("prompts",), batch=16, after_duplicates=True),
)
MEDIA_READ = ("duplicates", "text", "faces", "shots", "prompts")  # stages after which a video is known
ALWAYS = ("source", "select", "words", "cut")
# What a stage needs besides its filter.
NEEDS = {
    "pictures": "duplicate_frames",
    "decontamination": "evaluation_sets",
    "text": "text_model",
    "faces": "face_model",
    "shots": "max_shots_per_minute",
    "prompts": "prompt_model",
}


def runs(stage: str, parameters: Parameters) -> bool:
    """Whether a stage runs: its filter is on, and the model that it needs is named."""
    filters = ("duplicates",) if stage in PARTS else STAGE_FILTERS.get(stage, (stage,))
    if stage not in ALWAYS and not any(name in parameters.filters for name in filters):
        return False
    return stage not in NEEDS or bool(getattr(parameters, NEEDS[stage]))


def active_phases(parameters: Parameters) -> tuple[Phase, ...]:
    """Returns the phases of which a stage runs, in order."""
    return tuple(phase for phase in PHASES if phase.active(parameters))


def stages_of(parameters: Parameters) -> tuple[str, ...]:
    """Returns the names of all stages that run, as rejections and reports name them, in order."""
    names = [name for phase in active_phases(parameters) for name in phase.active(parameters)]
    active = set(names) | ({"duplicates"} if "duplicates" in parameters.filters else set())
    return tuple(name for name in ("source", *STAGE_FIELDS) if name in active)


def load_stage(name: str) -> Stage | BatchStage:
    """Imports a stage."""
    module, _, function = STAGES[name].partition(":")
    return getattr(importlib.import_module(module), function)


def run_unit(
    phase: Phase,
    records: Sequence[Record | Entry],
    parameters: Parameters,
    models: Models,
    progress: Progress = lambda stage: None,
) -> tuple[list[list[Record | Rejection]], dict[str, float]]:
    """Runs the stages of a phase over one unit.

    Args:
        phase: The phase.
        records: The records of the unit; in the first phase, an entry of the listing.
        parameters: The parameters.
        models: Models of this worker.
        progress: Called as each stage begins, with its name.

    Returns:
        What takes the place of each record, in order; seconds that each stage took, by
        the clock and of a processor.

    Raises:
        LiveCCError: Something is wrong with the run, not with a record.
    """
    results: list[list[Record | Rejection]] = [[record] for record in records]
    seconds: dict[str, float] = {}
    for name in phase.active(parameters):
        progress(public_name(name))
        began, cpu_began = time.perf_counter(), time.process_time()
        kept = [r for part in results for r in part if not isinstance(r, Rejection)]
        if phase.batch > 1:
            replaced = _run_batch(name, kept, parameters, models) if kept else []
        else:
            replaced = [_run_one(name, record, parameters, models) for record in kept]
        following = iter(replaced)
        results = [
            [new for r in part for new in ([r] if isinstance(r, Rejection) else next(following))]
            for part in results
        ]
        seconds[name] = time.perf_counter() - began
        seconds[name + CPU] = time.process_time() - cpu_began
    return results, seconds


def _run_one(
    name: str, record: Record | Entry, parameters: Parameters, models: Models
) -> list[Record | Rejection]:
    try:
        if name == "source":
            return [load_stage(name)(record, parameters)]
        return _checked(name, record, load_stage(name)(record, parameters, models))
    except (LiveCCError, OSError):
        raise
    except MemoryError:
        return [_reject(record, public_name(name), "needs more memory than a worker may have")]
    except Exception as error:  # of a plug-in, or ours: one record is no reason to lose a run
        return [failed(name, record, error)]


def _run_batch(
    name: str, records: Sequence[Record], parameters: Parameters, models: Models
) -> list[list[Record | Rejection]]:
    try:
        replaced = load_stage(name)(records, parameters, models)
        return [_checked(name, record, new) for record, new in zip(records, replaced, strict=True)]
    except (LiveCCError, OSError):
        raise
    except Exception as error:
        return [[failed(name, record, error)] for record in records]


def _checked(name: str, record: Record, new: list[Record | Rejection]) -> list[Record | Rejection]:
    """Returns what a stage gave, if it is what a stage may give: a plug-in may give anything."""
    if (
        not isinstance(new, list)
        or not new
        or not all(isinstance(r, Source | Clip | Rejection) for r in new)
    ):
        raise TypeError("it returned something else than a list of records and rejections")
    return new


def failed(name: str, record: Record | Entry, error: Exception) -> Rejection:
    """Returns the rejection of a record in which a stage raised."""
    log.warning(
        "%s: the stage %s failed: %s: %s",
        _reject(record, "", "").video,
        name,
        type(error).__name__,
        error,
    )
    said = f"{type(error).__name__}: {error}"
    return _reject(record, public_name(name), "the stage failed", said[:200])


def _reject(record: Record | Entry, stage: str, reason: str, value: object = None) -> Rejection:
    return (reject if isinstance(record, Source | Clip) else reject_entry)(record, stage, reason, value)


def public_name(stage: str) -> str:
    """Returns the name of a stage as rejections and reports have it."""
    return "duplicates" if stage in PARTS else stage
