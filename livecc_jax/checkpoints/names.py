"""The one two-way table between our parameters and HuggingFace's tensor names.

Reading and writing both walk it, so they cannot disagree. Names are those of the 2024 layout, which
every version of transformers and every serving stack loads; the prefixes of later layouts are
accepted on reading (`canonical`).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from livecc_jax.model.config import ModelConfig

EMBED = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Entry:
    """One of our parameters and the tensors that hold it.

    Attributes:
        path: our name, the nested dict's keys joined by "/".
        names: HuggingFace's names: one, or one a layer when ours is a stack of layers.
        stacked: whether ours has a leading layer axis.
        shape: of one layer of ours.
        hf_shape: of one of the tensors.
        inputs: product of the input dimensions of a kernel, which HuggingFace keeps transposed
            ([out, in]); 0 for what is not a kernel.
    """

    path: str
    names: tuple[str, ...]
    stacked: bool
    shape: tuple[int, ...]
    hf_shape: tuple[int, ...]
    inputs: int = 0

    @property
    def full_shape(self) -> tuple[int, ...]:
        """Shape of our array, layers first when stacked."""
        return (len(self.names), *self.shape) if self.stacked else self.shape

    def to_hf(self, array: np.ndarray) -> np.ndarray:
        """One layer of ours as HuggingFace's tensor: the same values in another order."""
        if self.inputs:
            array = array.reshape(self.inputs, -1).T
        return array.reshape(self.hf_shape)

    def from_hf(self, array: np.ndarray) -> np.ndarray:
        """HuggingFace's tensor as one layer of ours, as a view."""
        if self.inputs:
            array = array.reshape(-1, self.inputs).T
        return array.reshape(self.shape)


def canonical(name: str) -> str:
    """The 2024 name of a tensor stored under a later layout's name."""
    for later, now in (("model.language_model.", "model."), ("model.visual.", "visual.")):
        if name.startswith(later):
            return now + name.removeprefix(later)
    return name


def is_derived(name: str) -> bool:
    """Whether a tensor can be computed from the configuration, and so is not a weight."""
    return name.endswith("rotary_emb.inv_freq") or name.endswith("rotary_pos_emb.inv_freq")


@functools.cache
def table(config: ModelConfig) -> tuple[Entry, ...]:
    """Every parameter of a model, in the order the network uses them."""
    t, v = config.text, config.vision
    entries: list[Entry] = []

    def add(path: str, name: str, shape: tuple[int, ...], layers: int = 0, hf: tuple = ()) -> None:
        names = tuple(name.format(i=i) for i in range(layers)) if layers else (name,)
        entries.append(Entry(path, names, bool(layers), shape, hf or shape))

    def kernel(
        path: str,
        name: str,
        into: tuple[int, ...],
        out: tuple[int, ...],
        layers: int = 0,
        hf: tuple = (),
    ) -> None:
        names = tuple(name.format(i=i) for i in range(layers)) if layers else (name,)
        inputs = math.prod(into)
        hf = hf or (math.prod(out), inputs)
        entries.append(Entry(path, names, bool(layers), (*into, *out), hf, inputs))

    def biased(path: str, name: str, into: tuple, out: tuple, layers: int = 0) -> None:
        kernel(f"{path}/kernel", f"{name}.weight", into, out, layers)
        add(f"{path}/bias", f"{name}.bias", out, layers, (math.prod(out),))

    def layer_norm(path: str, name: str, layers: int = 0) -> None:
        add(f"{path}/scale", f"{name}.weight", (v.width,), layers)
        add(f"{path}/bias", f"{name}.bias", (v.width,), layers)

    # The convolution's kernel covers exactly one patch, so it is a linear map over its values.
    conv = (v.width, v.channels, v.temporal_patch_size, v.patch_size, v.patch_size)
    kernel(
        "vision/patch_embed",
        "visual.patch_embed.proj.weight",
        (v.patch_values,),
        (v.width,),
        hf=conv,
    )
    ours, theirs, heads = "vision/blocks", "visual.blocks.{i}", (v.heads, v.head_dim)
    layer_norm(f"{ours}/norm1", f"{theirs}.norm1", v.depth)
    biased(f"{ours}/attn/qkv", f"{theirs}.attn.qkv", (v.width,), (3, *heads), v.depth)
    biased(f"{ours}/attn/proj", f"{theirs}.attn.proj", heads, (v.width,), v.depth)
    layer_norm(f"{ours}/norm2", f"{theirs}.norm2", v.depth)
    biased(f"{ours}/mlp/fc1", f"{theirs}.mlp.fc1", (v.width,), (v.mlp,), v.depth)
    biased(f"{ours}/mlp/fc2", f"{theirs}.mlp.fc2", (v.mlp,), (v.width,), v.depth)
    fused = v.width * v.merge_size**2
    layer_norm("vision/merger/norm", "visual.merger.ln_q")
    biased("vision/merger/fc1", "visual.merger.mlp.0", (fused,), (fused,))
    biased("vision/merger/fc2", "visual.merger.mlp.2", (fused,), (t.width,))

    add("text/embed", EMBED, (t.vocab_size, t.width))
    ours, theirs, d = "text/layers", "model.layers.{i}", t.head_dim
    add(f"{ours}/input_norm", f"{theirs}.input_layernorm.weight", (t.width,), t.layers)
    for one, count in (("q", t.heads), ("k", t.kv_heads), ("v", t.kv_heads)):
        biased(f"{ours}/attn/{one}", f"{theirs}.self_attn.{one}_proj", (t.width,), (count, d), t.layers)
    kernel(
        f"{ours}/attn/o/kernel",
        f"{theirs}.self_attn.o_proj.weight",
        (t.heads, d),
        (t.width,),
        t.layers,
    )
    add(f"{ours}/post_norm", f"{theirs}.post_attention_layernorm.weight", (t.width,), t.layers)
    for one, into, out in (
        ("gate", t.width, t.mlp),
        ("up", t.width, t.mlp),
        ("down", t.mlp, t.width),
    ):
        name = f"{theirs}.mlp.{one}_proj.weight"
        kernel(f"{ours}/mlp/{one}/kernel", name, (into,), (out,), t.layers)
    add("text/norm", "model.norm.weight", (t.width,))
    if not t.tied:
        kernel("text/head", HEAD, (t.width,), (t.vocab_size,))
    return tuple(entries)
