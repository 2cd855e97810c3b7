"""The input pipeline: row i can be built from i alone, so one integer is the whole data position."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from livecc_jax.data.examples.caching_tokenizer import CachingTokenizer
from livecc_jax.data.examples.encode import EncodedExample
from livecc_jax.data.examples.media_files import MediaFiles
from livecc_jax.data.examples.media_slice import load_patches
from livecc_jax.data.files.cache import DEFAULT_GB, FileCache
from livecc_jax.data.files.media_root import MediaRoot
from livecc_jax.data.files.timing import collect_timings, timed_section
from livecc_jax.data.rows.mixture import Mixture, epoch_examples
from livecc_jax.data.rows.packing import Packing, RowShape, pack_rows
from livecc_jax.data.rows.prefetch import prefetch
from livecc_jax.data.rows.quarantine import EVERY_ROW, Quarantined
from livecc_jax.data.rows.row import Row, build_row, empty_row
from livecc_jax.errors import ConfigError, ExampleError, MediaError
from livecc_jax.redact import displayable
from livecc_jax.text.open import open_tokenizer
from livecc_jax.text.tokenizer import Tokenizer, fingerprint
from livecc_jax.timeline.chat import ChatTemplate

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """The rows of one step on this process.

    Attributes:
        rows: Arrays [rows, ...] by field.
        failed: Examples that could not be built.
        timings: Seconds that building the rows took, under "build" and by section of
            `data/files/timing.py`, and the number of frames under "frames".
    """

    rows: Row
    failed: tuple[Quarantined, ...]
    timings: Counter = field(default_factory=Counter)


@dataclass(frozen=True)
class RowSource:
    """Builds packed row i.

    A copy in a worker process opens its files there, so copies are cheap.

    Attributes:
        index: Directory of the index, or a mixture of several (`parse_mixture`).
        tokenizer_path: Path of the tokenizer.
        tokens: Tokens of a row, T.
        windows: Vision windows of a row, W.
        targets: Supervised tokens of a row, N.
        positions: Position mode.
        weighting: One of WEIGHTINGS.
        seed: Seed of the packing.
        epochs: Number of epochs of the mixture.
        quarantined: Pairs (example, row) that are left out; see `Quarantine.excluded`.
        root: Root of the index's relative paths; "" takes the root that the index stores.
        cache: Folder for copies of videos in buckets; "" takes one in the user's cache folder.
        cache_gb: Size of that folder in GB at most.
        media_root: Folder that files must lie in; "" confines nothing. See `MediaRoot`.
        allow_hosts: Hosts that may be reached although they are not public.
        pair_positions: Temporal positions from a frame pair to the next, as the model has them; None is
            that of the family of the index.
    """

    index: str
    tokenizer_path: str
    tokens: int
    windows: int
    targets: int
    positions: str
    weighting: str
    seed: int
    epochs: int
    quarantined: frozenset[tuple[int, int]] = field(default=frozenset(), repr=False)
    root: str = ""
    cache: str = ""
    cache_gb: float = DEFAULT_GB
    media_root: str = ""
    allow_hosts: tuple[str, ...] = ()
    pair_positions: int | None = None

    def __getstate__(self) -> dict:
        state = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        # Packing millions of examples takes minutes, so workers receive the finished packing.
        return state | ({"packing": self.packing} if "packing" in self.__dict__ else {})

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)

    @functools.cached_property
    def mixture(self) -> Mixture:
        """The opened index, or several indexes."""
        return Mixture(self.index, self.root)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer. Raises ConfigError when the index was made with another."""
        tokenizer = open_tokenizer(self.tokenizer_path)
        if fingerprint(tokenizer) != self.mixture.tokenizer:
            raise ConfigError(
                f"{self.index}: was indexed with another tokenizer than {self.tokenizer_path}; "
                "index again with --model or --tokenizer of this model"
            )
        return tokenizer

    @functools.cached_property
    def template(self) -> ChatTemplate:
        """Chat template over the tokenizer."""
        return ChatTemplate(CachingTokenizer(self.tokenizer), self.mixture.family)

    @functools.cached_property
    def files(self) -> MediaFiles:
        """Reads videos and images."""
        media_root = MediaRoot.of(self.media_root, self.allow_hosts)
        if media_root is not None:
            media_root = media_root.with_datasets(
                path for index in self.mixture.indexes for path in index.annotation_paths
            )
        cache = FileCache.from_gigabytes(self.cache, self.cache_gb)
        return MediaFiles(cache=cache, media_root=media_root)

    @functools.cached_property
    def shape(self) -> RowShape:
        """Limits of a row; the pixel budget of the index sets the size of a vision window."""
        patch = self.mixture.family.patches.size
        return RowShape(self.tokens, self.windows, self.mixture.window, self.targets, patch)

    @functools.cached_property
    def packing(self) -> Packing:
        """Which examples share a row."""
        index = self.mixture
        sizes, shares = index.sizes, index.epochs
        choose = None
        if any(share != 1 for share in shares):
            choose = functools.partial(epoch_examples, sizes, shares, self.seed)
        example_sizes = index.tokens, index.windows, index.targets
        return pack_rows(*example_sizes, self.shape, self.seed, self.epochs, choose)

    def __len__(self) -> int:
        return len(self.packing)

    def row(self, i: int) -> tuple[Row, list[Quarantined]]:
        """Builds row i.

        Rows past the end are empty, so that the last step has as many rows as any other.

        Returns:
            The row, and the examples that could not be built and are missing from it.

        Raises:
            DataError: An annotation file or the index cannot be read any more.
        """
        if i >= len(self):
            return empty_row(self.shape), []
        examples, failed = [], []
        for number in self.packing.row(i):
            if not self.quarantined.isdisjoint([(number, i), (number, EVERY_ROW)]):
                continue
            try:
                examples.append(self._load(number))
            except (ExampleError, MediaError) as error:
                file, line = self.mixture.location(number)
                failed.append(Quarantined(number, displayable(file), line, str(error), i))
        with timed_section("fill row"):
            row = build_row(
                examples,
                self.shape,
                self.tokenizer.special,
                self.positions,
                self.weighting,
                self.mixture.family,
                self.pair_positions,
            )
        return row, failed

    def timed_row(self, i: int) -> tuple[Row, list[Quarantined], Counter]:
        """Builds row i as `row` does, and returns its timings too; see `Batch.timings`."""
        with collect_timings() as timings:
            row, failed = self.row(i)
        return row, failed, timings

    def _load(self, number: int) -> tuple[EncodedExample, list[np.ndarray]]:
        """Returns an example and the patches of its media."""
        example = self.mixture.encoded_example(number, self.template, self.files)
        files = self.files.with_rules(self.mixture.media_rules(number))
        return example, [load_patches(media, files) for media in example.media]


