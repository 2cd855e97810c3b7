"""Tiny models, random parameters and exact comparison for the checkpoint tests."""

import dataclasses

import jax
import numpy as np
from flax import traverse_util
from hypothesis import strategies as st

from livecc_jax.checkpoints.weight_names import weight_name_table
from livecc_jax.model.config import ModelConfig, TextConfig, VisionConfig
from livecc_jax.model.presets import preset


def tiny_config(tied=False):
    """Returns the tiny preset with 48 tokens."""
    tiny = preset("tiny")
    return dataclasses.replace(tiny, text=dataclasses.replace(tiny.text, vocab_size=48, tied=tied))


def random_params(config, dtype=np.float32, seed=0):
    """Returns normally distributed parameters of an architecture."""
    rng = np.random.default_rng(seed)
    flat = {e.path: rng.standard_normal(e.full_shape).astype(dtype) for e in weight_name_table(config)}
    return traverse_util.unflatten_dict(flat, sep="/")


def assert_bits_equal(a, b):
    """Asserts that two trees are equal in structure, dtype and every bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        assert np.dtype(x.dtype) == np.dtype(y.dtype)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


@st.composite
def architectures(draw):
    """Draws small architectures of every kind: heads, groups, depths, coprime widths, tied or not."""
    kv_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    section = draw(st.sampled_from([(1, 1, 2), (2, 3, 3), (2, 1, 1)]))
    text = TextConfig(
        vocab_size=draw(st.integers(11, 40)),
        width=2 * sum(section) * kv_heads * group,
        layers=draw(st.integers(1, 3)),
        heads=kv_heads * group,
        kv_heads=kv_heads,
        mlp=draw(st.integers(3, 20)),
        mrope_section=section,
        tied=draw(st.booleans()),
    )
    heads = draw(st.integers(1, 2))
    width = 8 * heads * draw(st.integers(1, 2))
    vision = VisionConfig(depth=draw(st.integers(1, 2)), width=width, heads=heads, mlp=2 * width)
    return ModelConfig(text, vision)
