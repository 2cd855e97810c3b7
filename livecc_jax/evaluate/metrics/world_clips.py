"""The held-out matches of a synthetic world, as clips to comment on whose truth is known."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from livecc_jax.data.annotations.records import AnnotationFile
from livecc_jax.errors import DataError, ExampleError
from livecc_jax.evaluate.metrics.fact_counts import FactClip
from livecc_jax.evaluate.metrics.references import reference_from_example
from livecc_jax.timeline.example import StreamExample, Word
from livecc_jax.timeline.turns import stream_prompt
from livecc_jax.world.truth import read_truth

log = logging.getLogger(__name__)

FIRST, SECOND = "clean.jsonl", "second.jsonl"
FOLDER = "held_out"


@dataclass(frozen=True)
class WorldClip:
    """A clip of a held-out match.

    Attributes:
        example: Its annotation.
        facts: Reference commentary, context and truth.
        second: The words of the commentator's second draw, whose score is the ceiling.
    """

    example: StreamExample
    facts: FactClip
    second: tuple[Word, ...]

    @property
    def id(self) -> str:
        """Name of the clip: that of its video, with its span."""
        return self.facts.reference.id

    @property
    def prompt(self) -> str:
        """Text of the first turn, as in training."""
        return stream_prompt(self.example.query, self.example.title, self.example.previous)


def world_annotation(data: str | Path) -> Path:
    """Returns the annotation of the held-out matches of a world.

    Args:
        data: Folder that `livecc world` wrote, its folder of held-out matches, or the annotation.

    Raises:
        DataError: There is none.
    """
    data = Path(data)
    options = (data / FOLDER / FIRST, data / FIRST, data)
    found = next((path for path in options if path.is_file()), None)
    if found is None:
        raise DataError(f"{data}: holds no {FOLDER}/{FIRST}; make a world with `livecc world`")
    return found


def read_world(data: str | Path) -> list[WorldClip]:
    """Reads the clips of the held-out matches.

    Args:
        data: As in `world_annotation`.

    Raises:
        DataError: A file cannot be read, or no clip is usable.
    """
    annotation = world_annotation(data)
    second = {reference_from_example(e).id: e.words for e in _examples(annotation.with_name(SECOND))}
    clips = []
    for example in _examples(annotation):
        reference = reference_from_example(example)
        match = Path(example.clip.path).stem
        true = read_truth(annotation.parent.parent / "truth" / f"{match}.json")
        facts = FactClip(reference, true.context, true.facts, match)
        clips.append(WorldClip(example, facts, second.get(reference.id, ())))
    if not clips:
        raise DataError(f"{annotation}: holds no clip to comment on")
    if not any(clip.second for clip in clips):
        log.warning("%s: holds no second draw, so there is no ceiling", annotation.parent)
    return clips


def _examples(path: Path) -> list[StreamExample]:
    if not path.is_file():
        return []
    file, found = AnnotationFile(path), []
    for i in range(len(file)):
        try:
            example = file[i]
        except ExampleError as error:
            log.warning("%s", error)
            continue
        if isinstance(example, StreamExample):
            found.append(example)
    return found
