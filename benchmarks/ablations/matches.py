"""Matches in memory: played, rendered at two frames a second and commented on, by all cores at once.

Frames are rendered at the times at which a 10 FPS file of the same match is sampled, without a video
encoder, so that machines without one train on the same pictures.
"""

import multiprocessing
import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from livecc_jax.data.examples.media_files import MediaFiles
from livecc_jax.errors import MediaError
from livecc_jax.families.qwen2_vl import PATCH_VALUES
from livecc_jax.media.pixels import patchify
from livecc_jax.media.video import VideoInfo
from livecc_jax.timeline.example import Word, seconds_to_us

FILE_FRAME_US = 100_000  # a file of the world has 10 frames a second
SAMPLE_US = 500_000  # two of them a second are shown


@dataclass(frozen=True)
class MatchSpec:
    """Which match to make, and which commentaries of it.

    Attributes:
        seed: Seed of the match.
        options: How it is played, `MatchOptions` or `DrillOptions`.
        size: Height and width of frames in pixels.
        texts: Commentaries by name: (kind, style, seed); see `texts.make_text`.
    """

    seed: int
    options: object
    size: tuple
    texts: tuple


@dataclass
class StoredMatch:
    """A match with its frames.

    Attributes:
        seed: Seed of the match.
        truth: What is true of it.
        title: Title of its video.
        texts: By name: (timed words, previous commentary).
        questions: (question, options, right option, second up to which it shows the match).
        frames: uint8 [F, H, W, 3], two a second.
        patches: uint8 [F / 2, patches of a pair, 1176], the same as patches.
    """

    seed: int
    truth: object
    title: str
    texts: dict
    questions: list
    frames: np.ndarray
    patches: np.ndarray

    @property
    def path(self):
        return f"match-{self.seed}"

    @property
    def seconds(self):
        return self.truth.seconds


def make_match_data(spec):
    """Returns (StoredMatch without pictures, frames, patches)."""
    from benchmarks.ablations.texts import make_questions, make_text
    from livecc_jax.world.drill import DrillOptions, make_drill
    from livecc_jax.world.render import render
    from livecc_jax.world.rules import make_match
    from livecc_jax.world.truth import truth

    make = make_drill if isinstance(spec.options, DrillOptions) else make_match
    match = make(spec.seed, spec.options)
    true = truth(match)
    count = int(match.seconds * 1_000_000 // SAMPLE_US) // 2 * 2
    frames = render(match, np.arange(count) * (SAMPLE_US / 1e6), spec.size)
    texts = {name: make_text(match, true, *text) for name, text in spec.texts}
    questions = make_questions(match, true)
    title = true.context.title
    patches = patchify(frames)[0].reshape(count // 2, -1, PATCH_VALUES)
    none = np.zeros(0, np.uint8)
    return StoredMatch(spec.seed, true, title, texts, questions, none, none), frames, patches


def _make_chunk(args):
    folder, number, specs = args
    path = Path(folder) / f"{number:05}"
    if not path.with_suffix(".pickle").exists():
        made = [make_match_data(spec) for spec in specs]
        np.save(path.with_suffix(".frames.npy"), np.stack([frames for _, frames, _ in made]))
        np.save(path.with_suffix(".patches.npy"), np.stack([patches for *_, patches in made]))
        path.with_suffix(".pickle").write_bytes(pickle.dumps([match for match, *_ in made]))
    return number


def make_matches(specs, folder, processes=None, chunk=8):
    """Makes matches in parallel, and returns them with their frames mapped from disk.

    Matches that the folder holds already are not made again.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [
        (str(folder), i, specs[first : first + chunk])
        for i, first in enumerate(range(0, len(specs), chunk))
    ]
    processes = processes or os.cpu_count()
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        for _ in pool.imap_unordered(_make_chunk, jobs):
            pass
    matches = []
    for _, number, _ in jobs:
        path = folder / f"{number:05}"
        made = pickle.loads(path.with_suffix(".pickle").read_bytes())
        frames, patches = (
            np.load(path.with_suffix(f".{name}.npy"), mmap_mode="r") for name in ("frames", "patches")
        )
        for match, match.frames, match.patches in zip(made, frames, patches):
            matches.append(match)
    return matches


def timed_words(words):
    return tuple(Word(seconds_to_us(a), seconds_to_us(b), w) for a, b, w in words)


class StoredFiles(MediaFiles):
    """The frames of matches in memory, in the place of video files."""

    def __init__(self, matches):
        super().__init__()
        self._matches = {m.path: m for m in matches}
        self._video_infos = {m.path: _video_info(m) for m in matches}

    def with_rules(self, rules):
        return self

    def video_info(self, clip):
        if clip.path not in self._video_infos:
            raise MediaError(f"{clip.path}: is no match in memory")
        return self._video_infos[clip.path]

    def frames(self, info, indices):
        frames = self._matches[info.path].frames
        for i in indices:
            yield np.asarray(frames[i])

    def patches(self, media):
        """The patches of a slice of a match: stored ones, where its pairs are those of the match."""
        match, indices = self._matches[media.source.path], media.indices
        aligned = indices[0] % 2 == 0 and (np.diff(indices) == 1).all()
        if aligned and (media.height, media.width) == match.frames.shape[1:3]:
            return match.patches[indices[0] // 2 : indices[-1] // 2 + 1]
        return media.load_patches(self)


def _video_info(match):
    count, height, width = match.frames.shape[:3]
    pts_us = np.arange(count, dtype=np.int64) * SAMPLE_US
    return VideoInfo(match.path, pts_us, FILE_FRAME_US, width, height)
