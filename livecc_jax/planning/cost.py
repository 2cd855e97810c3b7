"""Counting the arithmetic that a traced program does: loops by their length, kernels included."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.interpreters import partial_eval

# Matrix products that each splash kernel does over the pairs of query and key that it visits.
_PRODUCTS = {"fwd": 2, "dq": 3, "dkv": 4}


KINDS = ("matrix products", "causal attention", "full attention")


def counted_flops(jaxpr: Any) -> dict[str, float]:
    """FLOPs of matrix products over all devices, by KINDS.

    What the backward pass recomputes is in the program, so it counts. Of causal attention kernels, the
    blocks on and below the diagonal count whole.
    """
    total = dict.fromkeys(KINDS, 0.0)
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    # What a remat policy saved is still traced again, with nobody to use it: the compiler drops it too.
    jaxpr, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    _count(jaxpr, 1.0, total)
    return total


def _count(jaxpr: Any, times: float, total: dict[str, float]) -> None:
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name == "dot_general":
            (contract, _), _ = eqn.params["dimension_numbers"]
            depth = math.prod(eqn.invars[0].aval.shape[i] for i in contract)
            total["matrix products"] += times * 2 * math.prod(eqn.outvars[0].aval.shape) * depth
        elif name == "pallas_call":
            kind, flops = _splash(eqn)
            total[kind] += times * flops
        elif name == "cond":
            branches = [dict.fromkeys(KINDS, 0.0) for _ in eqn.params["branches"]]
            for branch, counts in zip(eqn.params["branches"], branches):
                _count(branch.jaxpr, times, counts)
            for key, value in max(branches, key=lambda c: sum(c.values())).items():
                total[key] += value
        else:
            repeats = 1.0
            if name == "scan":
                repeats = eqn.params["length"]
            elif name == "shard_map":
                repeats = eqn.params["mesh"].size  # its shapes are those of one device
            for inner in _inner(eqn.params.values()):
                _count(inner, times * repeats, total)


def _inner(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (tuple, list)):
            yield from _inner(value)
        elif hasattr(value, "eqns"):
            yield value
        elif hasattr(getattr(value, "jaxpr", None), "eqns"):
            yield value.jaxpr


def _splash(eqn: Any) -> tuple[str, float]:
    """Of one splash kernel, by its name and arrays: [..., H, T, D] queries, [..., K, S, D] keys."""
    products = next((n for part, n in _PRODUCTS.items() if f"_{part}_" in eqn.params["name"]), 0)
    mapping = eqn.params["grid_mapping"]
    arrays = [x.aval for x in eqn.invars[mapping.num_index_operands :]]
    q, k = [x for x in arrays if jax.dtypes.issubdtype(x.dtype, np.inexact)][:2]
    keys = k.shape[-2]
    flops = 2.0 * products * math.prod(q.shape) * keys
    # Besides the segments of queries and of keys, the place of each query: a causal mask.
    if sum(x.dtype == np.int32 for x in arrays) < 3:
        return "full attention", flops
    block = mapping.block_mappings[0].block_shape[-2]
    block = getattr(block, "block_size", block)
    return "causal attention", flops * (1 + block / keys) / 2
