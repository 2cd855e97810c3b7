"""The input pipeline: element i is packed row i, so one integer is the whole data position."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from livecc_jax.data.examples.example import ExamplePlan
from livecc_jax.data.examples.media_files import MediaFiles
from livecc_jax.data.examples.token_memo import Remembering
from livecc_jax.data.files.cache import DEFAULT_GB, FileCache
from livecc_jax.data.files.timing import measuring, part
from livecc_jax.data.rows.mixture import Mixture, chosen
from livecc_jax.data.rows.packing import PackPlan, RowShape, plan_rows
from livecc_jax.data.rows.prefetch import ahead
from livecc_jax.data.rows.quarantine import EVERY_ROW, Quarantined
from livecc_jax.data.rows.row import Row, build_row, empty_row
from livecc_jax.errors import ConfigError, ExampleError, MediaError
from livecc_jax.text.open import open_tokenizer
from livecc_jax.text.tokenizer import Tokenizer, fingerprint
from livecc_jax.timeline.chat import ChatTemplate

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """Rows of one step on this process, stacked: {field: [rows, ...]}, and what failed in them.

    spent: seconds of building them, "build" in all and by data/files/timing.py's parts; "frames" shown.
    """

    rows: Row
    failed: tuple[Quarantined, ...]
    spent: Counter = field(default_factory=Counter)


@dataclass(frozen=True)
class RowSource:
    """Builds packed row i. Cheap to copy to worker processes: what it opens, it opens there.

    Attributes:
        index: directory of the index, or a mixture of several (`parse_mixture`).
        tokenizer_path: of the model.
        tokens: T, tokens a row.
        windows: W, vision windows a row.
        targets: N, supervised tokens a row.
        positions: position mode.
        weighting: `token` or `example`.
        seed: of the packing.
        epochs: passes over the mixture; how often every example of one index comes.
        quarantined: (example, row) left out, as `Quarantine.left_out` has them.
        root: what the index's relative paths are relative to; "": what it remembers.
        cache: folder for copies of videos in buckets; "": in the user's cache folder.
        cache_gb: most that it may hold, in GB.
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

    def __getstate__(self) -> dict:
        state = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        # Planning millions of examples takes minutes: workers are given the plan.
        return state | ({"plan": self.plan} if "plan" in self.__dict__ else {})

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)

    @cached_property
    def opened(self) -> Mixture:
        """The index, or several."""
        return Mixture(self.index, self.root)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer. Raises ConfigError when the index was made with another."""
        tokenizer = open_tokenizer(self.tokenizer_path)
        if fingerprint(tokenizer) != self.opened.tokenizer:
            raise ConfigError(
                f"{self.index}: was indexed with another tokenizer than {self.tokenizer_path}; "
                "index again with --model or --tokenizer of this model"
            )
        return tokenizer

    @cached_property
    def template(self) -> ChatTemplate:
        """Of the tokenizer."""
        return ChatTemplate(Remembering(self.tokenizer))

    @cached_property
    def files(self) -> MediaFiles:
        """Where videos and images are read."""
        return MediaFiles(cache=FileCache.of(self.cache, self.cache_gb))

    @cached_property
    def shape(self) -> RowShape:
        """The shape of a row; the window is the index's budget's."""
        return RowShape(self.tokens, self.windows, self.opened.window, self.targets)

    @cached_property
    def plan(self) -> PackPlan:
        """Who is in which row."""
        index = self.opened
        sizes, shares = index.sizes, index.epochs
        whole = all(share == 1 for share in shares)
        choose = None if whole else lambda turn: chosen(sizes, shares, self.seed, turn)
        need = index.tokens, index.windows, index.targets
        return plan_rows(*need, self.shape, self.seed, self.epochs, choose)

    def __len__(self) -> int:
        return len(self.plan)

    def row(self, i: int) -> tuple[Row, list[Quarantined]]:
        """Row i, and the examples that could not be built and are masked out of it.

        Rows past the end are empty, so that the last step is a whole one.

        Raises DataError when an annotation file itself cannot be read any more.
        """
        if i >= len(self):
            return empty_row(self.shape), []
        good, failed = [], []
        for number in self.plan.row(i):
            if not self.quarantined.isdisjoint([(number, i), (number, EVERY_ROW)]):
                continue
            try:
                good.append(self._load(number))
            except (ExampleError, MediaError) as error:
                failed.append(Quarantined(number, *self.opened.where(number), str(error), i))
        with part("lay out"):
            row = build_row(good, self.shape, self.tokenizer.special, self.positions, self.weighting)
        return row, failed

    def measured(self, i: int) -> tuple[Row, list[Quarantined], Counter]:
        """As `row`, with the seconds that its parts took and the frames it shows."""
        with measuring() as spent:
            row, failed = self.row(i)
        return row, failed, spent

    def _load(self, number: int) -> tuple[ExamplePlan, list[np.ndarray]]:
        plan = self.opened.plan(number, self.template, self.files)
        return plan, [media.load(self.files) for media in plan.media]


def steps_in(source: RowSource, rows_per_step: int) -> int:
    """Steps that all rows make; the last may be filled up with empty rows."""
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
    """Batches of steps first_step, ..., steps - 1 for one process, built ahead of their use.

    The rows of a step are the same on any number of processes: micro-batch a of step k holds rows
    k R + a R/A, ... of which each process builds its share.

    Args:
        source: rows.
        first_step: the data position.
        steps: where to stop.
        rows_per_step: R, over all processes.
        accumulate: A.
        process: this one.
        processes: how many there are.
        threads: rows built at once in this process, without workers.
        workers: processes that build rows; 0 builds in threads.

    Raises:
        ConfigError: R does not divide by accumulation and processes.
        DataError: an annotation file or an index cannot be read, or workers are killed repeatedly.
    """
    micro, share = rows_per_step // accumulate, rows_per_step // accumulate // processes
    if not share or rows_per_step != share * processes * accumulate:
        raise ConfigError(
            f"data.rows_per_step {rows_per_step} does not divide by optim.accumulate {accumulate} "
            f"times {processes} processes"
        )
    local = share * accumulate

    def row_number(j: int) -> int:
        step, within = divmod(j, local)
        a, place = divmod(within, share)
        return (first_step + step) * rows_per_step + a * micro + process * share + place

    count = max(0, steps - first_step) * local
    _ = source.plan  # once here, not in each worker
    if not workers:
        _ = source.template, source.files  # once, not by each thread
    rows = ahead(lambda j: source.measured(row_number(j)), count, threads, workers)
    with contextlib.closing(rows):
        for _ in range(first_step, steps):
            built = list(itertools.islice(rows, local))
            stacked = {k: np.stack([row[k] for row, _, _ in built]) for k in built[0][0]}
            spent = sum((s for _, _, s in built), Counter())
            yield Batch(stacked, tuple(f for _, failed, _ in built for f in failed), spent)
