"""Low-rank adapters (LoRA, arXiv 2106.09685) of the decoder's linear maps.

An adapted map computes y = x W + (alpha / rank) (x A) B: W stays as it is, A and B learn, and B begins
at zero, so that the model begins as the base. Parameters hold adapters beside the base, under "lora" by
the path of the map: "lora/text/layers/attn/q/a" is A [L, in, r] and ".../b" is B [L, r, out], with the
layers stacked, several input or output dimensions as one, and float32 where they are kept.
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

LORA = "lora"  # the key of the adapters in a tree of parameters
LAYERS = "text/layers"
TARGETS = ("q", "k", "v", "o", "gate", "up", "down")  # every linear map of a decoder layer


@dataclass(frozen=True)
class LoraConfig:
    """Adapters of low rank that learn in place of the decoder; none with rank 0."""

    rank: int = 0
    alpha: float = 16.0  # what adapters add is multiplied by alpha / rank
    targets: tuple[str, ...] = TARGETS  # the linear maps that are adapted

    @property
    def scale(self) -> float:
        """alpha / rank; 0 without adapters."""
        return self.alpha / self.rank if self.rank else 0.0


def check_lora(lora: LoraConfig, field: str = "compute.lora") -> None:
    """Raise ConfigError, naming the field, for adapters that cannot be."""
    if lora.rank < 0:
        raise ConfigError(f"{field}.rank must not be negative, not {lora.rank}")
    if not 0 < lora.alpha < math.inf:
        raise ConfigError(f"{field}.alpha must be positive, not {lora.alpha}")
    for target in lora.targets:
        if target not in TARGETS:
            raise ConfigError(
                f"{field}.targets names {target!r}, which is none of {', '.join(TARGETS)}"
            )
    if lora.rank and not lora.targets:
        raise ConfigError(f"{field}.targets names no linear map to adapt")


class Adapter(nnx.Module):
    """(alpha / rank) (x A) B of one map, or of a stack of layers of it.

    Args:
        a: [in, r], or [L, in, r].
        b: [r, out], or [L, r, out].
        scale: alpha / rank.
    """

    def __init__(self, a: jax.Array, b: jax.Array, scale: float) -> None:
        self.a, self.b, self.scale = nnx.Param(a), nnx.Param(b), scale

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., in] to [..., out]."""
        return (x @ self.a[...] * self.scale) @ self.b[...]


def attach(model: nnx.Module, adapters: Mapping[str, Any], scale: float) -> None:
    """Give the linear maps of a model their adapters, which `layers.Linear` adds to what it gives.

    Args:
        model: a `Qwen2VL`.
        adapters: the tree under "lora".
        scale: alpha / rank.
    """
    for path, ab in _maps(adapters).items():
        module: Any = model
        for name in path.split("/"):
            module = getattr(module, name)
        module.adapter = Adapter(ab["a"], ab["b"], scale)


def abstract_adapters(config: ModelConfig, lora: LoraConfig) -> dict[str, Any]:
    """The tree under "lora" as `jax.ShapeDtypeStruct`s, float32; empty without adapters."""
    if not lora.rank:
        return {}
    layers, rank = config.text.layers, lora.rank
    leaves = {}
    for target in _ordered(lora):
        path, inside, outside = _map(config.text, target)
        leaves[f"{path}/a"] = jax.ShapeDtypeStruct((layers, math.prod(inside), rank), jnp.float32)
        leaves[f"{path}/b"] = jax.ShapeDtypeStruct((layers, rank, math.prod(outside)), jnp.float32)
    return traverse_util.unflatten_dict(leaves, sep="/")


def adapter_axes(lora: LoraConfig) -> dict[str, Any]:
    """The tree under "lora" with logical axes for arrays: the residual stream's side is split as in the
    weights, the other side over every axis that splits weights."""
    if not lora.rank:
        return {}
    leaves: dict[str, tuple[str | None, ...]] = {}
    for target in _ordered(lora):
        into = target in ("o", "down")
        path = f"{LAYERS}/{_where(target)}"
        leaves[f"{path}/a"] = ("layers", "adapted" if into else "embed", "rank")
        leaves[f"{path}/b"] = ("layers", "rank", "embed" if into else "adapted")
    return traverse_util.unflatten_dict(leaves, sep="/")


def init_adapters(config: ModelConfig, lora: LoraConfig, seed: int) -> dict[str, Any]:
    """A of variance 1 / in, B of zeros; jit with `out_shardings` to make them where they belong."""
    shapes = traverse_util.flatten_dict(abstract_adapters(config, lora), sep="/")
    key = jax.random.key(seed)
    made = {}
    for i, (path, leaf) in enumerate(shapes.items()):
        if path.endswith("/a"):
            noise = jax.random.normal(jax.random.fold_in(key, i), leaf.shape, leaf.dtype)
            made[path] = noise * leaf.shape[1] ** -0.5
        else:
            made[path] = jnp.zeros(leaf.shape, leaf.dtype)
    return traverse_util.unflatten_dict(made, sep="/")


def merged(kernel: Any, a: Any, b: Any, scale: float) -> Any:
    """One layer's kernel with what its adapter adds, float32; of numpy or of jax arrays.

    Args:
        kernel: [*in, *out].
        a: [in, r].
        b: [r, out].
        scale: alpha / rank.
    """
    return kernel.astype("float32") + scale * (a @ b).reshape(kernel.shape)


def _maps(adapters: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{path of a linear map: {"a": ..., "b": ...}}."""
    found: dict[str, dict[str, Any]] = {}
    for path, leaf in traverse_util.flatten_dict(dict(adapters), sep="/").items():
        where, _, name = path.rpartition("/")
        found.setdefault(where, {})[name] = leaf
    return found


def _ordered(lora: LoraConfig) -> list[str]:
    return [target for target in TARGETS if target in lora.targets]


def _where(target: str) -> str:
    return f"attn/{target}" if target in ("q", "k", "v", "o") else f"mlp/{target}"


def _map(text: TextConfig, target: str) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
    """(path, input dimensions, output dimensions) of a linear map."""
    width, heads, keys = (text.width,), (text.heads, text.head_dim), (text.kv_heads, text.head_dim)
    inside, outside = {
        "q": (width, heads),
        "k": (width, keys),
        "v": (width, keys),
        "o": (heads, width),
        "gate": (width, (text.mlp,)),
        "up": (width, (text.mlp,)),
        "down": ((text.mlp,), width),
    }[target]
    return f"{LAYERS}/{_where(target)}", inside, outside
