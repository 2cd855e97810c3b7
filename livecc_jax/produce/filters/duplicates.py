"""Finds clips that say, or show, nearly the same as an earlier one. The first in source order stays.

Clips that share a key (a band of their text's signature, or half of a frame's hash) are candidates; a
candidate is compared exactly. Keys are sorted array by array, so memory grows by some 200 bytes a clip:
1 million clips take 0.2 GB.
"""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from livecc_jax.produce.filters.fingerprints import MEASURE as TEXT_BANDS
from livecc_jax.produce.filters.fingerprints import shingles, similarity
from livecc_jax.produce.filters.pictures import MEASURE as PICTURE_HASHES
from livecc_jax.produce.filters.pictures import distance
from livecc_jax.produce.parameters import Parameters
from livecc_jax.produce.records import Clip

MAX_EARLIER = 8  # earlier clips of one key that a clip is compared with, the first ones
MIN_ALIKE = 0.75  # of the frames that show something, so many must be alike
MIN_FRAMES = 3  # clips with fewer frames that show something are not compared by them


class Duplicate(NamedTuple):
    """A clip that repeats an earlier one.

    Attributes:
        clip: Number of the clip, from 0 in source order.
        earlier: Number of the clip that it repeats.
        kind: "text" or "pictures".
        value: Jaccard similarity of the texts, or share of frames that are alike.
    """

    clip: int
    earlier: int
    kind: str
    value: float


class KeyTable:
    """The keys of all clips, as columns of equal length. 0 means that a clip has no such key."""

    def __init__(self) -> None:
        self._rows: list[bytes] = []
        self._width = 0
        self.clips = 0

    def add(self, keys: np.ndarray) -> None:
        """Adds the next clip's keys, uint64 [n]."""
        self._width = max(self._width, len(keys))
        self._rows.append(keys.tobytes())
        self.clips += 1

    def columns(self) -> Iterator[np.ndarray]:
        """Yields each column, uint64 [clips]."""
        padded = b"".join(row.ljust(8 * self._width, b"\0") for row in self._rows)
        yield from np.frombuffer(padded, np.uint64).reshape(self.clips, self._width).T


def candidates(table: KeyTable, max_earlier: int = MAX_EARLIER) -> dict[int, list[int]]:
    """Returns, for each clip that shares a key with earlier ones, their numbers in order."""
    found: dict[int, set[int]] = defaultdict(set)
    for column in table.columns():
        order = np.argsort(column, kind="stable")  # clips of one key stay in their order
        keys = column[order]
        starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        lengths = np.diff(np.append(starts, len(keys)))
        for start, length in zip(starts[lengths > 1], lengths[lengths > 1]):
            if keys[start]:
                group = order[start : start + length]
                for place in range(1, length):
                    found[int(group[place])].update(map(int, group[: min(place, max_earlier)]))
    return {clip: sorted(earlier) for clip, earlier in found.items()}


def find_duplicates(
    clips: Iterable[Clip], parameters: Parameters, read: Callable[[list[int]], dict[int, Clip]]
) -> Iterator[Duplicate]:
    """Finds the clips that repeat an earlier one which itself repeats none.

    Args:
        clips: All clips in source order, with their fingerprints among their measures; read once.
        parameters: Reads the fields of the stage "duplicates".
        read: Returns clips by number, when they have to be compared.

    Yields:
        Duplicates in the order of their clips.
    """
    texts, frames = KeyTable(), KeyTable()
    for clip in clips:
        texts.add(np.frombuffer(base64.b64decode(clip.measures.get(TEXT_BANDS, "")), np.uint64))
        frames.add(_frame_keys(clip.measures.get(PICTURE_HASHES, [])))
    by_text, by_frames = candidates(texts), candidates(frames)
    dropped: set[int] = set()
    for number in sorted(by_text.keys() | by_frames.keys()):
        same_text = [i for i in by_text.get(number, ()) if i not in dropped]
        same_frames = [i for i in by_frames.get(number, ()) if i not in dropped]
        if not same_text and not same_frames:
            continue
        found = read([number, *same_text, *same_frames])
        duplicate = _first_duplicate(number, same_text, same_frames, found, parameters)
        if duplicate:
            dropped.add(number)
            yield duplicate


def _first_duplicate(
    number: int,
    same_text: list[int],
    same_frames: list[int],
    clips: dict[int, Clip],
    parameters: Parameters,
) -> Duplicate | None:
    own = shingles(clips[number].text, parameters.shingle_words)
    for earlier in same_text:
        value = similarity(own, shingles(clips[earlier].text, parameters.shingle_words))
        if value >= parameters.min_text_similarity:
            return Duplicate(number, earlier, "text", round(value, 4))
    for earlier in same_frames:
        value = share_alike(
            clips[number].measures[PICTURE_HASHES],
            clips[earlier].measures[PICTURE_HASHES],
            parameters.max_picture_distance,
        )
        if value >= MIN_ALIKE:
            return Duplicate(number, earlier, "pictures", round(value, 4))
    return None


def share_alike(a: list[str], b: list[str], max_distance: int) -> float:
    """Returns the share of frames, at equal places, whose hashes are alike.

    Frames that show nothing in both clips do not count; 0 where too few are left.
    """
    pairs = [(x, y) for x, y in zip(a, b) if x or y]
    if len(pairs) < MIN_FRAMES:
        return 0.0
    alike = [x and y and distance(int(x, 16), int(y, 16)) <= max_distance for x, y in pairs]
    return sum(map(bool, alike)) / len(pairs)


def _frame_keys(hashes: list[str]) -> np.ndarray:
    """Returns both halves of each hash with the number of its frame, uint64 [2 n]; 0 for no hash.

    Frames of a copy are mostly equal in one half at least; one such frame makes a candidate.
    """
    keys = []
    for place, value in enumerate(hashes):
        halves = (value[:8], value[8:]) if value else ("", "")
        keys += [
            ((2 * place + half + 1) << 32 | int(h, 16)) if h else 0 for half, h in enumerate(halves)
        ]
    return np.array(keys, np.uint64)
