"""Merges the adapters (LoRA) of a training run into the weights they adapt, when the run is opened.

The steps of a run store the base weights and the adapters separately, because training continues from
both. Everything else sees one model: each adapted kernel is summed in float32 and rounded once, to the
dtype that is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from livecc_jax.checkpoints.hf_config import CONFIG
from livecc_jax.checkpoints.json_fields import read_json
from livecc_jax.errors import CheckpointError
from livecc_jax.model.lora import LORA, merge_adapter

PREFIX = f"{LORA}/"


def adapter_paths(kernel: str) -> tuple[str, str]:
    """Returns the paths that A and B of a kernel have if the kernel is adapted."""
    module = kernel.removesuffix("/kernel")
    return f"{PREFIX}{module}/a", f"{PREFIX}{module}/b"


def split_adapters(params: Mapping[str, Any], where: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the parameters of a step into those of the model and those of the adapters.

    Args:
        params: Arrays, or anything that has a shape, by path.
        where: The step folder, for error messages.

    Returns:
        (parameters of the model, adapters), each by path.

    Raises:
        CheckpointError: An adapter does not fit its kernel, or has none.
    """
    base = {k: v for k, v in params.items() if not k.startswith(PREFIX)}
    adapters = {k: v for k, v in params.items() if k.startswith(PREFIX)}
    unmatched = set(adapters)
    for path, kernel in base.items():
        a, b = adapter_paths(path)
        if not path.endswith("/kernel") or not {a, b} <= adapters.keys():
            continue
        unmatched -= {a, b}
        (layers, inputs, rank), (layers_b, rank_b, outputs) = adapters[a].shape, adapters[b].shape
        size = layers * inputs * outputs
        if (layers, rank) != (layers_b, rank_b) or size != np.prod(kernel.shape, dtype=int):
            raise CheckpointError(
                f"{where}: the adapters {a} and {b} do not fit {path} of shape {tuple(kernel.shape)}"
            )
    if unmatched:
        raise CheckpointError(f"{where}: {min(unmatched)} is an adapter of no kernel")
    return base, adapters


def adapter_scale(root: Path) -> float:
    """Returns alpha / rank of a run's adapters.

    Raises:
        CheckpointError: The run's config.json does not hold both numbers.
    """
    config = read_json(root / CONFIG)
    train = config.get("train") if isinstance(config, dict) else None
    train = train if isinstance(train, dict) else {}
    alpha, rank = (train.get(f"compute.lora.{name}") for name in ("alpha", "rank"))
    is_number = isinstance(alpha, int | float) and math.isfinite(alpha)
    if not is_number or not isinstance(rank, int) or rank < 1:
        raise CheckpointError(
            f"{root / CONFIG}: a step has adapters, but its train block names no "
            "compute.lora.alpha and compute.lora.rank to add them with"
        )
    return alpha / rank


def merge_adapters(
    kernel: Any, a: np.ndarray, b: np.ndarray, scale: float, dtype: np.dtype, sharding: Any = None
) -> Any:
    """Add the adapters to a stack of kernels, one layer at a time.

    Args:
        kernel: [L, *in, *out]; a numpy array, or a jax array when `sharding` is given.
        a: [L, in, r], the adapters' A.
        b: [L, r, out], the adapters' B.
        scale: alpha / rank.
        dtype: Dtype of the result.
        sharding: Sharding of the result; None returns a numpy array.

    Returns:
        [L, *in, *out] in `dtype`.
    """
    if sharding is None:
        out = np.empty(kernel.shape, dtype)
        for layer in range(len(out)):
            out[layer] = merge_adapter(kernel[layer], a[layer], b[layer], scale).astype(dtype)
        return out

    def merge_stack(kernel: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
        return jax.lax.map(lambda x: merge_adapter(*x, scale).astype(dtype), (kernel, a, b))

    return jax.jit(merge_stack, out_shardings=sharding)(kernel, a, b)
