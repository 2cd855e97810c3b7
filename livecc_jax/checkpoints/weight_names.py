"""The weight name table: our parameters and the HuggingFace tensors that hold them.

Reading and writing both use this table, so they cannot disagree. Names are those that a family's
checkpoints have on disk (`families.family.Family.weight_names`); other prefixes are accepted when they
are read.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from livecc_jax.families import qwen2_vl
from livecc_jax.families.family import Family
from livecc_jax.model.config import ModelConfig

HEAD = "lm_head.weight"  # in every family


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


def embed_name(names: Iterable[str]) -> str:
    """Returns the name of the embedding among the names of a model's tensors; "" without one."""
    return next((name for name in names if name.endswith("embed_tokens.weight")), "")


def canonical_name(name: str, family: Family = qwen2_vl.FAMILY) -> str:
    """Returns the family's name of a tensor that may be stored under another layout's name."""
    for other, prefix in family.other_prefixes.items():
        if name.startswith(other):
            return prefix + name.removeprefix(other)
    return name


def is_derived(name: str) -> bool:
    """Whether a tensor can be computed from the configuration, so it is not a weight."""
    return name.endswith("rotary_emb.inv_freq") or name.endswith("rotary_pos_emb.inv_freq")


@functools.cache
def weight_name_table(config: ModelConfig) -> tuple[WeightEntry, ...]:
    """Returns every parameter of a model, in the order in which the network uses them."""
    t, v = config.text, config.vision
    weight_names = config.family.weight_names
    stacks = {"vision/blocks": v.depth, "vision/deepstack": len(v.deepstack), "text/layers": t.layers}
    entries: list[WeightEntry] = []

    def names_of(module: str, suffix: str) -> tuple[tuple[str, ...], bool]:
        """HuggingFace's names of a module's tensor, and whether our parameter is a stack of layers."""
        name = f"{weight_names[module]}.{suffix}"
        count = stacks.get("/".join(module.split("/")[:2]))
        return (
            ((name,), False) if count is None else (tuple(name.format(i=i) for i in range(count)), True)
        )

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

    def linear(
        module: str, inputs: tuple[int, ...], outputs: tuple[int, ...], bias: bool = True
    ) -> None:
        kernel(module, inputs, outputs)
        if bias:
            vector(module, "bias", "bias", outputs)

    def norm(module: str, width: int, bias: bool) -> None:
        vector(module, "scale", "weight", (width,))
        if bias:
            vector(module, "bias", "bias", (width,))

    # What the table of the family's names holds, the tower has.
    layer_norms = not config.family.gated_tower
    learned_positions = "vision/pos_embed" in weight_names
    # The convolution's kernel covers exactly one patch, so it is a linear map over its values.
    conv_shape = (v.width, v.channels, v.temporal_patch_size, v.patch_size, v.patch_size)
    field = "kernel" if learned_positions else ""
    kernel("vision/patch_embed", (v.patch_values,), (v.width,), field=field, hf_shape=conv_shape)
    if learned_positions:
        vector("vision/patch_embed", "bias", "bias", (v.width,))
        vector("vision/pos_embed", "", "weight", (v.position_grid**2, v.width))
    heads = (v.heads, v.head_dim)
    norm("vision/blocks/norm1", v.width, layer_norms)
    linear("vision/blocks/attn/qkv", (v.width,), (3, *heads))
    linear("vision/blocks/attn/proj", heads, (v.width,))
    norm("vision/blocks/norm2", v.width, layer_norms)
    if config.family.gated_tower:
        linear("vision/blocks/mlp/gate", (v.width,), (v.mlp,))
        linear("vision/blocks/mlp/up", (v.width,), (v.mlp,))
        linear("vision/blocks/mlp/down", (v.mlp,), (v.width,))
    else:
        linear("vision/blocks/mlp/fc1", (v.width,), (v.mlp,))
        linear("vision/blocks/mlp/fc2", (v.mlp,), (v.width,))
    merged_width = v.width * v.merge_size**2
    norm("vision/merger/norm", v.width, layer_norms)
    linear("vision/merger/fc1", (merged_width,), (merged_width,))
    linear("vision/merger/fc2", (merged_width,), (t.width,))
    if v.deepstack:
        norm("vision/deepstack/norm", merged_width, True)
        linear("vision/deepstack/fc1", (merged_width,), (merged_width,))
        linear("vision/deepstack/fc2", (merged_width,), (t.width,))

    vector("text/embed", "", "weight", (t.vocab_size, t.width))
    vector("text/layers/input_norm", "", "weight", (t.width,))
    linear("text/layers/attn/q", (t.width,), (t.heads, t.head_dim), t.qkv_bias)
    linear("text/layers/attn/k", (t.width,), (t.kv_heads, t.head_dim), t.qkv_bias)
    linear("text/layers/attn/v", (t.width,), (t.kv_heads, t.head_dim), t.qkv_bias)
    if t.qk_norm:
        norm("text/layers/attn/q_norm", t.head_dim, False)
        norm("text/layers/attn/k_norm", t.head_dim, False)
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
