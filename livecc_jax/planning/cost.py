"""Counts the FLOPs of a traced program, with loops by their length and Pallas attention kernels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.interpreters import partial_eval

# Matrix products that each splash kernel computes over the pairs of query and key that it visits.
_PRODUCTS = {"fwd": 2, "dq": 3, "dkv": 4}


KINDS = ("matrix products", "causal attention", "full attention")


def count_flops(jaxpr: Any) -> dict[str, float]:
    """Counts the FLOPs of matrix products over all devices, by KINDS.

    Recomputation in the backward pass is part of the program, so it counts. In causal attention
    kernels, every block on or below the diagonal counts in full.

    Args:
        jaxpr: A jaxpr or closed jaxpr.
    """
    total = dict.fromkeys(KINDS, 0.0)
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    # What a remat policy saves is traced again although it is unused; the compiler drops it too.
    jaxpr, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    _count(jaxpr, 1.0, total)
    return total


def _count(jaxpr: Any, times: float, total: dict[str, float]) -> None:
    """Adds the FLOPs of a jaxpr that runs `times` times to the total."""
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name == "dot_general":
            (contract, _), _ = eqn.params["dimension_numbers"]
            depth = math.prod(eqn.invars[0].aval.shape[i] for i in contract)
            total["matrix products"] += times * 2 * math.prod(eqn.outvars[0].aval.shape) * depth
        elif name == "pallas_call":
            kind, flops = _splash_flops(eqn)
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
                repeats = eqn.params["mesh"].size  # the shapes inside are those of one device
            for inner in _inner_jaxprs(eqn.params.values()):
                _count(inner, times * repeats, total)


def _inner_jaxprs(values: Any) -> Iterator[Any]:
    """Yields every jaxpr among the parameters of an equation."""
    for value in values:
        if isinstance(value, (tuple, list)):
            yield from _inner_jaxprs(value)
        elif hasattr(value, "eqns"):
            yield value
        elif hasattr(getattr(value, "jaxpr", None), "eqns"):
            yield value.jaxpr


def _splash_flops(eqn: Any) -> tuple[str, float]:
    """Returns (kind, FLOPs) of a splash kernel with queries [..., H, T, D] and keys [..., K, S, D]."""
    products = next((n for name, n in _PRODUCTS.items() if f"_{name}_" in eqn.params["name"]), 0)
    mapping = eqn.params["grid_mapping"]
    arrays = [x.aval for x in eqn.invars[mapping.num_index_operands :]]
    q, k = [x for x in arrays if jax.dtypes.issubdtype(x.dtype, np.inexact)][:2]
    keys = k.shape[-2]
    flops = 2.0 * products * math.prod(q.shape) * keys
    # A third integer array besides the segment ids of queries and keys is the index of each query, for
    # a causal mask.
    if sum(x.dtype == np.int32 for x in arrays) < 3:
        return "full attention", flops
    block = mapping.block_mappings[0].block_shape[-2]
    block = getattr(block, "block_size", block)
    return "causal attention", flops * (1 + block / keys) / 2
