"""Compares two runs of a network layer by layer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from livecc_jax.verify.difference import Difference, value_difference


@dataclass(frozen=True)
class TraceReport:
    """Result of `compare_traces`.

    Attributes:
        layers: Difference of each layer, in the network's order.
        logits: Difference of the logits.
        agreement: Share of positions at which both runs give the highest logit to the same token.
        positions: Number of positions.
    """

    layers: tuple[Difference, ...]
    logits: Difference
    agreement: float
    positions: int

    def first_beyond(self, tolerance: float, statistic: str = "max") -> Difference | None:
        """Returns the first layer (or the logits) that differs by more than the tolerance."""
        differences = (*self.layers, self.logits)
        return next((d for d in differences if not d.within(tolerance, statistic)), None)


def compare_traces(
    a: Iterable[tuple[str, np.ndarray]], b: Iterable[tuple[str, np.ndarray]]
) -> TraceReport:
    """Compare two runs layer by layer.

    Args:
        a: Name and float32 values of each layer, the logits [T, V] last. It runs to its end first, and
            its values stay in memory, so that only one model needs to be in memory at a time.
        b: The other run, with the same names and shapes.
    """
    references = dict(a)
    differences: list[Difference] = []
    agreement, positions = 1.0, 0
    for name, values in b:
        reference = references.pop(name)
        differences.append(value_difference(name, reference, values))
        if not references:  # these are the logits
            agreement = float((reference.argmax(-1) == values.argmax(-1)).mean())
            positions = len(reference)
    return TraceReport(tuple(differences[:-1]), differences[-1], agreement, positions)
