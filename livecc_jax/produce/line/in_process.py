"""The line in one process: every source through the stages that need no model, results in order."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence

from livecc_jax.produce.models import Models
from livecc_jax.produce.parameters import Parameters
from livecc_jax.produce.records import Clip, Rejection, Source

STAGES = (
    "livecc_jax.produce.stages.select:select",
    "livecc_jax.produce.stages.words:words",
    "livecc_jax.produce.stages.language:language",
    "livecc_jax.produce.stages.language:distinct",
    "livecc_jax.produce.stages.cut:cut",
)


def produce_clips(
    sources: Sequence[str], parameters: Parameters, models: Models | None = None
) -> Iterator[Clip | Rejection]:
    """Yields the clips and rejections of sources, in the order of sources and times.

    Args:
        sources: Lists, folders, videos, globs, or addresses of these.
        parameters: The parameters.
        models: Models of the stages; loaded when they are first used.

    Raises:
        DataError: A path does not exist, holds nothing, or cannot be read.
    """
    from livecc_jax.produce.sources.listing import list_sources
    from livecc_jax.produce.sources.read import read_source

    models = models or Models()
    for entry in list_sources(sources):
        yield from run_stages(read_source(entry, parameters), parameters, models)


def run_stages(
    source: Source | Rejection, parameters: Parameters, models: Models
) -> list[Clip | Rejection]:
    """Returns the clips and rejections of one source; see `produce_clips`."""
    records: list = [source]
    for name in STAGES:
        module, _, function = name.partition(":")
        stage = getattr(importlib.import_module(module), function)
        records = [
            new
            for record in records
            for new in (
                [record] if isinstance(record, Rejection) else stage(record, parameters, models)
            )
        ]
    return records
