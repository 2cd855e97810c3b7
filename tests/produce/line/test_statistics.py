"""Distributions hold what stages measured of clips that were dropped, each under its own name."""

import dataclasses
import math

from livecc_jax.produce.filters.faces import _within
from livecc_jax.produce.filters.text import _decide
from livecc_jax.produce.line.statistics import EDGES, Statistics
from livecc_jax.produce.parameters import PRETRAIN
from livecc_jax.produce.records import Clip, Rejection, Word, reject


def test_measures_of_dropped_clips_are_in_their_own_distribution():
    clip = Clip(0, 0, "v", "v.mp4", 0, 1000, tuple(Word(i, i, "w") for i in range(900)))
    results = [
        _within(clip, "talking_head", 0.75, 0.3, below=True),
        _within(clip, "face_share", 0.2, 0.05),
        _within(clip, "face_share", math.nan, 0.05),
        _decide(clip, 6.75, PRETRAIN),
        _decide(clip, 1.25, PRETRAIN),
        _decide(clip, None, PRETRAIN),  # its value is a number of words, no loss
    ]
    assert all(isinstance(result, Rejection) for result in results)
    statistics = Statistics()
    statistics.add_source([dataclasses.replace(clip, measures={"text_loss": 3.0})], results)
    counted = {
        name: [edge for edge, count in zip(EDGES[name], counts) for _ in range(count)]
        for name, counts in statistics.histograms.items()
    }
    assert counted["talking_head"] == [0.75]
    assert counted["face_share"] == [0.2]
    assert counted["text_loss"] == [1, 3, 6.5]


def test_hours_are_those_of_the_words_whichever_stage_dropped_a_clip():
    """A window may show an hour of silence after the words."""
    words = (Word(0, 400, "a"), Word(35_600, 36_000, "b"))
    clips = [Clip(i, 0, "v", "v.mp4", 0, 3_600_000, words) for i in range(3)]
    statistics = Statistics()
    for clip, stage in zip(clips, ("duplicates", "text", "")):
        statistics.add_source([] if stage else [clip], [reject(clip, stage, "x")] if stage else [])
    rows = [row for row in statistics.funnel(["cut", "duplicates", "text"]) if row["unit"] == "clips"]
    assert [(row["after"], row["hours_after"]) for row in rows] == [(3, 0.03), (2, 0.02), (1, 0.01)]
