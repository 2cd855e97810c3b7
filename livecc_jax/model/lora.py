"""Low-rank adapters (LoRA, arXiv 2106.09685) of the decoder's linear maps.

An adapted map computes y = x W + (alpha / rank) (x A) B. W is frozen, A and B are trained, and B starts
at zero, so that the model starts as its base. Parameters hold adapters besides the base's, under "lora"
by the path of the map: "lora/text/layers/attn/q/a" is A [L, in, r] and ".../b" is B [L, r, out]. Layers
are stacked, several input or output dimensions are one, and stored adapters are float32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util

from livecc_jax.errors import ConfigError
from livecc_jax.model.config import ModelConfig, TextConfig

LORA = "lora"  # the key of the adapters in a parameter tree
LAYERS = "text/layers"
TARGETS = ("q", "k", "v", "o", "gate", "up", "down")  # every linear map of a decoder layer


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters that are trained in place of the decoder; with rank 0 there are none."""

    rank: int = 0  # inner size of the adapters; 0: none
    alpha: float = 16.0  # what adapters add is multiplied by alpha / rank
    targets: tuple[str, ...] = TARGETS  # the linear maps that are adapted

    @property
    def scale(self) -> float:
        """alpha / rank, and 0 without adapters."""
        return self.alpha / self.rank if self.rank else 0.0

    def check(self, field: str = "compute.lora") -> None:
        """Raises ConfigError for values that no adapters can have.

        Args:
            field: Name of this dataclass in the whole config, for the message.
        """
        if self.rank < 0:
            raise ConfigError(f"{field}.rank must not be negative, not {self.rank}")
        if not 0 < self.alpha < math.inf:
            raise ConfigError(f"{field}.alpha must be positive, not {self.alpha}")
        for target in self.targets:
            if target not in TARGETS:
                raise ConfigError(
                    f"{field}.targets names {target!r}, which is none of {', '.join(TARGETS)}"
                )
        if self.rank and not self.targets:
            raise ConfigError(f"{field}.targets names no linear map to adapt")


class Adapter(nnx.Module):
    """(alpha / rank) (x A) B of one linear map, or of a stack of layers of it.

    Args:
        a: [in, r], or [L, in, r].
        b: [r, out], or [L, r, out].
        scale: alpha / rank.
    """

    def __init__(self, a: jax.Array, b: jax.Array, scale: float) -> None:
        self.a, self.b, self.scale = nnx.Param(a), nnx.Param(b), scale

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., in] to [..., out]."""
        return (x @ self.a[...] * self.scale) @ self.b[...]


def attach_adapters(model: nnx.Module, adapters: Mapping[str, Any], scale: float) -> None:
    """Gives the linear maps of a model their adapters, whose results `layers.Linear` adds to its own.

    Args:
        model: A `Qwen2VL`.
        adapters: The tree under "lora".
        scale: alpha / rank.
    """
    for path, ab in _adapters_by_path(adapters).items():
        module: Any = model
        for name in path.split("/"):
            module = getattr(module, name)
        module.adapter = Adapter(ab["a"], ab["b"], scale)


def abstract_adapters(config: ModelConfig, lora: LoraConfig) -> dict[str, Any]:
    """Returns the tree under "lora" as float32 `jax.ShapeDtypeStruct`s; empty without adapters."""
    if not lora.rank:
        return {}
    layers, rank = config.text.layers, lora.rank
    leaves = {}
    for target in _sorted_targets(lora):
        path, inputs, outputs = _map_shape(config.text, target)
        leaves[f"{path}/a"] = jax.ShapeDtypeStruct((layers, math.prod(inputs), rank), jnp.float32)
        leaves[f"{path}/b"] = jax.ShapeDtypeStruct((layers, rank, math.prod(outputs)), jnp.float32)
    return traverse_util.unflatten_dict(leaves, sep="/")


def adapter_axes(lora: LoraConfig) -> dict[str, Any]:
    """Returns the tree under "lora" with the logical axes of each array in its place.

    The side of the residual stream is split as in the weights, and the other side over every axis that
    splits weights.
    """
    if not lora.rank:
        return {}
    leaves: dict[str, tuple[str | None, ...]] = {}
    for target in _sorted_targets(lora):
        outputs_residual = target in ("o", "down")
        path = _path(target)
        leaves[f"{path}/a"] = ("layers", "adapted" if outputs_residual else "embed", "rank")
        leaves[f"{path}/b"] = ("layers", "rank", "embed" if outputs_residual else "adapted")
    return traverse_util.unflatten_dict(leaves, sep="/")


def init_adapters(config: ModelConfig, lora: LoraConfig, seed: int) -> dict[str, Any]:
    """Draws A with variance 1 / in, and sets B to zeros.

    Under jit, `out_shardings` creates them where they belong.
    """
    shapes = traverse_util.flatten_dict(abstract_adapters(config, lora), sep="/")
    key = jax.random.key(seed)
    adapters = {}
    for i, (path, leaf) in enumerate(shapes.items()):
        if path.endswith("/a"):
            noise = jax.random.normal(jax.random.fold_in(key, i), leaf.shape, leaf.dtype)
            adapters[path] = noise * leaf.shape[1] ** -0.5
        else:
            adapters[path] = jnp.zeros(leaf.shape, leaf.dtype)
    return traverse_util.unflatten_dict(adapters, sep="/")


def merge_adapter(kernel: Any, a: Any, b: Any, scale: float) -> Any:
    """Adds an adapter to the kernel of one layer; arrays are numpy's or JAX's.

    Args:
        kernel: [*in, *out].
        a: [in, r].
        b: [r, out].
        scale: alpha / rank.

    Returns:
        float32 [*in, *out].
    """
    return kernel.astype("float32") + scale * (a @ b).reshape(kernel.shape)


def _adapters_by_path(adapters: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns {path of a linear map: {"a": ..., "b": ...}}."""
    by_path: dict[str, dict[str, Any]] = {}
    for path, leaf in traverse_util.flatten_dict(dict(adapters), sep="/").items():
        map_path, _, name = path.rpartition("/")
        by_path.setdefault(map_path, {})[name] = leaf
    return by_path


def _sorted_targets(lora: LoraConfig) -> list[str]:
    """Returns the adapted maps in the order of `TARGETS`, which random draws depend on."""
    return [target for target in TARGETS if target in lora.targets]


def _path(target: str) -> str:
    """Returns the path of a linear map of the stacked layers."""
    module = "attn" if target in ("q", "k", "v", "o") else "mlp"
    return f"{LAYERS}/{module}/{target}"


def _map_shape(text: TextConfig, target: str) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
    """Returns path, input dimensions and output dimensions of a linear map."""
    width, heads, kv_heads = (
        (text.width,), (text.heads, text.head_dim), (text.kv_heads, text.head_dim)
    )  # fmt: skip
    inputs, outputs = {
        "q": (width, heads),
        "k": (width, kv_heads),
        "v": (width, kv_heads),
        "o": (heads, width),
        "gate": (width, (text.mlp,)),
        "up": (width, (text.mlp,)),
        "down": ((text.mlp,), width),
    }[target]
    return _path(target), inputs, outputs
