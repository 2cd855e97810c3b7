"""Several indexes as one dataset: which examples of each an epoch contains.

`clips` is one index. `clips,qa*2` contains each question twice an epoch; `clips,qa*0.25` contains a
quarter of them, and another quarter in the next epoch. `clips@3,qa@1` contains three clips for every
question, until all examples of one of the two are used up.
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

from livecc_jax.data.examples.encode import EncodedExample
from livecc_jax.data.examples.media_files import MediaFiles
from livecc_jax.data.index.reader import Index, IndexRecord
from livecc_jax.errors import ConfigError
from livecc_jax.media.rules import MediaRules
from livecc_jax.timeline.chat import ChatTemplate
from livecc_jax.timeline.example import Example

PART_PATTERN = re.compile(
    r"(?P<path>.+?)\s*(?:(?P<operator>[*@])\s*(?P<share>[0-9]*\.?[0-9]+(?:e-?[0-9]+)?))?"
)
SHARE_PATTERN = re.compile(r"[0-9.]{1,40}(?:e-?[0-9]{1,2})?")  # what is no longer than a number needs
MAX_EPOCHS = 10_000  # of an index in an epoch of the mixture
MAX_INDEXES = 1000
MAX_EPOCH_EXAMPLES = 200_000_000  # of a mixture: their numbers take 1.6 GB


@dataclass(frozen=True)
class MixturePart:
    """An index of a mixture.

    Attributes:
        path: Directory of the index.
        epochs: How often an epoch of the mixture contains each example.
        weight: Relative number of examples; a mixture gives weights to all indexes or to none.
    """

    path: str
    epochs: Fraction | None = None
    weight: Fraction | None = None


def parse_mixture(text: str) -> list[MixturePart]:
    """Parses `INDEX,INDEX*EPOCHS,...` or `INDEX@WEIGHT,...`.

    Raises:
        ConfigError: The text is neither, or mixes the two.
    """
    parts = []
    items = text.split(",", MAX_INDEXES)
    if len(items) > MAX_INDEXES:
        raise ConfigError(f"data.index: names more than {MAX_INDEXES} indexes")
    for item in map(str.strip, items):
        match = PART_PATTERN.fullmatch(item)
        share = None
        if match and match["share"]:
            # Checked before it is computed: 1e999999999 would take gigabytes.
            share = Fraction(match["share"]) if SHARE_PATTERN.fullmatch(match["share"]) else -1
            if match["operator"] == "*" and share > MAX_EPOCHS:
                raise ConfigError(
                    f"data.index {text!r:.200}: {item!r:.100} is more than {MAX_EPOCHS} epochs of it"
                )
        if not match or (share is not None and share <= 0):
            raise ConfigError(
                f"data.index {text!r:.200}: {item!r:.100} is not INDEX, INDEX*EPOCHS or INDEX@WEIGHT"
            )
        is_weight = match["operator"] == "@"
        parts.append(MixturePart(match["path"], *((None, share) if is_weight else (share, None))))
    have_weight = [part.weight is not None for part in parts]
    if any(have_weight) and not all(have_weight):
        raise ConfigError(f"data.index {text!r}: give all indexes a weight, or none")
    return parts


class Mixture:
    """Several indexes with one numbering of their examples.

    Args:
        text: See `parse_mixture`.
        root: Root of relative paths of all indexes; by default the root that each of them stores.

    Raises:
        ConfigError: The indexes were made with different tokenizers or vision windows.
        DataError: A path is not an index.
    """

    def __init__(self, text: str, root: str = "") -> None:
        self.path = text
        self._parts = parse_mixture(text)
        self.indexes = [Index(part.path, root or None) for part in self._parts]
        first = self.indexes[0]
        for other in self.indexes[1:]:
            if other.tokenizer != first.tokenizer:
                raise ConfigError(f"{other.path} was indexed with another tokenizer than {first.path}")
            if other.family != first.family:
                raise ConfigError(
                    f"{other.path} was indexed for {other.family.name}, {first.path} for "
                    f"{first.family.name}: they cannot share rows"
                )
            if other.window != first.window:
                raise ConfigError(
                    f"{other.path} was indexed at pixel budget {other.budget}, {first.path} at "
                    f"{first.budget}: they cannot share rows"
                )
        self.tokenizer, self.window, self.budget = first.tokenizer, first.window, first.budget
        self.family = first.family
        self._ends = list(accumulate(map(len, self.indexes)))
        total = int(sum(share * size for share, size in zip(self.epochs, self.sizes)))
        if total > MAX_EPOCH_EXAMPLES:
            raise ConfigError(
                f"data.index {text!r:.200}: an epoch would hold {total} examples, more than "
                f"{MAX_EPOCH_EXAMPLES}; take fewer of each index and more epochs (data.epochs)"
            )

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def epochs(self) -> list[Fraction]:
        """How often an epoch contains each example, for each index."""
        if self._parts[0].weight is None:
            return [part.epochs or Fraction(1) for part in self._parts]
        sizes = list(map(len, self.indexes))
        weights = [part.weight for part in self._parts]
        scale = min(n / w for n, w in zip(sizes, weights))  # set by the index that is used up first
        return [w * scale / n for n, w in zip(sizes, weights)]

    @property
    def sizes(self) -> list[int]:
        """Number of examples of each index."""
        return list(map(len, self.indexes))

    @property
    def digest(self) -> str:
        """Digest of everything in the mixture that determines rows."""
        if len(self.indexes) == 1 and self.epochs == [1]:
            return self.indexes[0].digest
        shares = [f"{index.digest}*{share}" for index, share in zip(self.indexes, self.epochs)]
        return hashlib.sha256(",".join(shares).encode()).hexdigest()[:16]

    def _column(self, name: str) -> np.ndarray:
        columns = [getattr(index, name) for index in self.indexes]
        return columns[0] if len(columns) == 1 else np.concatenate(columns)

    @cached_property
    def tokens(self) -> np.ndarray:
        """int32 [n], number of tokens of each example."""
        return self._column("tokens")

    @cached_property
    def targets(self) -> np.ndarray:
        """int32 [n], number of supervised tokens of each example."""
        return self._column("targets")

    @cached_property
    def windows(self) -> np.ndarray:
        """int32 [n], number of vision windows of each example."""
        return self._column("windows")

    def locate(self, i: int) -> tuple[Index, int]:
        """Returns the index that holds example i, and the example's number in that index."""
        number = bisect_right(self._ends, i)
        return self.indexes[number], i - (self._ends[number - 1] if number else 0)

    def location(self, i: int) -> tuple[str, int]:
        """Returns annotation file and line number (from 1) of example i."""
        index, number = self.locate(i)
        return index.location(number)

    def media_rules(self, i: int) -> MediaRules:
        """Returns the media rules of the index that holds example i."""
        return self.locate(i)[0].rules

    def record(self, i: int) -> IndexRecord:
        """Returns the sizes of example i."""
        index, number = self.locate(i)
        return index.record(number)

    def example(self, i: int) -> Example:
        """Reads example i from its annotation file."""
        index, number = self.locate(i)
        return index.example(number)

    def encoded_example(self, i: int, template: ChatTemplate, files: MediaFiles) -> EncodedExample:
        """Returns example i as it was encoded; see `Index.encoded_example`."""
        index, number = self.locate(i)
        return index.encoded_example(number, template, files)


def epoch_examples(
    sizes: Sequence[int], epochs: Sequence[Fraction], seed: int, epoch: int
) -> np.ndarray:
    """Returns the examples of one epoch of a mixture.

    The examples of an index come from an endless sequence of permutations. Each epoch takes the next
    examples of it, so none comes twice before all others have come.

    Args:
        sizes: Number of examples of each index.
        epochs: How often an epoch contains each example, for each index.
        seed: Seed of the permutations.
        epoch: Number of the epoch.

    Returns:
        int64 [n], example numbers of the mixture.
    """
    examples, base = [np.zeros(0, np.int64)], 0
    for source, (size, share) in enumerate(zip(sizes, epochs)):
        if share == 1:
            examples.append(base + np.arange(size))
        else:
            first, stop = (int(share * size * t) for t in (epoch, epoch + 1))
            for cycle in range(first // size, -(-stop // size)):
                order = np.random.default_rng([seed, source, cycle]).permutation(size)
                span = slice(max(0, first - cycle * size), min(size, stop - cycle * size))
                examples.append(base + order[span])
        base += size
    return np.concatenate(examples)
