"""A packed row as text: which examples it holds, and how full it is."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from livecc_jax.data.examples.encode import EncodedExample
from livecc_jax.data.rows.pipeline import RowSource
from livecc_jax.data.rows.quarantine import Quarantined
from livecc_jax.data.rows.row import Row
from livecc_jax.errors import DataError
from livecc_jax.redact import displayable


@dataclass(frozen=True)
class InspectedRow:
    """A packed row with its examples.

    Attributes:
        number: Number of the row.
        row: Arrays of the row.
        segments: Number and encoding of each example, in the order of the row's segments.
        failed: Examples that could not be built.
    """

    number: int
    row: Row
    segments: list[tuple[int, EncodedExample]]
    failed: list[Quarantined]


def inspect_row(source: RowSource, number: int) -> InspectedRow:
    """Builds a row. Raises DataError when there is no such row."""
    if not 0 <= number < len(source):
        raise DataError(f"{source.index}: there is no row {number}, only 0 to {len(source) - 1}")
    row, failed = source.row(number)
    excluded = {entry.example for entry in failed} | source.quarantined
    members = [i for i in source.packing.row(number) if i not in excluded]
    mixture = source.mixture
    segments = [(i, mixture.encoded_example(i, source.template, source.files)) for i in members]
    return InspectedRow(number, row, segments, failed)


def describe_row(source: RowSource, inspected: InspectedRow) -> str:
    """Returns a table of the row's segments, and the used share of each limit of a row."""
    shape = source.shape
    lines = [
        f"row {inspected.number} of {len(source)}",
        "",
        f"{'segment':>7} {'example':>8} {'tokens':>7} {'targets':>7} {'windows':>7}  "
        f"{'positions':<15} content",
    ]
    start = windows = 0
    for segment, (number, example) in enumerate(inspected.segments, 1):
        file, line = source.mixture.location(number)
        size = f"{len(example.turns)} turns" if example.turns else f"{len(example.chat)} messages"
        windows += example.windows(shape.window)
        lines.append(
            f"{segment:>7} {number:>8} {example.tokens:>7} {example.targets:>7} "
            f"{example.windows(shape.window):>7}  {f'{start} - {start + example.tokens - 1}':<15} "
            f"{Path(displayable(file)).name} line {line}, {size}: {shortened_text(example)}"
        )
        start += example.tokens
    lines += [f"left out: {f.annotations} line {f.line}: {f.reason}" for f in inspected.failed]
    targets = int(np.count_nonzero(inspected.row["target_weights"]))
    lines += [
        "",
        f"tokens {_share(start, shape.tokens)}, windows {_share(windows, shape.windows)} "
        f"of {shape.window} patches, targets {_share(targets, shape.targets)}",
    ]
    return "\n".join(lines)


def _share(used: int, limit: int) -> str:
    return f"{used} of {limit} ({used / limit:.1%})"


def shortened_text(example: EncodedExample) -> str:
    """Returns the first words that the assistant says in an example."""
    texts = [turn.text for turn in example.turns if turn.text]
    texts += [c for turn in example.chat if turn.role == "assistant" for c in turn.content]
    return textwrap.shorten(" ".join(map(str, texts)), 50, placeholder=" ...")
