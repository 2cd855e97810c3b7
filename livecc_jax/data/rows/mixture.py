"""Several indexes as one: which examples a pass takes of each.

`clips` is one index; `clips,qa*2` takes each question twice a pass, `clips,qa*0.25` a quarter of them,
another quarter in the next pass; `clips@3,qa@1` takes three clips for every question until one of the
two has been taken whole.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import accumulate

import numpy as np

from livecc_jax.data.examples.example import ExamplePlan
from livecc_jax.data.examples.media_files import MediaFiles
from livecc_jax.data.index.reader import Entry, Index
from livecc_jax.errors import ConfigError
from livecc_jax.timeline.chat import ChatTemplate
from livecc_jax.timeline.example import Example

PART = re.compile(r"(?P<path>.+?)\s*(?:(?P<how>[*@])\s*(?P<share>[0-9]*\.?[0-9]+(?:e-?[0-9]+)?))?")


@dataclass(frozen=True)
class Part:
    """An index of a mixture: epochs a pass, or weight; neither means one epoch."""

    path: str
    epochs: Fraction | None = None
    weight: Fraction | None = None


def parse_mixture(text: str) -> list[Part]:
    """Read `INDEX,INDEX*EPOCHS,...` or `INDEX@WEIGHT,...`.

    Raises ConfigError when it is neither, or mixes the two.
    """
    parts = []
    for piece in text.split(","):
        found = PART.fullmatch(piece.strip())
        share = Fraction(found["share"]) if found and found["share"] else None
        if not found or (share is not None and share <= 0):
            raise ConfigError(
                f"data.index {text!r}: {piece.strip()!r} is not INDEX, INDEX*EPOCHS or INDEX@WEIGHT"
            )
        weight = found["how"] == "@"
        parts.append(Part(found["path"], *((None, share) if weight else (share, None))))
    weighted = [part.weight is not None for part in parts]
    if any(weighted) and not all(weighted):
        raise ConfigError(f"data.index {text!r}: give all indexes a weight, or none")
    return parts


class Mixture:
    """Indexes side by side, their examples numbered through.

    Args:
        text: see `parse_mixture`.
        root: what relative paths of all of them are relative to; without it what each remembers.

    Raises:
        ConfigError: they were made with different tokenizers or vision windows.
        DataError: one is no index.
    """

    def __init__(self, text: str, root: str = "") -> None:
        self.path = text
        self._parts = parse_mixture(text)
        self.indexes = [Index(part.path, root or None) for part in self._parts]
        first = self.indexes[0]
        for other in self.indexes[1:]:
            if other.tokenizer != first.tokenizer:
                raise ConfigError(f"{other.path} was indexed with another tokenizer than {first.path}")
            if other.window != first.window:
                raise ConfigError(
                    f"{other.path} was indexed at pixel budget {other.budget}, {first.path} at "
                    f"{first.budget}: they cannot share rows"
                )
        self.tokenizer, self.window, self.budget = first.tokenizer, first.window, first.budget
        self._ends = list(accumulate(map(len, self.indexes)))

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def epochs(self) -> list[Fraction]:
        """How often a pass takes each example, by index."""
        if self._parts[0].weight is None:
            return [part.epochs or Fraction(1) for part in self._parts]
        sizes = list(map(len, self.indexes))
        weights = [part.weight for part in self._parts]
        scarce = min(n / w for n, w in zip(sizes, weights))
        return [w * scarce / n for n, w in zip(sizes, weights)]

    @property
    def sizes(self) -> list[int]:
        """Examples of each index."""
        return list(map(len, self.indexes))

    @property
    def digest(self) -> str:
        """Tells apart mixtures that would give other rows."""
        if len(self.indexes) == 1 and self.epochs == [1]:
            return self.indexes[0].digest
        facts = [f"{index.digest}*{share}" for index, share in zip(self.indexes, self.epochs)]
        return hashlib.sha256(",".join(facts).encode()).hexdigest()[:16]

    def _column(self, name: str) -> np.ndarray:
        columns = [getattr(index, name) for index in self.indexes]
        return columns[0] if len(columns) == 1 else np.concatenate(columns)

    @cached_property
    def tokens(self) -> np.ndarray:
        """int32 [n]."""
        return self._column("tokens")

    @cached_property
    def targets(self) -> np.ndarray:
        """int32 [n]."""
        return self._column("targets")

    @cached_property
    def windows(self) -> np.ndarray:
        """int32 [n]."""
        return self._column("windows")

    def locate(self, i: int) -> tuple[Index, int]:
        """The index of example i, and its number there."""
        which = bisect_right(self._ends, i)
        return self.indexes[which], i - (self._ends[which - 1] if which else 0)

    def where(self, i: int) -> tuple[str, int]:
        """Annotation file and line number (from 1) of example i."""
        index, own = self.locate(i)
        return index.where(own)

    def entry(self, i: int) -> Entry:
        """What was counted of example i."""
        index, own = self.locate(i)
        return index.entry(own)

    def example(self, i: int) -> Example:
        """Example i, read from its annotation file."""
        index, own = self.locate(i)
        return index.example(own)

    def plan(self, i: int, template: ChatTemplate, files: MediaFiles) -> ExamplePlan:
        """Example i as it was planned; see `Index.plan`."""
        index, own = self.locate(i)
        return index.plan(own, template, files)


def chosen(sizes: Sequence[int], epochs: Sequence[Fraction], seed: int, turn: int) -> np.ndarray:
    """The examples of pass `turn`, int64: of each index its share.

    An index's examples come in one endless sequence of permutations, of which each pass takes the next
    stretch: none comes twice before all others have come.
    """
    taken, base = [np.zeros(0, np.int64)], 0
    for source, (size, share) in enumerate(zip(sizes, epochs)):
        if share == 1:
            taken.append(base + np.arange(size))
        else:
            first, stop = (int(share * size * t) for t in (turn, turn + 1))
            for cycle in range(first // size, -(-stop // size)):
                order = np.random.default_rng([seed, source, cycle]).permutation(size)
                span = slice(max(0, first - cycle * size), min(size, stop - cycle * size))
                taken.append(base + order[span])
        base += size
    return np.concatenate(taken)