def count_steps(source: RowSource, rows_per_step: int) -> int:
    """Returns the number of steps that all rows make; empty rows complete the last step."""
    return -(-len(source) // rows_per_step)


def batches(
    source: RowSource,
    *,
    first_step: int,
    steps: int,
    rows_per_step: int,
    accumulate: int,
    process: int = 0,
    processes: int = 1,
    threads: int = 8,
    workers: int = 0,
) -> Iterator[Batch]:
    """Yields batches of steps first_step, ..., steps - 1 for one process, built ahead of their use.

    The rows of a step are the same for any number of processes: micro-batch a of step k consists of
    rows k R + a R/A, ..., of which each process builds its share.

    Args:
        source: Builds the rows.
        first_step: The first step, which is the data position.
        steps: The step before which to stop.
        rows_per_step: Rows of a step over all processes, R.
        accumulate: Micro-batches of a step, A.
        process: Number of this process.
        processes: Number of processes.
        threads: Rows that are built in parallel in this process, when there are no workers.
        workers: Number of worker processes that build rows; 0 builds in threads.

    Raises:
        ConfigError: R is not divisible by A times the number of processes.
        DataError: An annotation file or an index cannot be read, or workers are killed repeatedly.
    """
    micro_rows = rows_per_step // accumulate
    share = micro_rows // processes
    if not share or rows_per_step != share * processes * accumulate:
        raise ConfigError(
            f"data.rows_per_step {rows_per_step} does not divide by optim.accumulate {accumulate} "
            f"times {processes} processes"
        )
    local_rows = share * accumulate

    def row_number(j: int) -> int:
        """Returns the number of the j-th row that this process builds."""
        step, i = divmod(j, local_rows)
        a, k = divmod(i, share)
        return (first_step + step) * rows_per_step + a * micro_rows + process * share + k

    count = max(0, steps - first_step) * local_rows
    _ = source.packing  # computed once here and not in each worker
    if not workers:
        _ = source.template, source.files  # made once here and not by each thread
    rows = prefetch(lambda j: source.timed_row(row_number(j)), count, threads, workers)
    with contextlib.closing(rows):
        for _ in range(first_step, steps):
            built = list(itertools.islice(rows, local_rows))
            stacked = {k: np.stack([row[k] for row, _, _ in built]) for k in built[0][0]}
            failed = tuple(f for _, row_failed, _ in built for f in row_failed)
            yield Batch(stacked, failed, sum((timings for _, _, timings in built), Counter()))
