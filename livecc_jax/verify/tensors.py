"""Compares the weights of two weight sources, one tensor at a time.

Weights are compared under HuggingFace's names, through the weight name table that conversion uses;
neither model is in memory as a whole (an Orbax run stores all layers of a parameter as one array, so
there one such array is).
"""

from __future__ import annotations

from dataclasses import dataclass

from livecc_jax.checkpoints.weight_names import HEAD, embed_name
from livecc_jax.checkpoints.weight_source import WeightSource
from livecc_jax.verify.difference import Difference, identical, tensor_difference


@dataclass(frozen=True)
class TensorReport:
    """Result of `compare_tensors`.

    Attributes:
        total: Number of tensors that either side has.
        equal: Number of tensors that are equal bit for bit.
        differences: The other tensors, in the network's order, in units of their root mean square.
        mismatched: A sentence for each tensor that only one side has or that has another shape.
        dtypes: Pairs of dtypes that were compared.
    """

    total: int
    equal: int
    differences: tuple[Difference, ...]
    mismatched: tuple[str, ...]
    dtypes: tuple[tuple[str, str], ...]


def compare_tensors(a: WeightSource, b: WeightSource) -> TensorReport:
    """Compare weights tensor by tensor; tensors of different dtypes are first widened, exactly."""
    names = list(dict.fromkeys([*a.shapes, *b.shapes]))
    equal, differences, mismatched, dtypes = 0, [], [], {}
    for name in names:
        shapes = [_shape(source, name) for source in (a, b)]
        if shapes[0] != shapes[1]:
            texts = ["absent" if shape is None else str(shape) for shape in shapes]
            mismatched.append(f"{name} is {texts[0]} in A, {texts[1]} in B")
            continue
        x, y = a.read(name), b.read(name)
        dtypes[str(x.dtype), str(y.dtype)] = None
        if identical(x, y):
            equal += 1
        else:
            differences.append(tensor_difference(name, x, y))
    return TensorReport(len(names), equal, tuple(differences), tuple(mismatched), tuple(dtypes))


def _shape(source: WeightSource, name: str) -> tuple[int, ...] | None:
    """Returns the shape of a tensor, None if it is absent; a missing head is the embedding."""
    return source.shapes.get(
        name, source.shapes.get(embed_name(source.shapes)) if name == HEAD else None
    )
