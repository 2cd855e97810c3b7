"""Whether two checkpoints hold the same weights, and whether two runs of them hold the same values.

Weights are compared under HuggingFace's names, through the one table that conversion uses, a tensor at
a time: neither model is ever in memory (of an Orbax run, which stores a parameter's layers as one
array, that array is).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from livecc_jax.checkpoints.hf_export import export_hf
from livecc_jax.checkpoints.open import Checkpoint
from livecc_jax.checkpoints.weight_names import EMBED, HEAD, weight_name_table
from livecc_jax.checkpoints.weight_source import CheckpointWeights, WeightSource
from livecc_jax.model.config import ModelConfig

TOLERANCES = {"float32": 1e-4, "bfloat16": 5e-2}
# What is held to them of a layer's values. Among millions of values rounded to bfloat16 after every
# operation some are far off in any two implementations, so there the mean decides.
STATISTIC = {"float32": "max", "bfloat16": "mean"}
CHUNK = 1 << 22  # values compared at a time
# What two checkpoints may disagree on and still compute the same: what a run is exported in, and
# whether the head is stored once or twice (the tensors say whether it is the embedding).
HARMLESS = ("livecc.dtype", "text.tied")


@dataclass(frozen=True)
class Difference:
    """How far two arrays are apart: largest and mean |a - b|, and the scale that they are judged by."""

    name: str
    largest: float
    mean: float
    scale: float

    def relative(self, by: str = "max") -> float:
        """The largest difference, or with `by` "mean" the mean one, in units of the scale."""
        return (self.mean if by == "mean" else self.largest) / self.scale

    def within(self, tolerance: float, by: str = "max") -> bool:
        """Whether that is no more than the tolerance; of what is not a number, never."""
        return bool(self.relative(by) <= tolerance)


@dataclass(frozen=True)
class ConfigDifference:
    """A field in which two configurations differ; `harmless` when that changes no value."""

    field: str
    a: Any
    b: Any
    harmless: bool


@dataclass(frozen=True)
class TensorReport:
    """Outcome of `compare_tensors`.

    total: tensors of either side; same: how many are equal bit for bit; gaps: those that are not, in
    the network's order, judged by their root mean square; mismatched: one sentence for each tensor
    that only one side has or that has another shape; dtypes: pairs of dtypes that met.
    """

    total: int
    same: int
    gaps: tuple[Difference, ...]
    mismatched: tuple[str, ...]
    dtypes: tuple[tuple[str, str], ...]


def _fields(checkpoint: Checkpoint) -> dict[str, Any]:
    """{"text.width": 64, ...}, the block "livecc" included."""
    found = {}
    groups = {part: getattr(checkpoint.config, part) for part in ("text", "vision", "ids")}
    for group, values in (groups | {"livecc": checkpoint.livecc}).items():
        found |= {f"{group}.{k}": v for k, v in dataclasses.asdict(values).items()}
    return found


def compare_configs(a: Checkpoint, b: Checkpoint) -> list[ConfigDifference]:
    """The fields in which two checkpoints' configurations differ, as we read them."""
    x, y = _fields(a), _fields(b)
    return [ConfigDifference(k, x[k], y[k], k in HARMLESS) for k in x if x[k] != y[k]]


def compare_tensors(a: WeightSource, b: WeightSource) -> TensorReport:
    """Compare weights tensor by tensor; of different dtypes both are first widened, which is exact."""
    names = list(dict.fromkeys([*a.shapes, *b.shapes]))
    same, gaps, mismatched, dtypes = 0, [], [], {}
    for name in names:
        shapes = [_shape(w, name) for w in (a, b)]
        if shapes[0] != shapes[1]:
            kinds = ["absent" if s is None else str(s) for s in shapes]
            mismatched.append(f"{name} is {kinds[0]} in A, {kinds[1]} in B")
            continue
        x, y = a.read(name), b.read(name)
        dtypes[str(x.dtype), str(y.dtype)] = None
        if _identical(x, y):
            same += 1
        else:
            gaps.append(_tensor_gap(name, x, y))
    return TensorReport(len(names), same, tuple(gaps), tuple(mismatched), tuple(dtypes))


def _shape(weights: WeightSource, name: str) -> tuple[int, ...] | None:
    """Of a tensor; a head that is not stored is the embedding."""
    return weights.shapes.get(name, weights.shapes.get(EMBED) if name == HEAD else None)


