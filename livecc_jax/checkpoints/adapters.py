"""Adapters (LoRA) of a training run, merged into the weights they adapt whenever a run is opened.

A run's steps hold the base and the adapters apart, which is what training goes on from. Everything else
sees a model: each adapted kernel is added up in float32 and rounded once, to the dtype that is wanted.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from livecc_jax.checkpoints.hf_config import CONFIG, read_json
from livecc_jax.errors import CheckpointError
from livecc_jax.model.lora import LORA, merged

PREFIX = f"{LORA}/"


def adapter_paths(kernel: str) -> tuple[str, str]:
    """Where A and B of a kernel are, if it is adapted."""
    module = kernel.removesuffix("/kernel")
    return f"{PREFIX}{module}/a", f"{PREFIX}{module}/b"


def take_apart(stored: Mapping[str, Any], where: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the model's own, the adapters') of a step's parameters, each {path: what has a shape}.

    Raises CheckpointError when adapters do not fit the kernels they are of.
    """
    own = {k: v for k, v in stored.items() if not k.startswith(PREFIX)}
    adapters = {k: v for k, v in stored.items() if k.startswith(PREFIX)}
    left = set(adapters)
    for path, kernel in own.items():
        a, b = adapter_paths(path)
        if not path.endswith("/kernel") or not {a, b} <= adapters.keys():
            continue
        left -= {a, b}
        (layers, inputs, rank), (layers_b, rank_b, outputs) = adapters[a].shape, adapters[b].shape
        size = layers * inputs * outputs
        if (layers, rank) != (layers_b, rank_b) or size != np.prod(kernel.shape, dtype=int):
            raise CheckpointError(
                f"{where}: the adapters {a} and {b} do not fit {path} of shape {tuple(kernel.shape)}"
            )
    if left:
        raise CheckpointError(f"{where}: {min(left)} is an adapter of no kernel")
    return own, adapters


def scale_of(root: Path) -> float:
    """alpha / rank of a run's adapters. Raises CheckpointError when its config.json does not say."""
    train = read_json(root / CONFIG).get("train") or {}
    alpha, rank = (train.get(f"compute.lora.{name}") for name in ("alpha", "rank"))
    if not isinstance(alpha, int | float) or not isinstance(rank, int) or rank < 1:
        raise CheckpointError(
            f"{root / CONFIG}: a step has adapters, but its train block names no "
            "compute.lora.alpha and compute.lora.rank to add them with"
        )
    return alpha / rank


def merge_stack(
    kernel: Any, a: np.ndarray, b: np.ndarray, scale: float, dtype: np.dtype, sharding: Any = None
) -> Any:
    """A stack of kernels with their adapters added, a layer at a time.

    Args:
        kernel: [L, *in, *out]; a numpy array, or with `sharding` a jax array.
        a: [L, in, r].
        b: [L, r, out].
        scale: alpha / rank.
        dtype: of the result.
        sharding: of the result; without it numpy arrays are made.
    """
    if sharding is None:
        out = np.empty(kernel.shape, dtype)
        for layer in range(len(out)):
            out[layer] = merged(kernel[layer], a[layer], b[layer], scale).astype(dtype)
        return out

    def stack(kernel: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
        return jax.lax.map(lambda x: merged(*x, scale).astype(dtype), (kernel, a, b))

    return jax.jit(stack, out_shardings=sharding)(kernel, a, b)
