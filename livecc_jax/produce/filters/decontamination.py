"""Drops clips that evaluation sets hold: the same video, a run of 13 words, or the same pictures."""

from __future__ import annotations

import numpy as np

from livecc_jax.produce.filters.evaluation_sets import (
    EvaluationSets,
    names_of,
    open_evaluation_sets,
    run_hashes,
)
from livecc_jax.produce.filters.fingerprints import plain_words
from livecc_jax.produce.filters.pictures import MEASURE as PICTURE_HASHES
from livecc_jax.produce.models import Models
from livecc_jax.produce.parameters import Parameters
from livecc_jax.produce.records import Clip, Rejection, reject

MIN_ALIKE = 0.5  # of a clip's frames that show something, in an evaluation set's videos
MIN_FRAMES = 3


def decontaminate(clip: Clip, parameters: Parameters, models: Models) -> list[Clip | Rejection]:
    """Keeps a clip that shares nothing with the evaluation sets.

    Args:
        clip: A clip; frames are compared where it has been given their hashes (`pictures`).
        parameters: Reads the fields of the stage "decontamination".
        models: Holds the evaluation sets, which are read once.
    """
    sets = evaluation_sets(parameters, models)
    if found := sorted((names_of(clip.id) | names_of(clip.video)) & sets.ids):
        return [reject(clip, "decontamination", "video of an evaluation set", found[0])]
    words = parameters.contamination_words
    hashes = np.fromiter(run_hashes(clip.text, words), np.uint64)
    shared = np.flatnonzero(np.isin(hashes, sets.runs)) if len(sets.runs) else ()
    if len(shared):
        run = plain_words(clip.text)[shared[0] : shared[0] + words]
        reason = f"shares {words} words in a row with an evaluation set"
        return [reject(clip, "decontamination", reason, " ".join(run))]
    share = share_in(clip.measures.get(PICTURE_HASHES, []), sets, parameters.max_picture_distance)
    if share >= MIN_ALIKE:
        reason = "shows frames of an evaluation set"
        return [reject(clip, "decontamination", reason, round(share, 4))]
    return [clip]


def evaluation_sets(parameters: Parameters, models: Models) -> EvaluationSets:
    """Returns the evaluation sets of a worker, which are read once. Raises DataError."""
    paths, words = parameters.evaluation_sets, parameters.contamination_words
    with_frames = parameters.duplicate_frames > 0
    return models.get(
        f"evaluation {paths} {words} {with_frames}",
        lambda: open_evaluation_sets(paths, words, with_frames),
    )


def share_in(hashes: list[str], sets: EvaluationSets, max_distance: int) -> float:
    """Returns the share of a clip's frames that are like one of the evaluation sets' frames."""
    values = [int(h, 16) for h in hashes if h]
    if len(values) < MIN_FRAMES or not len(sets.frames):
        return 0.0
    distances = [np.bitwise_count(sets.frames ^ np.uint64(v)).min() for v in values]
    return sum(d <= max_distance for d in distances) / len(values)
