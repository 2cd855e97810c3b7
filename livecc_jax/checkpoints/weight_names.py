"""The weight name table: our parameters and the HuggingFace tensors that hold them.

Reading and writing both use this table, so they cannot disagree. Names are those of the 2024 layout
(`families.qwen2_vl.WEIGHT_NAMES`); prefixes of later layouts are accepted on reading.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from livecc_jax.families.qwen2_vl import LATER_PREFIXES, WEIGHT_NAMES
from livecc_jax.model.config import ModelConfig

EMBED = f"{WEIGHT_NAMES['text/embed']}.weight"
HEAD = f"{WEIGHT_NAMES['text/head']}.weight"


@dataclass(frozen=True)
class WeightEntry:
    """One of our parameters and the tensors that hold it.

    Attributes:
        path: Our name: the keys of the nested dict, joined by "/".
        names: HuggingFace's names: one name, or one per layer when ours is a stack of layers.
        stacked: Whether our array has a leading layer axis.
        shape: Shape of one layer of our array.
        hf_shape: Shape of one of the tensors.
        inputs: Product of the input dimensions of a kernel, which HuggingFace stores transposed
            ([out, in]); 0 for a parameter that is not a kernel.
    """

    path: str
    names: tuple[str, ...]
    stacked: bool
    shape: tuple[int, ...]
    hf_shape: tuple[int, ...]
    inputs: int = 0

    @property
    def full_shape(self) -> tuple[int, ...]:
        """Shape of our array, layers first when it is stacked."""
        return (len(self.names), *self.shape) if self.stacked else self.shape

    def to_hf(self, array: np.ndarray) -> np.ndarray:
        """Returns one layer of our array as HuggingFace's tensor: the same values in another order."""
        if self.inputs:
            array = array.reshape(self.inputs, -1).T
        return array.reshape(self.hf_shape)

    def from_hf(self, array: np.ndarray) -> np.ndarray:
        """Returns HuggingFace's tensor as one layer of our array, as a view."""
        if self.inputs:
            array = array.reshape(-1, self.inputs).T
        return array.reshape(self.shape)


def canonical_name(name: str) -> str:
    """Returns the 2024 name of a tensor that may be stored under a later layout's name."""
    for later, prefix in LATER_PREFIXES.items():
        if name.startswith(later):
            return prefix + name.removeprefix(later)
    return name


def is_derived(name: str) -> bool:
    """Whether a tensor can be computed from the configuration, so it is not a weight."""
    return name.endswith("rotary_emb.inv_freq") or name.endswith("rotary_pos_emb.inv_freq")


@functools.cache
def weight_name_table(config: ModelConfig) -> tuple[WeightEntry, ...]:
    """Returns every parameter of a model, in the order in which the network uses them."""
    t, v = config.text, config.vision
    entries: list[WeightEntry] = []

    def names_of(module: str, suffix: str) -> tuple[tuple[str, ...], bool]:
        """HuggingFace's names of a module's tensor, and whether our parameter is a stack of layers."""
        name = f"{WEIGHT_NAMES[module]}.{suffix}"
        layers = {"vision/blocks": v.depth, "text/layers": t.layers}
        count = layers.get("/".join(module.split("/")[:2]), 0)
        return (tuple(name.format(i=i) for i in range(count)), True) if count else ((name,), False)

    def vector(module: str, field: str, suffix: str, shape: tuple[int, ...]) -> None:
        """A scale, a bias or an embedding, which HuggingFace stores in the same order."""
        names, stacked = names_of(module, suffix)
        path = f"{module}/{field}" if field else module
        hf_shape = (math.prod(shape),) if field == "bias" else shape
        entries.append(WeightEntry(path, names, stacked, shape, hf_shape))

    def kernel(
        module: str,
        inputs: tuple[int, ...],
        outputs: tuple[int, ...],
        field: str = "kernel",
        hf_shape: tuple[int, ...] = (),
    ) -> None:
        names, stacked = names_of(module, "weight")
        path = f"{module}/{field}" if field else module
        size = math.prod(inputs)
        hf_shape = hf_shape or (math.prod(outputs), size)
        entries.append(WeightEntry(path, names, stacked, (*inputs, *outputs), hf_shape, size))

    def linear(module: str, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> None:
        kernel(module, inputs, outputs)
        vector(module, "bias", "bias", outputs)

    def layer_norm(module: str) -> None:
        vector(module, "scale", "weight", (v.width,))
        vector(module, "bias", "bias", (v.width,))

    # The convolution's kernel covers exactly one patch, so it is a linear map over its values.
    conv_shape = (v.width, v.channels, v.temporal_patch_size, v.patch_size, v.patch_size)
    kernel("vision/patch_embed", (v.patch_values,), (v.width,), field="", hf_shape=conv_shape)
    heads = (v.heads, v.head_dim)
    layer_norm("vision/blocks/norm1")
    linear("vision/blocks/attn/qkv", (v.width,), (3, *heads))
    linear("vision/blocks/attn/proj", heads, (v.width,))
    layer_norm("vision/blocks/norm2")
    linear("vision/blocks/mlp/fc1", (v.width,), (v.mlp,))
    linear("vision/blocks/mlp/fc2", (v.mlp,), (v.width,))
    merged_width = v.width * v.merge_size**2
    layer_norm("vision/merger/norm")
    linear("vision/merger/fc1", (merged_width,), (merged_width,))
    linear("vision/merger/fc2", (merged_width,), (t.width,))

    vector("text/embed", "", "weight", (t.vocab_size, t.width))
    vector("text/layers/input_norm", "", "weight", (t.width,))
    linear("text/layers/attn/q", (t.width,), (t.heads, t.head_dim))
    linear("text/layers/attn/k", (t.width,), (t.kv_heads, t.head_dim))
    linear("text/layers/attn/v", (t.width,), (t.kv_heads, t.head_dim))
    kernel("text/layers/attn/o", (t.heads, t.head_dim), (t.width,))
    vector("text/layers/post_norm", "", "weight", (t.width,))
    kernel("text/layers/mlp/gate", (t.width,), (t.mlp,))
    kernel("text/layers/mlp/up", (t.width,), (t.mlp,))
    kernel("text/layers/mlp/down", (t.mlp,), (t.width,))
    vector("text/norm", "", "weight", (t.width,))
    if not t.tied:
        kernel("text/head", (t.width,), (t.vocab_size,), field="")
    return tuple(entries)


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every HuggingFace tensor by name, in the order the network uses them."""
    return {name: e.hf_shape for e in weight_name_table(config) for name in e.names}
