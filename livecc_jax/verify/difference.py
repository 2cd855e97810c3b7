"""How far two arrays differ, and what difference is tolerated in which dtype."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

TOLERANCES = {"float32": 1e-4, "bfloat16": 5e-2}
# The statistic of a layer's differences that is compared with the tolerance. Among millions of values
# rounded to bfloat16 after every operation, some differ much in any two implementations, so there the
# mean decides.
STATISTIC = {"float32": "max", "bfloat16": "mean"}
CHUNK = 1 << 22  # values compared at a time


@dataclass(frozen=True)
class Difference:
    """How far two arrays differ.

    Attributes:
        name: Name of the tensor or the layer.
        max_abs: Largest |a - b|.
        mean_abs: Mean |a - b|.
        scale: The unit in which differences are judged: the root mean square or the deviation of a.
    """

    name: str
    max_abs: float
    mean_abs: float
    scale: float

    def relative(self, statistic: str = "max") -> float:
        """Returns the largest or, for `statistic` "mean", the mean difference, divided by the scale."""
        return (self.mean_abs if statistic == "mean" else self.max_abs) / self.scale

    def within(self, tolerance: float, statistic: str = "max") -> bool:
        """Whether the relative difference is at most the tolerance; NaN never is."""
        return bool(self.relative(statistic) <= tolerance)


def identical(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays of one shape are equal bit for bit, so 0.0 is not -0.0."""
    return all(np.array_equal(x.view(np.uint8), y.view(np.uint8)) for x, y in _chunks(a, b))


def tensor_difference(name: str, a: np.ndarray, b: np.ndarray) -> Difference:
    """Compare two weights of one shape, in units of the first one's root mean square."""
    largest = total = square = 0.0
    for x, y in _chunks(a, b):
        x, y = x.astype(np.float64), y.astype(np.float64)
        difference = np.abs(x - y)
        largest = float(np.maximum(largest, difference.max()))  # np.maximum keeps NaN
        total += float(difference.sum())
        square += float(np.square(x).sum())
    return Difference(name, largest, total / a.size, (square / a.size) ** 0.5 or 1.0)


def value_difference(name: str, a: np.ndarray, b: np.ndarray) -> Difference:
    """Compare two float32 arrays of one shape, in units of the first one's standard deviation."""
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)

    def sums(rows: slice) -> tuple[float, float, float, float]:
        x, y = a[rows], b[rows]
        difference = np.abs(x - y)
        totals = [z.sum(dtype=np.float64) for z in (difference, x, np.square(x, dtype=np.float64))]
        return float(difference.max()), *map(float, totals)

    step = max(1, CHUNK // a.shape[1])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        chunks = np.array(list(pool.map(sums, (slice(i, i + step) for i in range(0, len(a), step)))))
    mean_difference, mean, mean_square = chunks[:, 1:].sum(axis=0) / a.size
    scale = max(0.0, mean_square - mean**2) ** 0.5 or 1.0
    return Difference(name, float(chunks[:, 0].max()), float(mean_difference), float(scale))


def _chunks(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields rows of both arrays, in the narrowest dtype that represents both exactly."""
    dtype = None
    if a.dtype != b.dtype:
        double = np.dtype("float64")
        dtype = double if double in (a.dtype, b.dtype) else np.dtype("float32")
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    rows = max(1, CHUNK // a.shape[1])
    for i in range(0, len(a), rows):
        x, y = (np.ascontiguousarray(z[i : i + rows], dtype or z.dtype) for z in (a, b))
        yield x, y
