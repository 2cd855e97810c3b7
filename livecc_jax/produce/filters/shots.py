"""Counts cuts, and drops clips that are cut too often.

A cut is where the picture changes as PySceneDetect's ContentDetector has it: the mean change of hue,
saturation and brightness from one frame to the next is at least 27 of 255.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from livecc_jax.errors import MediaError
from livecc_jax.produce.models import Models
from livecc_jax.produce.parameters import Parameters
from livecc_jax.produce.records import Clip, Rejection, reject

THRESHOLD = 27.0
SIDE = 128  # pixels of the longest side at which frames are compared
MIN_SHOT_US = 600_000  # a change that follows a cut sooner is part of it, as in a flash or a blend
MEASURE = "shots_per_minute"


def shots(clip: Clip, parameters: Parameters, models: Models | None = None) -> list[Clip | Rejection]:
    """Keeps a clip with at most so many cuts a minute.

    Args:
        clip: A clip.
        parameters: Reads `max_shots_per_minute`.
        models: Not used.

    Returns:
        The clip with `shots_per_minute` among its measures, or its rejection.
    """
    try:
        cuts = len(find_cuts(clip))
    except MediaError as error:
        return [reject(clip, "shots", "frames cannot be read", str(error))]
    rate = round(cuts * 60_000 / max(1, clip.end_ms - clip.start_ms), 3)
    if rate > parameters.max_shots_per_minute:
        return [
            reject(clip, "shots", f"more than {parameters.max_shots_per_minute:g} cuts a minute", rate)
        ]
    return [dataclasses.replace(clip, measures={**clip.measures, MEASURE: rate})]


def find_cuts(clip: Clip) -> list[int]:
    """Returns the times of a clip's cuts, in microseconds of the file. Raises MediaError."""
    import cv2

    from livecc_jax.media.video import iter_frames, probe

    info = probe(clip.video)
    first, last = np.searchsorted(info.pts_us, (clip.start_ms * 1000, clip.end_ms * 1000))
    before, cuts, latest = None, [], -MIN_SHOT_US
    for number, frame in zip(range(first, last), iter_frames(info, range(first, last))):
        scale = min(1.0, SIDE / max(frame.shape[:2]))
        size = [max(1, round(n * scale)) for n in frame.shape[1::-1]]
        small = cv2.cvtColor(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2HSV)
        small = small.astype(np.int16)
        if before is not None and np.abs(small - before).mean() >= THRESHOLD:
            time = int(info.pts_us[number])
            if time - latest >= MIN_SHOT_US:
                cuts.append(time)
            latest = time
        before = small
    return cuts