def _chunks(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of both, some at a time, in the narrower dtype that holds either exactly."""
    kind = None
    if x.dtype != y.dtype:
        double = np.dtype("float64")
        kind = double if double in (x.dtype, y.dtype) else np.dtype("float32")
    x, y = x.reshape(len(x), -1), y.reshape(len(y), -1)
    rows = max(1, CHUNK // x.shape[1])
    for i in range(0, len(x), rows):
        p, q = (np.ascontiguousarray(z[i : i + rows], kind or z.dtype) for z in (x, y))
        yield p, q


def _identical(x: np.ndarray, y: np.ndarray) -> bool:
    """Equal bit for bit: 0.0 is not -0.0."""
    return all(np.array_equal(p.view(np.uint8), q.view(np.uint8)) for p, q in _chunks(x, y))


def _tensor_gap(name: str, x: np.ndarray, y: np.ndarray) -> Difference:
    largest = total = square = 0.0
    for p, q in _chunks(x, y):
        p, q = p.astype(np.float64), q.astype(np.float64)
        difference = np.abs(p - q)
        largest = float(np.maximum(largest, difference.max()))  # keeps what is not a number
        total += float(difference.sum())
        square += float(np.square(p).sum())
    return Difference(name, largest, total / x.size, (square / x.size) ** 0.5 or 1.0)


def value_difference(name: str, a: np.ndarray, b: np.ndarray) -> Difference:
    """How far two float32 arrays of one shape are apart, judged by the first one's deviation."""
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)

    def part(rows: slice) -> tuple[float, float, float, float]:
        x, y = a[rows], b[rows]
        difference = np.abs(x - y)
        sums = [z.sum(dtype=np.float64) for z in (difference, x, np.square(x, dtype=np.float64))]
        return float(difference.max()), *map(float, sums)

    step = max(1, CHUNK // a.shape[1])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = np.array(list(pool.map(part, (slice(i, i + step) for i in range(0, len(a), step)))))
    total, plain, square = parts[:, 1:].sum(axis=0) / a.size
    scale = max(0.0, square - plain**2) ** 0.5 or 1.0
    return Difference(name, float(parts[:, 0].max()), float(total), float(scale))


@dataclass(frozen=True)
class TraceReport:
    """Outcome of `compare_traces`: each layer's gap in the network's order, the logits' last.

    agreement: the share of positions at which both give the highest logit to the same token;
    positions: how many there are.
    """

    layers: tuple[Difference, ...]
    logits: Difference
    agreement: float
    positions: int

    def first_beyond(self, tolerance: float, by: str = "max") -> Difference | None:
        """The first layer (or the logits) at which the two part by more than the tolerance."""
        gaps = (*self.layers, self.logits)
        return next((gap for gap in gaps if not gap.within(tolerance, by)), None)


def compare_traces(
    a: Iterable[tuple[str, np.ndarray]], b: Iterable[tuple[str, np.ndarray]]
) -> TraceReport:
    """Compare two runs layer by layer.

    Args:
        a: (name, float32 values) of each layer, the logits [T, V] last. It is run to its end first,
            and its values are kept, so that only one model need be in memory at a time.
        b: likewise, of the same names and shapes.
    """
    kept = dict(a)
    gaps: list[Difference] = []
    agreement, positions = 1.0, 0
    for name, values in b:
        reference = kept.pop(name)
        gaps.append(value_difference(name, reference, values))
        if not kept:
            agreement = float((reference.argmax(-1) == values.argmax(-1)).mean())
            positions = len(reference)
    return TraceReport(tuple(gaps[:-1]), gaps[-1], agreement, positions)


@contextlib.contextmanager
def hf_directory(checkpoint: Checkpoint) -> Iterator[Path]:
    """A HuggingFace directory of the checkpoint: its own, or a temporary copy that keeps all bits."""
    if checkpoint.kind == "hf":
        yield checkpoint.path
        return
    with tempfile.TemporaryDirectory(prefix="livecc-verify-") as home:
        where = Path(home) / "model"
        export_hf(where, checkpoint.config, checkpoint.livecc, CheckpointWeights(checkpoint))
        yield where


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """{HuggingFace's name: shape} of every tensor, in the order the network uses them."""
    return {name: entry.hf_shape for entry in weight_name_table(config) for name in entry.names}
